"""Roll a Deployment from its old ReplicaSets to the one of its template. The arithmetic is `rollout`'s."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from netplane.controlplane.controllers import deployment_status, owners, pods, rollout, templates, writes
from netplane.controlplane.controllers.view import View
from netplane.kube import meta
from netplane.kube.types import DEPLOYMENTS, PODS, REPLICASETS, Key, Object, key_of

REVISION = "deployment.kubernetes.io/revision"
HISTORY = "deployment.kubernetes.io/revision-history"
NOT_COPIED = frozenset(
    {
        "kubectl.kubernetes.io/last-applied-configuration",
        REVISION,
        HISTORY,
        rollout.DESIRED,
        rollout.MAXIMUM,
        "deprecated.deployment.rollback.to",
    }
)


def decide(view: View, key: Key, now: datetime) -> Sequence[writes.Write]:
    """Return the next step of a Deployment's rollout, and its status."""
    deployment = view.get(DEPLOYMENTS, key)
    if deployment is None or meta.is_deleting(deployment):
        return ()
    mine, adoptions = owners.claim(view, deployment, DEPLOYMENTS, REPLICASETS)
    if adoptions:
        return adoptions
    mine.sort(key=lambda found: (found["metadata"].get("creationTimestamp") or "", found["metadata"]["name"]))
    template = deployment["spec"]["template"]
    new = next((found for found in mine if templates.same(found["spec"]["template"], template)), None)
    old = [found for found in mine if found is not new]
    if deployment["spec"].get("paused"):
        return _resize(deployment, new, old, rollout.rescale(deployment, new, old), now)
    if new is None:
        return _begin(view, deployment, old, now)
    if _is_scaling(deployment, mine):
        return _resize(deployment, new, old, rollout.rescale(deployment, new, old), now)
    if rollout.is_rolling(deployment):
        sizes = rollout.roll(deployment, new, old)
    else:
        sizes = _recreate(view, deployment, new, old)
    return _resize(deployment, new, old, sizes, now)


def _is_scaling(deployment: Object, mine: list[Object]) -> bool:
    """Say whether `spec.replicas` differs from what the active ReplicaSets were last sized for."""
    for found in mine:
        noted = (found["metadata"].get("annotations") or {}).get(rollout.DESIRED)
        if rollout.replicas(found) and noted and noted != str(rollout.replicas(deployment)):
            return True
    return False


def _recreate(view: View, deployment: Object, new: Object, old: list[Object]) -> rollout.Sizes:
    """Return the old ones' size 0, and the new one's only when no old Pod runs any more."""
    grown = rollout.replicas(deployment) if not _old_pods_run(view, old) else rollout.replicas(new)
    return {**{rollout.name(found): 0 for found in old}, rollout.name(new): grown}


def _old_pods_run(view: View, old: list[Object]) -> bool:
    return any(
        not pods.is_terminal(pod) for found in old for pod in view.controlled(PODS, found["metadata"]["uid"])
    ) or any(rollout.replicas(found) for found in old)


def _begin(view: View, deployment: Object, old: list[Object], now: datetime) -> list[writes.Write]:
    """Return the creation of the ReplicaSet for a template that has none yet."""
    if not rollout.is_rolling(deployment) and _old_pods_run(view, old):
        return _resize(deployment, None, old, dict.fromkeys(map(rollout.name, old), 0), now)
    collisions = (deployment.get("status") or {}).get("collisionCount")
    name = f"{deployment['metadata']['name']}-{templates.digest(deployment['spec']['template'], collisions)}"
    if view.get(REPLICASETS, (deployment["metadata"]["namespace"], name)) is not None:
        status = {**(deployment.get("status") or {}), "collisionCount": int(collisions or 0) + 1}
        return [writes.UpdateStatus(DEPLOYMENTS, writes.with_status(deployment, status))]
    size = rollout.new_size(deployment, old, 0)
    todo: list[writes.Write] = [writes.Create(REPLICASETS, _replica_set(deployment, old, name, size))]
    if size:
        todo.append(_scaled(deployment, name, 0, size))
    status = deployment_status.begun(deployment, name, now)
    return [*todo, writes.UpdateStatus(DEPLOYMENTS, writes.with_status(deployment, status))]


def _replica_set(deployment: Object, old: list[Object], name: str, size: int) -> Object:
    spec, metadata = deployment["spec"], deployment["metadata"]
    digest = name.rpartition("-")[2]
    given = spec["template"].get("metadata") or {}
    labels = {**(given.get("labels") or {}), templates.HASH: digest}
    selector = spec["selector"]
    selector = {**selector, "matchLabels": {**(selector.get("matchLabels") or {}), templates.HASH: digest}}
    return {
        "apiVersion": REPLICASETS.api_version,
        "kind": REPLICASETS.kind,
        "metadata": {
            "name": name,
            "namespace": metadata["namespace"],
            "labels": labels,
            "annotations": {**_copied(deployment), **_noted(deployment), REVISION: str(_revision(old) + 1)},
            "ownerReferences": [owners.reference(deployment, DEPLOYMENTS)],
        },
        "spec": {
            "replicas": size,
            "minReadySeconds": int(spec.get("minReadySeconds") or 0),
            "selector": selector,
            "template": {**spec["template"], "metadata": {**given, "labels": labels}},
        },
    }


