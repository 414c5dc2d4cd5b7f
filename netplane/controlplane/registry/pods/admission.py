"""What the cluster adds to a pod as it is created: service account, priority, tolerations, quality of service."""

from __future__ import annotations

from collections.abc import Mapping

from netplane.kube import quantity
from netplane.kube.types import Object

TOKEN_MOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
_TOKEN_SECONDS = 3607
_TOLERATED_SECONDS = 300
_TAINTS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


def prepare(pod: Object) -> None:
    """Add what needs no other object: a default service account, the 300 s tolerations, a pending status."""
    spec = pod.setdefault("spec", {})
    name = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
    spec["serviceAccountName"] = spec["serviceAccount"] = name
    spec.setdefault("priority", 0)
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    _tolerate(spec)
    pod["status"] = {"phase": "Pending", "qosClass": quality(spec)}
    if spec.get("schedulingGates"):
        condition = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}
        condition["message"] = "Scheduling is blocked due to non-empty scheduling gates"
        pod["status"]["conditions"] = [condition]


def _tolerate(spec: Object) -> None:
    tolerations = spec.setdefault("tolerations", [])
    for taint in _TAINTS:
        if not any(_matches(each, taint) for each in tolerations):
            added = {"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": _TOLERATED_SECONDS}
            tolerations.append(added)


def _matches(toleration: Object, taint: str) -> bool:
    key, effect = toleration.get("key", ""), toleration.get("effect", "")
    return key in ("", taint) and effect in ("", "NoExecute")


def quality(spec: Object) -> str:
    """Return the quality of service class: Guaranteed when every container's limits are its requests."""
    containers = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    amounts = [_amounts(each.get("resources") or {}) for each in containers]
    if not any(requests or limits for requests, limits in amounts):
        return "BestEffort"
    if all(len(limits) == 2 and requests in ({}, limits) for requests, limits in amounts):
        return "Guaranteed"
    return "Burstable"


def _amounts(resources: Object) -> tuple[dict[str, object], dict[str, object]]:
    return _counted(resources.get("requests") or {}), _counted(resources.get("limits") or {})


def _counted(amounts: Mapping[str, str]) -> dict[str, object]:
    values = {name: quantity.parse(amounts[name]) for name in ("cpu", "memory") if name in amounts}
    return {name: value for name, value in values.items() if value}


def set_priority(pod: Object, priority_class: Object | None) -> str:
    """Give the pod the priority of its class, or of the cluster's default class; return what forbids it, or ""."""
    spec = pod["spec"]
    if priority_class is None and "priority" not in spec and "preemptionPolicy" not in spec:
        return ""
    value = priority_class["value"] if priority_class else 0
    policy = (priority_class or {}).get("preemptionPolicy", "PreemptLowerPriority")
    asked, wanted = spec.get("priority"), spec.get("preemptionPolicy")
    must = "must not be provided in pod spec; priority admission controller computed"
    if asked is not None and asked != value:
        return f"the integer value of priority ({asked}) {must} {value} from the given PriorityClass name"
    if wanted is not None and wanted != policy:
        return f"the string value of PreemptionPolicy ({wanted}) {must} {policy} from the given PriorityClass name"
    if priority_class is not None:
        spec["priorityClassName"] = priority_class["metadata"]["name"]
        spec["priority"], spec["preemptionPolicy"] = value, policy
    return ""


def mount_token(pod: Object, service_account: Object, *, suffix: str) -> None:
    """Mount the account's token, the cluster's CA and the namespace's name into every container, unless declined.

    `suffix` makes the volume's name unique: five random characters.
    """
    spec = pod["spec"]
    if "imagePullSecrets" not in spec and service_account.get("imagePullSecrets"):
        spec["imagePullSecrets"] = service_account["imagePullSecrets"]
    wanted = spec.get("automountServiceAccountToken", service_account.get("automountServiceAccountToken", True))
    containers = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    bare = [each for each in containers if all(m["mountPath"] != TOKEN_MOUNT for m in each.get("volumeMounts") or ())]
    if not wanted or not bare:
        return
    name = f"kube-api-access-{suffix}"
    spec.setdefault("volumes", []).append({"name": name, "projected": _projected()})
    for each in bare:
        each.setdefault("volumeMounts", []).append({"name": name, "mountPath": TOKEN_MOUNT, "readOnly": True})


def _projected() -> Object:
    ca = {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    token = {"expirationSeconds": _TOKEN_SECONDS, "path": "token"}
    sources = [{"serviceAccountToken": token}, {"configMap": ca}, {"downwardAPI": {"items": [namespace]}}]
    return {"sources": sources, "defaultMode": 0o644}
