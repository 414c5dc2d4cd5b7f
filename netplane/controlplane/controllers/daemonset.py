"""Run one Pod of a DaemonSet on every Node that it may run on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from netplane.controlplane.controllers import conditions, owners, pods, revisions, rollout, templates, writes
from netplane.controlplane.controllers.view import View
from netplane.controlplane.scheduler import affinity, taints
from netplane.kube import meta
from netplane.kube.types import DAEMONSETS, NODES, PODS, Key, Object, key_of

GENERATION = "pod-template-generation"
TOLERATED = (
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
)


@dataclass(frozen=True, slots=True)
class _Place:
    """A Node (or the name of one that is gone), whether the set's Pod may start and stay there, and its Pods there."""

    name: str
    may_start: bool
    may_stay: bool
    pods: tuple[Object, ...]


def decide(view: View, key: Key, now: datetime) -> Sequence[writes.Write]:
    """Return the Pods to create and delete, the revision to keep, and the status."""
    daemon_set = view.get(DAEMONSETS, key)
    if daemon_set is None or meta.is_deleting(daemon_set):
        return ()
    mine, adoptions = owners.claim(view, daemon_set, DAEMONSETS, PODS)
    held = revisions.history(view, daemon_set)
    if todo := adoptions or revisions.sync(daemon_set, DAEMONSETS, held):
        return todo
    places = _places(view, daemon_set, mine)
    todo = [write for place in places for write in _manage(daemon_set, place, now)]
    rolls = (daemon_set["spec"].get("updateStrategy") or {}).get("type", "RollingUpdate") == "RollingUpdate"
    if not todo and rolls:
        todo = _roll(daemon_set, places, now)
    in_use = {meta.labels(pod).get(revisions.HASH, "") for pod in mine}
    if todo:
        return sorted(todo, key=lambda write: not isinstance(write, writes.Delete))
    return [*revisions.forget(daemon_set, held, in_use), *_status(daemon_set, places, now)]


def _places(view: View, daemon_set: Object, mine: list[Object]) -> list[_Place]:
    by_node: dict[str, list[Object]] = {}
    for pod in mine:
        by_node.setdefault(_node_of(pod), []).append(pod)
    demand = affinity.demand(daemon_set["spec"]["template"]["spec"])
    tolerations = _tolerations(daemon_set)
    places = []
    for node in view.all(NODES):
        name = node["metadata"]["name"]
        wanted = demand.accepts(meta.labels(node), name)
        spots = node["spec"].get("taints") or ()
        starts = wanted and taints.untolerated(tolerations, spots, ("NoSchedule", "NoExecute")) is None
        stays = wanted and taints.untolerated(tolerations, spots, ("NoExecute",)) is None
        places.append(_Place(name, starts, stays, tuple(by_node.pop(name, ()))))
    return places + [_Place(name, False, False, tuple(by_node[name])) for name in sorted(by_node)]


def _node_of(pod: Object) -> str:
    return pod["spec"].get("nodeName") or affinity.demand(pod["spec"]).only_node or ""


def _tolerations(daemon_set: Object) -> list[Object]:
    spec = daemon_set["spec"]["template"]["spec"]
    extra = list(TOLERATED)
    if spec.get("hostNetwork"):
        extra.append(("node.kubernetes.io/network-unavailable", "NoSchedule"))
    ours = [{"key": key, "operator": "Exists", "effect": effect} for key, effect in extra]
    given = list(spec.get("tolerations") or ())
    return given + [toleration for toleration in ours if toleration not in given]


def _manage(daemon_set: Object, place: _Place, now: datetime) -> list[writes.Write]:
    """Return what makes one place right, updates apart."""
    standing = [pod for pod in place.pods if not meta.is_deleting(pod)]
    if not place.may_stay:
        return [_delete(daemon_set, pod) for pod in standing]
    if not place.pods:
        return [writes.Create(PODS, _pod(daemon_set, place.name), daemon_set)] if place.may_start else []
    todo: list[writes.Write] = []
    for pod in standing:
        if pods.is_terminal(pod):
            told = f"Found failed daemon pod {'/'.join(key_of(pod))} on node {place.name}, will try to kill it"
            todo += [writes.Event(daemon_set, "Warning", "FailedDaemonPod", told), _delete(daemon_set, pod)]
    running = [pod for pod in standing if not pods.is_terminal(pod)]
    fresh = [pod for pod in running if _is_updated(daemon_set, pod)]
    old = [pod for pod in running if not _is_updated(daemon_set, pod)]
    for kin in (fresh, old):
        kin.sort(key=lambda pod: (not pod["spec"].get("nodeName"), pod["metadata"].get("creationTimestamp") or ""))
        todo += [_delete(daemon_set, pod) for pod in kin[1:]]
    if fresh and old and _is_available(daemon_set, fresh[0], now):
        todo.append(_delete(daemon_set, old[0]))
    return todo


