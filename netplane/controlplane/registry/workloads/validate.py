"""What deployments, sets and jobs must fulfil (pkg/apis/apps/validation, pkg/apis/batch/validation)."""

from __future__ import annotations

from typing import Any

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.pods.validate import template_faults
from netplane.controlplane.registry.rules import labels, names
from netplane.controlplane.registry.workloads import jobs
from netplane.kube.types import Object

_MISMATCH = "`selector` does not match template `labels`"
_IMMUTABLE = "field is immutable"
_STATEFUL_UPDATE = (
    "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "
    "'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
)


def deployment(obj: Object) -> list[Fault]:
    """Return every fault of a Deployment."""
    spec = obj["spec"]
    found = _not_negative(spec, "replicas", "minReadySeconds", "revisionHistoryLimit")
    found += _selector(spec, "deployment") + _template(spec, "ReplicaSet")
    strategy = spec["strategy"]
    if strategy["type"] == "Recreate":
        if strategy.get("rollingUpdate") is not None:
            detail = "may not be specified when strategy `type` is 'Recreate'"
            found.append(faults.forbidden("spec.strategy.rollingUpdate", detail))
    elif strategy["type"] == "RollingUpdate":
        found += _rolling(strategy.get("rollingUpdate") or {}, "spec.strategy.rollingUpdate")
    else:
        found.append(faults.not_supported("spec.strategy.type", strategy["type"], ("Recreate", "RollingUpdate")))
    deadline, ready = spec.get("progressDeadlineSeconds"), spec.get("minReadySeconds", 0)
    if deadline is not None:
        found += _not_negative(spec, "progressDeadlineSeconds")
        if deadline <= ready:
            found.append(
                faults.invalid("spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds")
            )
    return found


def replica_set(obj: Object) -> list[Fault]:
    """Return every fault of a ReplicaSet."""
    spec = obj["spec"]
    return (
        _not_negative(spec, "replicas", "minReadySeconds")
        + _selector(spec, "deployment")
        + _template(spec, "ReplicaSet")
    )


def replication_controller(obj: Object) -> list[Fault]:
    """Return every fault of a ReplicationController, whose selector is a map."""
    spec = obj["spec"]
    found = _not_negative(spec, "replicas", "minReadySeconds")
    selector = spec.get("selector") or {}
    if not selector:
        found.append(faults.required("spec.selector"))
    if not spec.get("template"):
        return [*found, faults.required("spec.template")]
    carried = _labels(spec)
    if any(carried.get(key) != value for key, value in selector.items()):
        found.append(faults.invalid("spec.template.metadata.labels", carried, _MISMATCH))
    return found + _template(spec, "ReplicationController")


def daemon_set(obj: Object) -> list[Fault]:
    """Return every fault of a DaemonSet."""
    spec = obj["spec"]
    found = _not_negative(spec, "minReadySeconds", "revisionHistoryLimit") + _selector(spec, "daemonset")
    found += _template(spec, "DaemonSet")
    strategy = spec["updateStrategy"]
    if strategy["type"] == "RollingUpdate":
        found += _daemon_rolling(strategy.get("rollingUpdate") or {}, "spec.updateStrategy.rollingUpdate")
    elif strategy["type"] != "OnDelete":
        found.append(faults.not_supported("spec.updateStrategy.type", strategy["type"], ("OnDelete", "RollingUpdate")))
    return found


def stateful_set(obj: Object) -> list[Fault]:
    """Return every fault of a StatefulSet."""
    spec = obj["spec"]
    found = _not_negative(spec, "replicas", "minReadySeconds", "revisionHistoryLimit") + _selector(spec, "statefulset")
    found += _template(spec, "StatefulSet")
    policy = spec["podManagementPolicy"]
    if policy not in ("OrderedReady", "Parallel"):
        detail = "must be 'OrderedReady' or 'Parallel'"
        found.append(faults.invalid("spec.podManagementPolicy", policy, detail))
    found += _stateful_update_strategy(spec["updateStrategy"], "spec.updateStrategy")
    start = (spec.get("ordinals") or {}).get("start", 0)
    if start < 0:
        found.append(faults.invalid("spec.ordinals.start", start, names.NOT_NEGATIVE))
    retention = spec.get("persistentVolumeClaimRetentionPolicy") or {}
    for name in ("whenDeleted", "whenScaled"):
        value = retention.get(name, "Retain")
        if value not in ("Retain", "Delete"):
            path = f"spec.persistentVolumeClaimRetentionPolicy.{name}"
            found.append(faults.not_supported(path, value, ("Delete", "Retain")))
    return found


