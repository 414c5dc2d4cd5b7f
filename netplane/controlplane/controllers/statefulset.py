"""Keep the Pods of a StatefulSet: each with its own number and name, started and replaced in order.

Volume claims are not made here: there is no storage to bind them to yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from netplane.controlplane.controllers import conditions, owners, pods, revisions, templates, writes
from netplane.controlplane.controllers.view import View
from netplane.kube import meta
from netplane.kube.types import PODS, Key, Object, Resource, key_of

STATEFULSETS = Resource("apps", "v1", "statefulsets", "StatefulSet")
POD_NAME = "statefulset.kubernetes.io/pod-name"
POD_INDEX = "apps.kubernetes.io/pod-index"


def decide(view: View, key: Key, now: datetime) -> Sequence[writes.Write]:
    """Return the next Pod (or, in parallel, all) to create, replace or delete, and the status."""
    stateful_set = view.get(STATEFULSETS, key)
    if stateful_set is None or meta.is_deleting(stateful_set):
        return ()
    mine, adoptions = owners.claim(view, stateful_set, STATEFULSETS, PODS)
    held = revisions.history(view, stateful_set)
    if todo := adoptions or revisions.sync(stateful_set, STATEFULSETS, held):
        return todo
    by_number = {number: pod for pod in mine if (number := _number(stateful_set, pod)) is not None}
    todo = _step(stateful_set, by_number, now)
    in_use = {meta.labels(pod).get(revisions.HASH, "").rpartition("-")[2] for pod in mine}
    return [*todo, *revisions.forget(stateful_set, held, in_use), *_status(stateful_set, by_number, now)]


def _number(stateful_set: Object, pod: Object) -> int | None:
    prefix, _, number = pod["metadata"]["name"].rpartition("-")
    return int(number) if prefix == stateful_set["metadata"]["name"] and number.isdigit() else None


def _step(stateful_set: Object, by_number: dict[int, Object], now: datetime) -> list[writes.Write]:
    spec = stateful_set["spec"]
    start = int((spec.get("ordinals") or {}).get("start") or 0)
    replicas = spec.get("replicas")
    wanted = range(start, start + (1 if replicas is None else int(replicas)))
    in_order = spec.get("podManagementPolicy", "OrderedReady") == "OrderedReady"
    todo: list[writes.Write] = []
    for number in wanted:
        pod = by_number.get(number)
        if pod is None:
            todo.append(writes.Create(PODS, _pod(stateful_set, number), stateful_set))
        elif pods.is_terminal(pod) and not meta.is_deleting(pod):
            todo.append(_delete(stateful_set, pod))
        elif _is_available(stateful_set, pod, now):
            continue
        if in_order:
            return todo
    surplus = sorted((number for number in by_number if number not in wanted), reverse=True)
    for number in surplus:
        if not meta.is_deleting(by_number[number]):
            todo.append(_delete(stateful_set, by_number[number]))
        if in_order:
            return todo
    return todo or _roll(stateful_set, by_number, wanted, now)


def _roll(stateful_set: Object, by_number: dict[int, Object], wanted: range, now: datetime) -> list[writes.Write]:
    """Return the deletion of the highest Pod of an old template, once those above it are available."""
    strategy = stateful_set["spec"].get("updateStrategy") or {}
    if strategy.get("type", "RollingUpdate") != "RollingUpdate":
        return []
    partition = int((strategy.get("rollingUpdate") or {}).get("partition") or 0)
    for number in reversed(wanted):
        pod = by_number.get(number)
        if number < partition or pod is None or meta.is_deleting(pod):
            return []
        if not _is_updated(stateful_set, pod):
            return [_delete(stateful_set, pod)]
        if not _is_available(stateful_set, pod, now):
            return []
    return []


def _pod(stateful_set: Object, number: int) -> Object:
    name = f"{stateful_set['metadata']['name']}-{number}"
    pod = templates.pod(stateful_set, STATEFULSETS, name=name)
    extra = {revisions.HASH: _revision_name(stateful_set), POD_NAME: name, POD_INDEX: str(number)}
    metadata = {**pod["metadata"], "labels": {**pod["metadata"].get("labels", {}), **extra}}
    spec = {**pod["spec"], "hostname": name, "subdomain": stateful_set["spec"].get("serviceName") or ""}
    return {**pod, "metadata": metadata, "spec": {field: value for field, value in spec.items() if value != ""}}


def _revision_name(stateful_set: Object) -> str:
    return f"{stateful_set['metadata']['name']}-{revisions.digest(stateful_set)}"


def _is_updated(stateful_set: Object, pod: Object) -> bool:
    return meta.labels(pod).get(revisions.HASH) == _revision_name(stateful_set)


def _is_available(stateful_set: Object, pod: Object, now: datetime) -> bool:
    minimum = int(stateful_set["spec"].get("minReadySeconds") or 0)
    return not meta.is_deleting(pod) and pods.available_in(pod, minimum, now) == 0.0


def _delete(stateful_set: Object, pod: Object) -> writes.Delete:
    return writes.Delete(PODS, key_of(pod), pod["metadata"]["uid"], about=stateful_set)


def _status(stateful_set: Object, by_number: dict[int, Object], now: datetime) -> list[writes.Write]:
    held = stateful_set.get("status") or {}
    standing = [pod for pod in by_number.values() if not pods.is_terminal(pod)]
    active = [pod for pod in standing if not meta.is_deleting(pod)]
    minimum = int(stateful_set["spec"].get("minReadySeconds") or 0)
    available, wait = pods.waits(active, minimum, now)
    update = _revision_name(stateful_set)
    updated = sum(1 for pod in active if _is_updated(stateful_set, pod))
    current = held.get("currentRevision") or update
    if updated == len(active):
        current = update
    status: Object = {
        "observedGeneration": stateful_set["metadata"].get("generation", 0),
        "replicas": len(standing),
        "readyReplicas": sum(1 for pod in active if pods.is_ready(pod)),
        "availableReplicas": available,
        "currentReplicas": sum(1 for pod in active if meta.labels(pod).get(revisions.HASH) == current),
        "updatedReplicas": updated,
        "currentRevision": current,
        "updateRevision": update,
        "collisionCount": held.get("collisionCount") or 0,
    }
    todo: list[writes.Write] = [] if wait is None else [writes.Requeue(wait)]
    if not conditions.same(status, held):
        todo.append(writes.UpdateStatus(STATEFULSETS, writes.with_status(stateful_set, status)))
    return todo
