"""What the cluster demands of a write and adds to it: namespaces, accounts, addresses."""

from __future__ import annotations

import orjson

from netplane.controlplane.api import (
    access,
    classes,
    cluster,
    escalation,
    options,
    quotas,
    references,
    restriction,
    signing,
    status,
)
from netplane.controlplane.registry import schema, types
from netplane.controlplane.registry.cluster import volumes
from netplane.controlplane.registry.pods import admission as pod_admission
from netplane.kube import apply, known
from netplane.kube.types import Object

_FOR_EVER = frozenset({"default", "kube-system", "kube-public", "kube-node-lease"})
_UNTRACKED = frozenset({"leases", "events"})
"""Written by machines many times a minute and applied by nobody: who owns a field of them is never asked."""
_PRIORITIES = {"system-node-critical": 2000001000, "system-cluster-critical": 2000000000}


def before_create(at: cluster.Cluster, user: access.User, of: types.ResourceType, obj: Object, namespace: str) -> None:
    """Check and complete a new object before its type judges it; raise what forbids it."""
    check_namespace(at, of, obj, namespace)
    if of.crd is not None and of.crd["metadata"].get("deletionTimestamp"):
        why = "create not allowed while custom resource definition is terminating"
        raise status.ApiStatus(405, "MethodNotAllowed", why, details={"group": of.group, "kind": of.plural})
    own = at.get("", "v1", "nodes", "", user.node) if user.node else None
    restriction.create(user, cluster.storage(of), obj, own=own)
    escalation.check(at, user, of, obj, None, namespace)
    if of.kind == "CertificateSigningRequest":
        signing.note_requestor(obj, user)
    elif of.kind in ("PersistentVolumeClaim", "PersistentVolume", "Ingress"):
        classes.fill(at, of, obj)
        if of.group == "":
            volumes.protect(of.kind, obj)
    if of.group == "" and of.kind == "Pod" and not references.is_mirror(obj):
        _admit_pod(at, of, obj, namespace)
        quotas.fill(at, of, obj, namespace)


def check_namespace(at: cluster.Cluster, of: types.ResourceType, obj: Object, namespace: str) -> None:
    """Raise when the namespace of a new object is not there, or going away."""
    if not (of.namespaced and of.is_stored):
        return
    record = at.store.latest("namespaces", ("", namespace))
    if record is None:
        namespaces = at.type_of("", "v1", "namespaces")
        raise status.not_found(namespaces, namespace)
    if b'"deletionTimestamp"' in record.value and orjson.loads(record.value)["metadata"].get("deletionTimestamp"):
        raise status.terminating(namespace, of, obj["metadata"].get("name", ""))


def _admit_pod(at: cluster.Cluster, of: types.ResourceType, pod: Object, namespace: str) -> None:
    spec = pod.setdefault("spec", {})
    account_name = spec.get("serviceAccountName") or spec.get("serviceAccount") or "default"
    account = at.get("", "v1", "serviceaccounts", namespace, account_name)
    if account is not None:
        known.thaw(pod, "spec")
        pod_admission.mount_token(pod, account, suffix=cluster.name_suffix())
    elif account_name != "default":
        name = pod["metadata"].get("name") or pod["metadata"].get("generateName", "")
        raise status.forbidden(
            f'pods "{name}" is forbidden: error looking up service account {namespace}/{account_name}:'
            f' serviceaccount "{account_name}" not found',
            plural="pods",
            name=name,
        )
    priority = _priority_class(at, pod)
    if priority is not None:
        known.thaw(pod, "spec")
    why = pod_admission.set_priority(pod, priority)
    if not why and "overhead" in spec:
        why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
    if why:
        name = pod["metadata"].get("name") or pod["metadata"].get("generateName", "")
        raise status.forbidden(f'pods "{name}" is forbidden: {why}', plural="pods", name=name)


def _priority_class(at: cluster.Cluster, pod: Object) -> Object | None:
    name = pod["spec"].get("priorityClassName")
    if not name:
        held = at.store.cache("priorityclasses.scheduling.k8s.io")
        for record in held.range() if held.records else ():
            if b'"globalDefault":true' not in record.value:
                continue
            found: Object = orjson.loads(record.value)
            if found.get("globalDefault"):
                return found
        return None
    known = at.get("scheduling.k8s.io", "v1", "priorityclasses", "", name)
    if known is not None:
        return known
    if name in _PRIORITIES:
        return {"metadata": {"name": name}, "value": _PRIORITIES[name]}
    pod_name = pod["metadata"].get("name") or pod["metadata"].get("generateName", "")
    raise status.forbidden(
        f'pods "{pod_name}" is forbidden: no PriorityClass with name {name} was found', plural="pods", name=pod_name
    )


def before_update(
    at: cluster.Cluster, user: access.User, of: types.ResourceType, new: Object, old: Object, subresource: str
) -> None:
    """Check a change beyond what its type judges; raise what forbids it."""
    if cluster.storage(of) == signing.STORAGE:
        signing.check_update(at, user, new, old, subresource)
    restriction.update(user, cluster.storage(of), new, old)
    escalation.check(at, user, of, new, old, old["metadata"].get("namespace", ""))


def before_delete(user: access.User, of: types.ResourceType, obj: Object) -> None:
    """Check a deletion; raise what forbids it."""
    restriction.delete(user, cluster.storage(of), obj)
    name = obj["metadata"]["name"]
    if of.kind == "PriorityClass" and of.group == "scheduling.k8s.io" and name.startswith("system-"):
        why = "this is a system priority class and cannot be deleted"
        text = f'priorityclasses.scheduling.k8s.io "{name}" is forbidden: {why}'
        raise status.forbidden(text, plural="priorityclasses", name=name)
    if of.kind == "Namespace" and name in _FOR_EVER:
        raise status.forbidden(
            f'namespaces "{name}" is forbidden: this namespace may not be deleted', plural="namespaces", name=name
        )


def allocate(at: cluster.Cluster, of: types.ResourceType, new: Object, old: Object | None) -> None:
    """Give a Service its addresses and node ports; raise 422 when they are taken or out of range."""
    if of.group == "" and of.kind == "Service":
        at.addresses.allocate(of, new, old)


def track(
    of: types.ResourceType, new: Object, old: Object | None, writing: options.Writing, *, now: str, part: str
) -> None:
    """Note in managedFields which fields this write's manager owns now."""
    if of.plural in _UNTRACKED:
        return
    managed = apply.track(
        old,
        new,
        shape=schema.shape_of(of),
        manager=writing.field_manager,
        now=now,
        subresource=part,
        ignored=not_written(of, new, part),
    )
    if managed:
        new["metadata"]["managedFields"] = managed
    else:
        new["metadata"].pop("managedFields", None)


def not_written(of: types.ResourceType, obj: Object, part: str) -> list[str]:
    """Return the top-level fields that an endpoint leaves alone, and that its writers therefore cannot own."""
    if part == "status":
        return [name for name in obj if name not in ("apiVersion", "kind", "metadata", "status")]
    return ["status"] if of.has_status else []
