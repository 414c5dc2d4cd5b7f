"""Remove Pods nobody else will: of Nodes that are gone, never bound and terminating, or ended beyond a number."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from netplane.controlplane.controllers import conditions, pods, writes
from netplane.controlplane.controllers.config import ControllerConfig
from netplane.controlplane.controllers.view import View
from netplane.kube import meta
from netplane.kube.types import NODES, PODS, Key, Object, key_of

ENDED: Key = ("", "ended")
"""The key under which the number of ended Pods is looked at."""


def decide(view: View, key: Key, now: datetime, *, config: ControllerConfig) -> Sequence[writes.Write]:
    """Return the removal of one Pod, or of the ended ones beyond the threshold."""
    if key == ENDED:
        return _ended(view, config.terminated_pods)
    pod = view.get(PODS, key)
    if pod is None:
        return ()
    node = pod["spec"].get("nodeName")
    if not node:
        return [_remove(pod)] if meta.is_deleting(pod) else ()
    if view.get(NODES, ("", node)) is not None:
        return ()
    left = config.orphan_grace - (now - view.gone_since(NODES, ("", node))).total_seconds()
    if left > 0:
        return [writes.Requeue(left)]
    return [*_failed(pod, now), _remove(pod)]


def _failed(pod: Object, now: datetime) -> list[writes.Write]:
    if pods.is_terminal(pod):
        return []
    told = ("DisruptionTarget", "True", "DeletionByPodGC", "PodGC: node no longer exists")
    status = conditions.ensure({**(pod.get("status") or {}), "phase": "Failed"}, *told, now)
    return [writes.UpdateStatus(PODS, writes.with_status(pod, status))]


def _ended(view: View, threshold: int) -> list[writes.Write]:
    ended = [pod for pod in view.all(PODS) if pods.is_terminal(pod) and not meta.is_deleting(pod)]
    ended.sort(key=lambda pod: pod["metadata"].get("creationTimestamp") or "")
    return [_remove(pod) for pod in ended[: max(0, len(ended) - threshold)]]


def _remove(pod: Object) -> writes.Delete:
    return writes.Delete(PODS, key_of(pod), pod["metadata"]["uid"], grace_seconds=0)
