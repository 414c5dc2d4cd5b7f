"""Evict Pods from Nodes tainted NoExecute when their tolerations run out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from netplane.controlplane.controllers import conditions, pods, writes
from netplane.controlplane.controllers.view import View
from netplane.controlplane.scheduler import taints
from netplane.kube import meta
from netplane.kube.types import NODES, PODS, Key, Object
from netplane.lib import timestamp


def decide(view: View, key: Key, now: datetime) -> Sequence[writes.Write]:
    """Return the deletion of a Pod whose Node's taints it tolerates no longer, or the time until then."""
    pod = view.get(PODS, key)
    if pod is None or not pods.is_active(pod) or not pod["spec"].get("nodeName"):
        return ()
    node = view.get(NODES, ("", pod["spec"]["nodeName"]))
    left = _left(pod, node, now) if node else None
    if left is None:
        return ()
    if left > 0:
        return [writes.Requeue(left)]
    told = f"Marking for deletion Pod {key[0]}/{key[1]}"
    return [
        *_disrupted(pod, now),
        writes.Event(pod, "Normal", "TaintManagerEviction", told),
        writes.Delete(PODS, key, pod["metadata"]["uid"]),
    ]


def _disrupted(pod: Object, now: datetime) -> list[writes.Write]:
    """Write into the Pod why it goes (KEP-3329)."""
    why = ("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")
    held = pod.get("status") or {}
    status = conditions.ensure(held, "DisruptionTarget", "True", *why, now)
    return [] if status is held else [writes.UpdateStatus(PODS, writes.with_status(pod, status))]


def _left(pod: Object, node: Object, now: datetime) -> float | None:
    """Return the seconds until the first untolerated moment, None when there is none."""
    left = []
    for taint in node["spec"].get("taints") or ():
        if taint.get("effect") != "NoExecute":
            continue
        patience = taints.patience(pod["spec"].get("tolerations") or (), taint)
        if patience is not None:
            since = timestamp.parse(taint["timeAdded"]) if taint.get("timeAdded") else now
            left.append((since + timedelta(seconds=patience) - now).total_seconds())
    return min(left) if left and not meta.is_deleting(pod) else None
