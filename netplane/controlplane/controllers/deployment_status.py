"""Tell how far a Deployment's rollout is: counts, and the conditions that `kubectl rollout status` waits for."""

from __future__ import annotations

from datetime import datetime, timedelta

from netplane.controlplane.controllers import conditions, rollout, writes
from netplane.kube.types import DEPLOYMENTS, Object
from netplane.lib import timestamp

NO_DEADLINE = 2**31 - 1


def begun(deployment: Object, name: str, now: datetime) -> Object:
    """Return the status right after the new ReplicaSet was created."""
    status = {**(deployment.get("status") or {})}
    if _deadline(deployment) is None:
        return status
    return _progress(status, "True", "NewReplicaSetCreated", f'Created new replica set "{name}"', now)


def of(deployment: Object, new: Object | None, old: list[Object], now: datetime) -> tuple[Object, float | None]:
    """Return the status that holds now, and the seconds after which a lack of progress would have to be told."""
    held = deployment.get("status") or {}
    status = _counts(deployment, new, old)
    if held.get("collisionCount"):
        status["collisionCount"] = held["collisionCount"]
    if held.get("conditions"):
        status["conditions"] = list(held["conditions"])
    least = rollout.replicas(deployment) - rollout.limits(deployment)[1]
    if status["availableReplicas"] >= least:
        told = ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    else:
        told = ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    status = _available(status, *told, now)
    deadline = _deadline(deployment)
    if deadline is None:
        return conditions.without(status, "Progressing"), None
    if deployment["spec"].get("paused"):
        return _paused(status, now), None
    return _progressed(deployment, new, status, deadline, now)


def is_complete(deployment: Object, status: Object) -> bool:
    """Say whether all replicas are of the new template and available, and nothing else runs."""
    wanted = rollout.replicas(deployment)
    return all(status.get(name) == wanted for name in ("updatedReplicas", "replicas", "availableReplicas"))


def update(deployment: Object, status: Object) -> list[writes.Write]:
    """Return the status update, if there is anything new to tell."""
    if conditions.same(status, deployment.get("status") or {}):
        return []
    told = {name: value for name, value in status.items() if value}
    return [writes.UpdateStatus(DEPLOYMENTS, writes.with_status(deployment, told))]


def _counts(deployment: Object, new: Object | None, old: list[Object]) -> Object:
    everything = [*old, *([new] if new else [])]

    def total(field: str, among: list[Object]) -> int:
        return sum(int((found.get("status") or {}).get(field) or 0) for found in among)

    available = total("availableReplicas", everything)
    return {
        "observedGeneration": deployment["metadata"].get("generation", 0),
        "replicas": total("replicas", everything),
        "updatedReplicas": total("replicas", [new] if new else []),
        "readyReplicas": total("readyReplicas", everything),
        "availableReplicas": available,
        "unavailableReplicas": max(0, sum(rollout.replicas(found) for found in everything) - available),
    }


def _progressed(
    deployment: Object, new: Object | None, status: Object, deadline: int, now: datetime
) -> tuple[Object, float | None]:
    held = conditions.find(status, "Progressing")
    reason = held.get("reason") if held else None
    subject = f'ReplicaSet "{new["metadata"]["name"]}"' if new else f'Deployment "{deployment["metadata"]["name"]}"'
    if reason == "NewReplicaSetAvailable" and status["replicas"] == status["updatedReplicas"]:
        return status, None
    if reason == "DeploymentPaused":
        status = _progress(status, "Unknown", "DeploymentResumed", "Deployment is resumed", now)
    if is_complete(deployment, status):
        text = f"{subject} has successfully progressed."
        return _progress(status, "True", "NewReplicaSetAvailable", text, now), None
    if _moved(deployment.get("status") or {}, status):
        text = f"{subject} is progressing."
        return _progress(status, "True", "ReplicaSetUpdated", text, now), float(deadline)
    if held is None:
        found = f'Found new replica set "{new["metadata"]["name"]}"' if new else "Deployment is progressing."
        return _progress(status, "True", "FoundNewReplicaSet", found, now), float(deadline)
    if reason in ("ProgressDeadlineExceeded", "NewReplicaSetAvailable"):
        return status, None
    since = held.get("lastUpdateTime") or held.get("lastTransitionTime")
    left = (timestamp.parse(since) + timedelta(seconds=deadline) - now).total_seconds() if since else float(deadline)
    if left > 0:
        return status, left + 0.1
    text = f"{subject} has timed out progressing."
    return _progress(status, "False", "ProgressDeadlineExceeded", text, now), None


def _moved(before: Object, after: Object) -> bool:
    """Say whether more is new, ready or available, or less is old, than the last status told."""

    def number(status: Object, name: str) -> int:
        return int(status.get(name) or 0)

    grown = any(
        number(after, name) > number(before, name) for name in ("updatedReplicas", "readyReplicas", "availableReplicas")
    )
    old_before = number(before, "replicas") - number(before, "updatedReplicas")
    return grown or number(after, "replicas") - number(after, "updatedReplicas") < old_before


def _paused(status: Object, now: datetime) -> Object:
    held = conditions.find(status, "Progressing")
    if held and held.get("reason") in ("ProgressDeadlineExceeded", "DeploymentPaused"):
        return status
    return _progress(status, "Unknown", "DeploymentPaused", "Deployment is paused", now)


def _deadline(deployment: Object) -> int | None:
    found = deployment["spec"].get("progressDeadlineSeconds", 600)
    return None if found is None or int(found) == NO_DEADLINE else int(found)


def _available(status: Object, value: str, reason: str, message: str, now: datetime) -> Object:
    held = conditions.find(status, "Available")
    if held and (held.get("status"), held.get("reason")) == (value, reason):
        return status
    return _dated(conditions.ensure(status, "Available", value, reason, message, now), "Available", now)


def _progress(status: Object, value: str, reason: str, message: str, now: datetime) -> Object:
    return _dated(conditions.ensure(status, "Progressing", value, reason, message, now), "Progressing", now)


def _dated(status: Object, kind: str, now: datetime) -> Object:
    """Return the status with `lastUpdateTime` of that condition set: the deadline counts from the last progress."""
    found = conditions.find(status, kind)
    assert found is not None, "the condition was just set"
    return conditions.put(status, {**found, "lastUpdateTime": timestamp.rfc3339(now)})