def _roll(daemon_set: Object, places: list[_Place], now: datetime) -> list[writes.Write]:
    """Return the next replacements of Pods of an old template: within maxUnavailable, or ahead within maxSurge."""
    given = (daemon_set["spec"].get("updateStrategy") or {}).get("rollingUpdate") or {}
    wanted = [place for place in places if place.may_start]
    surge = rollout.scaled(given.get("maxSurge", 0), len(wanted), up=True)
    unavailable = rollout.scaled(given.get("maxUnavailable", 1), len(wanted), up=True)
    if surge == 0 and unavailable == 0:
        unavailable = 1
    outdated, missing, doubled = [], 0, 0
    for place in wanted:
        standing = [pod for pod in place.pods if not meta.is_deleting(pod)]
        available = any(_is_available(daemon_set, pod, now) for pod in standing)
        missing += not available
        doubled += len(place.pods) > 1
        old = [pod for pod in standing if not _is_updated(daemon_set, pod)]
        if old and len(standing) == 1:
            outdated.append((available, place.name, old[0]))
    todo: list[writes.Write] = []
    for available, name, pod in sorted(outdated, key=lambda entry: entry[:2]):
        if not available:  # it serves nobody: replacing it costs nothing
            todo.append(_delete(daemon_set, pod))
        elif surge and doubled < surge:
            doubled += 1
            todo.append(writes.Create(PODS, _pod(daemon_set, name), daemon_set))
        elif not surge and missing < unavailable:
            missing += 1
            todo.append(_delete(daemon_set, pod))
    return todo


def _is_updated(daemon_set: Object, pod: Object) -> bool:
    return meta.labels(pod).get(revisions.HASH) == revisions.digest(daemon_set)


def _is_available(daemon_set: Object, pod: Object, now: datetime) -> bool:
    return pods.available_in(pod, int(daemon_set["spec"].get("minReadySeconds") or 0), now) == 0.0


def _delete(daemon_set: Object, pod: Object) -> writes.Delete:
    return writes.Delete(PODS, key_of(pod), pod["metadata"]["uid"], about=daemon_set)


def _pod(daemon_set: Object, node: str) -> Object:
    pod = templates.pod(daemon_set, DAEMONSETS)
    extra = {revisions.HASH: revisions.digest(daemon_set), GENERATION: str(daemon_set["metadata"].get("generation", 1))}
    metadata = {**pod["metadata"], "labels": {**pod["metadata"].get("labels", {}), **extra}}
    field = {"key": affinity.NAME, "operator": "In", "values": [node]}
    given = pod["spec"].get("affinity") or {}
    bound = {
        **(given.get("nodeAffinity") or {}),
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchFields": [field]}]},
    }
    spec = {**pod["spec"], "affinity": {**given, "nodeAffinity": bound}, "tolerations": _tolerations(daemon_set)}
    return {**pod, "metadata": metadata, "spec": spec}


def _status(daemon_set: Object, places: list[_Place], now: datetime) -> list[writes.Write]:
    spec, held = daemon_set["spec"], daemon_set.get("status") or {}
    minimum = int(spec.get("minReadySeconds") or 0)
    wanted = [place for place in places if place.may_start]
    first = [next((pod for pod in place.pods if not pods.is_terminal(pod)), None) for place in wanted]
    scheduled = [pod for pod in first if pod is not None]
    standing = [pod for place in wanted for pod in place.pods if pods.is_active(pod)]
    available = sum(1 for place in wanted if any(pods.available_in(pod, minimum, now) == 0.0 for pod in place.pods))
    status: Object = {
        "currentNumberScheduled": len(scheduled),
        "numberMisscheduled": sum(
            1 for place in places if not place.may_start and any(map(pods.is_active, place.pods))
        ),
        "desiredNumberScheduled": len(wanted),
        "numberReady": sum(1 for place in wanted if any(map(pods.is_ready, place.pods))),
        "observedGeneration": daemon_set["metadata"].get("generation", 0),
        "updatedNumberScheduled": sum(1 for pod in standing if _is_updated(daemon_set, pod)),
        "numberAvailable": available,
        "numberUnavailable": len(wanted) - available,
    }
    for field in ("collisionCount", "conditions"):
        if held.get(field):
            status[field] = held[field]
    _, wait = pods.waits(standing, minimum, now)
    todo: list[writes.Write] = [] if wait is None else [writes.Requeue(wait)]
    if not conditions.same(status, held):
        todo.append(writes.UpdateStatus(DAEMONSETS, writes.with_status(daemon_set, status)))
    return todo
