"""Keep as many Pods of a ReplicaSet as it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from netplane.controlplane.controllers import conditions, owners, pods, templates, writes
from netplane.controlplane.controllers.view import View
from netplane.kube import meta
from netplane.kube.types import PODS, REPLICASETS, Key, Object, key_of

BURST = 500
"""Pods created or deleted by one decision at most, so that one huge ReplicaSet does not starve the others."""


def decide(view: View, key: Key, now: datetime) -> Sequence[writes.Write]:
    """Return the writes that bring a ReplicaSet one step nearer to its replicas, and its status up to date."""
    replica_set = view.get(REPLICASETS, key)
    if replica_set is None:
        return ()
    mine, adoptions = owners.claim(view, replica_set, REPLICASETS, PODS)
    if adoptions:
        return adoptions
    active = [pod for pod in mine if pods.is_active(pod)]
    if not meta.is_deleting(replica_set) and (todo := scale(view, replica_set, active, now)):
        return todo  # what it changes asks for the next decision, and that one tells the status
    return _status(replica_set, active, now)


def scale(view: View, replica_set: Object, active: list[Object], now: datetime) -> list[writes.Write]:
    """Return the Pods to create or to delete."""
    missing = int(replica_set["spec"].get("replicas", 1)) - len(active)
    if missing > 0:
        pod = templates.pod(replica_set, REPLICASETS)
        return [writes.Create(PODS, pod, replica_set) for _ in range(min(missing, BURST))]
    if missing == 0:
        return []
    order = pods.deletion_order(active, _family(view, replica_set, active), now)
    return [
        writes.Delete(PODS, key_of(pod), pod["metadata"]["uid"], about=replica_set)
        for pod in order[: min(-missing, BURST)]
    ]


def _family(view: View, replica_set: Object, active: list[Object]) -> list[Object]:
    """Return the active Pods of all ReplicaSets with the same controller (a Deployment's old and new ones)."""
    controller = meta.controller_of(replica_set)
    if controller is None:
        return active
    siblings = view.controlled(REPLICASETS, controller["uid"])
    return [pod for sibling in siblings for pod in view.controlled(PODS, sibling["metadata"]["uid"])]


def _status(replica_set: Object, active: list[Object], now: datetime) -> list[writes.Write]:
    """Return the status update if it says something new, and the timer for Pods that become available by waiting."""
    spec, held = replica_set["spec"], replica_set.get("status") or {}
    available, wait = pods.waits(active, int(spec.get("minReadySeconds") or 0), now)
    labels = (spec.get("template", {}).get("metadata") or {}).get("labels") or {}
    status: Object = {
        "replicas": len(active),
        "fullyLabeledReplicas": sum(1 for pod in active if templates.has_labels(pod, labels)),
        "readyReplicas": sum(1 for pod in active if pods.is_ready(pod)),
        "availableReplicas": available,
        "observedGeneration": replica_set["metadata"].get("generation", 0),
    }
    status = {name: value for name, value in status.items() if value or name in ("replicas", "observedGeneration")}
    if kept := conditions.without(held, "ReplicaFailure").get("conditions"):
        status["conditions"] = kept
    todo: list[writes.Write] = [] if wait is None else [writes.Requeue(wait)]
    if not conditions.same(status, held):
        todo.append(writes.UpdateStatus(REPLICASETS, writes.with_status(replica_set, status)))
    return todo