def _stateful_update_strategy(strategy: Object, path: str) -> list[Fault]:
    kind, rolling = strategy["type"], strategy.get("rollingUpdate")
    if kind not in ("RollingUpdate", "OnDelete"):
        return [faults.invalid(path, strategy, "must be 'RollingUpdate' or 'OnDelete'")]
    if rolling is None:
        return []
    at = f"{path}.rollingUpdate"
    if kind == "OnDelete":
        return [faults.invalid(at, rolling, "only allowed for updateStrategy 'RollingUpdate'")]
    found = _not_negative(rolling, "partition", path=at)
    unavailable = rolling.get("maxUnavailable")
    if unavailable is not None:
        found += _amount(unavailable, f"{at}.maxUnavailable") + _over_all(unavailable, f"{at}.maxUnavailable")
        if _is_zero(unavailable):
            found.append(faults.invalid(f"{at}.maxUnavailable", unavailable, "cannot be 0"))
    return found


def job(obj: Object) -> list[Fault]:
    """Return every fault of a Job."""
    spec = obj["spec"]
    found = job_spec(spec, "spec")
    if not spec.get("selector"):
        found.append(faults.required("spec.selector"))
    elif not labels.matches(spec["selector"], _labels(spec)):
        found.append(faults.invalid("spec.template.metadata.labels", _labels(spec), _MISMATCH))
    return found


def job_spec(spec: Object, path: str) -> list[Fault]:
    """Return every fault of a JobSpec but its selector."""
    counts = (
        "parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished",
        "backoffLimitPerIndex", "maxFailedIndexes",
    )  # fmt: skip
    found = _not_negative(spec, *counts, path=path) + jobs.progress_faults(spec, path)
    return found + template_faults(spec["template"], f"{path}.template") + jobs.restart_faults(spec, path)


def cron_job(obj: Object) -> list[Fault]:
    """Return every fault of a CronJob but those of when it runs: what was taken before there were rules stays."""
    spec = obj["spec"]
    found: list[Fault] = []
    names_of_policies = ("Allow", "Forbid", "Replace")
    if spec.get("concurrencyPolicy") not in names_of_policies:
        found.append(faults.not_supported("spec.concurrencyPolicy", spec.get("concurrencyPolicy"), names_of_policies))
    found += _not_negative(
        spec, "startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"
    )  # fmt: skip
    name = obj["metadata"].get("name", "")
    if len(name) > 52:
        found.append(faults.invalid("metadata.name", name, "must be no more than 52 characters"))
    wanted, path = spec["jobTemplate"]["spec"], "spec.jobTemplate.spec"
    found += job_spec(wanted, path)
    if wanted.get("selector") is not None:
        found.append(faults.invalid(f"{path}.selector", wanted["selector"], "`selector` will be auto-generated"))
    if wanted.get("manualSelector"):
        found.append(faults.not_supported(f"{path}.manualSelector", True, ("nil", "false")))
    return found


def prepare_job(obj: Object) -> None:
    """Give a new Job its selector: its own uid, on its pods too, unless it manages its selector itself."""
    spec = obj["spec"]
    if spec.get("manualSelector"):
        return
    uid, name = obj["metadata"]["uid"], obj["metadata"].get("name", "")
    carried = spec["template"].setdefault("metadata", {}).setdefault("labels", {})
    for prefix in ("", "batch.kubernetes.io/"):
        carried[f"{prefix}controller-uid"] = uid
        carried[f"{prefix}job-name"] = name
    spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}


def selector_update(new: Object, old: Object) -> list[Fault]:
    """A workload's selector never changes."""
    if new["spec"].get("selector") != old["spec"].get("selector"):
        return [faults.invalid("spec.selector", new["spec"].get("selector"), _IMMUTABLE)]
    return []


def stateful_set_update(new: Object, old: Object) -> list[Fault]:
    """Little of a StatefulSet's spec may change."""
    free = (
        "replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy", "minReadySeconds",
    )  # fmt: skip
    kept = {key: value for key, value in new["spec"].items() if key not in free}
    was = {key: value for key, value in old["spec"].items() if key not in free}
    return [] if kept == was else [faults.forbidden("spec", _STATEFUL_UPDATE)]


def job_update(new: Object, old: Object) -> list[Fault]:
    """What a Job runs, and how it is judged, never changes; where it runs may while it waits for its first start."""
    spec, before = new["spec"], old["spec"]
    found = _completions_update(spec, before) + selector_update(new, old)
    may_move = before.get("suspend") and not (old.get("status") or {}).get("startTime")
    kept, was = (_unmovable(each["template"]) if may_move else each["template"] for each in (spec, before))
    if kept != was:
        found.append(faults.invalid("spec.template", spec["template"], _IMMUTABLE))
    for name in ("completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"):
        if spec.get(name) != before.get(name):
            found.append(faults.invalid(f"spec.{name}", spec.get(name), _IMMUTABLE))
    return found