def _resize(
    deployment: Object, new: Object | None, old: list[Object], sizes: rollout.Sizes, now: datetime
) -> list[writes.Write]:
    """Return the patches towards these sizes, then the bookkeeping: revision, history, status."""
    todo: list[writes.Write] = []
    for found in (*old, *([new] if new else [])):
        todo += _patch(deployment, found, sizes[rollout.name(found)], old, is_new=found is new)
    revision = (new["metadata"].get("annotations") or {}).get(REVISION) if new else None
    held = (deployment["metadata"].get("annotations") or {}).get(REVISION)
    if todo:
        return todo  # what they change asks for the next decision, and that one tells the status
    if new and revision and revision != held:
        guard = {"uid": deployment["metadata"]["uid"], "annotations": {REVISION: revision}}
        return [writes.Patch(DEPLOYMENTS, key_of(deployment), {"metadata": guard})]
    status, wait = deployment_status.of(deployment, new, old, now)
    if deployment_status.is_complete(deployment, status):
        todo += _forget(deployment, old)
    return [*todo, *deployment_status.update(deployment, status), *([writes.Requeue(wait)] if wait else [])]


def _patch(
    deployment: Object, replica_set: Object, size: int, old: list[Object], *, is_new: bool
) -> list[writes.Write]:
    metadata, before = replica_set["metadata"], rollout.replicas(replica_set)
    held = metadata.get("annotations") or {}
    annotations = _noted(deployment) if size or size != before else {}
    spec: Object = {"replicas": size} if size != before else {}
    if is_new:
        annotations = {**_copied(deployment), **annotations, **_next_revision(held, old)}
        if (ready := int(deployment["spec"].get("minReadySeconds") or 0)) != int(
            replica_set["spec"].get("minReadySeconds") or 0
        ):
            spec["minReadySeconds"] = ready
    changed = {name: value for name, value in annotations.items() if held.get(name) != value}
    if not changed and not spec:
        return []
    guard: Object = {"resourceVersion": metadata["resourceVersion"], "uid": metadata["uid"]}
    if changed:
        guard["annotations"] = changed
    patch: Object = {"metadata": guard, "spec": spec} if spec else {"metadata": guard}
    todo: list[writes.Write] = [writes.Patch(REPLICASETS, key_of(replica_set), patch)]
    if size != before:
        todo.append(_scaled(deployment, metadata["name"], before, size))
    return todo


def _scaled(deployment: Object, name: str, before: int, size: int) -> writes.Event:
    way = "up" if size > before else "down"
    text = f"Scaled {way} replica set {name} from {before} to {size}"
    return writes.Event(deployment, "Normal", "ScalingReplicaSet", text)


def _noted(deployment: Object) -> dict[str, str]:
    wanted = rollout.replicas(deployment)
    return {rollout.DESIRED: str(wanted), rollout.MAXIMUM: str(wanted + rollout.limits(deployment)[0])}


def _copied(deployment: Object) -> dict[str, str]:
    held = deployment["metadata"].get("annotations") or {}
    return {name: value for name, value in held.items() if name not in NOT_COPIED}


def _next_revision(held: Object, old: list[Object]) -> dict[str, str]:
    """Return the revision annotations of the new ReplicaSet: one above all others; its former ones are its history."""
    before, after = _number(held.get(REVISION)), _revision(old) + 1
    if before >= after:
        return {}
    if before == 0:
        return {REVISION: str(after)}
    history = [part for part in (held.get(HISTORY) or "").split(",") if part]
    return {REVISION: str(after), HISTORY: ",".join([*history, str(before)])}


def _revision(replica_sets: list[Object]) -> int:
    return max(
        (_number((found["metadata"].get("annotations") or {}).get(REVISION)) for found in replica_sets), default=0
    )


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0


def _forget(deployment: Object, old: list[Object]) -> list[writes.Write]:
    """Return the deletions of old ReplicaSets beyond revisionHistoryLimit, the oldest revisions first."""
    limit = deployment["spec"].get("revisionHistoryLimit")
    limit = 10 if limit is None else int(limit)
    idle = [found for found in old if _is_idle(found)]
    idle.sort(key=lambda found: _revision([found]))
    return [
        writes.Delete(REPLICASETS, key_of(found), found["metadata"]["uid"], propagation="Background")
        for found in idle[: max(0, len(idle) - limit)]
    ]


def _is_idle(replica_set: Object) -> bool:
    metadata, status = replica_set["metadata"], replica_set.get("status") or {}
    return (
        rollout.replicas(replica_set) == 0
        and not status.get("replicas")
        and int(metadata.get("generation") or 0) <= int(status.get("observedGeneration") or 0)
        and not meta.is_deleting(replica_set)
    )