def _completions_update(spec: Object, before: Object) -> list[Fault]:
    """Completions change with the parallelism of an indexed Job alone (KEP-3715)."""
    now, was = spec.get("completions"), before.get("completions")
    if now == was:
        return []
    if spec.get("completionMode") != "Indexed" or now is None or was is None:
        return [faults.invalid("spec.completions", now, _IMMUTABLE)]
    detail = "can only be modified in tandem with spec.parallelism"
    return [] if now == spec.get("parallelism") else [faults.invalid("spec.completions", now, detail)]


def _unmovable(template: Object) -> Object:
    """Return what of a template does not say where its pods may run (KEP-2926)."""
    metadata, spec = template.get("metadata") or {}, template.get("spec") or {}
    others = {key: value for key, value in (spec.get("affinity") or {}).items() if key != "nodeAffinity" and value}
    kept = {k: v for k, v in spec.items() if k not in ("affinity", "nodeSelector", "tolerations", "schedulingGates")}
    return {
        "metadata": {key: value for key, value in metadata.items() if key not in ("annotations", "labels")},
        "spec": {**kept, "affinity": others},
    }


def revision(obj: Object) -> list[Fault]:
    """Return every fault of a ControllerRevision."""
    return _not_negative(obj, "revision", path="")


def revision_update(new: Object, old: Object) -> list[Fault]:
    """A revision's data never changes."""
    return [] if new.get("data") == old.get("data") else [faults.invalid("data", new.get("data"), _IMMUTABLE)]


def _not_negative(spec: Object, *fields: str, path: str = "spec") -> list[Fault]:
    prefix = f"{path}." if path else ""
    return [
        faults.invalid(f"{prefix}{name}", spec[name], names.NOT_NEGATIVE)
        for name in fields
        if spec.get(name) is not None and spec[name] < 0
    ]


def _labels(spec: Object) -> dict[str, str]:
    return ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}


def _selector(spec: Object, what: str) -> list[Fault]:
    selector = spec.get("selector")
    if selector is None:
        mismatch = faults.invalid("spec.template.metadata.labels", _labels(spec), _MISMATCH)
        return [faults.required("spec.selector"), mismatch]
    found = labels.selector_faults(selector, "spec.selector")
    if labels.is_empty(selector):
        found.append(faults.invalid("spec.selector", selector, f"empty selector is invalid for {what}"))
    elif not found and not labels.matches(selector, _labels(spec)):
        found.append(faults.invalid("spec.template.metadata.labels", _labels(spec), _MISMATCH))
    return found


def _template(spec: Object, kind: str) -> list[Fault]:
    found = template_faults(spec["template"], "spec.template")
    pod = spec["template"].get("spec") or {}
    if pod.get("restartPolicy") != "Always":
        at = "spec.template.spec.restartPolicy"
        found.append(faults.not_supported(at, pod.get("restartPolicy") or "", ("Always",)))
    if pod.get("activeDeadlineSeconds") is not None:
        detail = f"activeDeadlineSeconds in {kind} is not Supported"
        found.append(faults.forbidden("spec.template.spec.activeDeadlineSeconds", detail))
    return found


def _amount(value: Any, path: str) -> list[Fault]:
    if isinstance(value, str):
        return [] if names.is_percent(value) else [faults.invalid(path, value, names.PERCENT_TEXT)]
    return [faults.invalid(path, value, names.NOT_NEGATIVE)] if value < 0 else []


def _is_zero(value: Any) -> bool:
    return value in (0, "0%")


def _over_all(value: Any, path: str) -> list[Fault]:
    over = isinstance(value, str) and names.is_percent(value) and int(value[:-1]) > 100
    return [faults.invalid(path, value, "must not be greater than 100%")] if over else []


def _rolling(rolling: Object, path: str) -> list[Fault]:
    unavailable, surge = rolling.get("maxUnavailable", 0), rolling.get("maxSurge", 0)
    found = _amount(unavailable, f"{path}.maxUnavailable") + _amount(surge, f"{path}.maxSurge")
    if _is_zero(unavailable) and _is_zero(surge):
        detail = "may not be 0 when `maxSurge` is 0"
        found.append(faults.invalid(f"{path}.maxUnavailable", unavailable, detail))
    return found + _over_all(unavailable, f"{path}.maxUnavailable")


def _daemon_rolling(rolling: Object, path: str) -> list[Fault]:
    unavailable, surge = rolling.get("maxUnavailable", 0), rolling.get("maxSurge", 0)
    found = _amount(unavailable, f"{path}.maxUnavailable") + _amount(surge, f"{path}.maxSurge")
    if _is_zero(unavailable) and _is_zero(surge):
        found.append(faults.required(f"{path}.maxUnavailable", "cannot be 0 when maxSurge is 0"))
    if not _is_zero(unavailable) and not _is_zero(surge):
        detail = "may not be set when maxUnavailable is non-zero"
        found.append(faults.invalid(f"{path}.maxSurge", surge, detail))
    return found + _over_all(unavailable, f"{path}.maxUnavailable") + _over_all(surge, f"{path}.maxSurge")
