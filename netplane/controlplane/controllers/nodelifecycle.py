"""Notice Nodes that fell silent: mark them Unknown, taint them, and take their Pods out of service."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from netplane.controlplane.controllers import conditions, pods, writes
from netplane.controlplane.controllers.config import ControllerConfig
from netplane.controlplane.controllers.view import View
from netplane.kube import meta
from netplane.kube.types import LEASES, NODES, PODS, Key, Object
from netplane.lib import timestamp

UNREACHABLE = "node.kubernetes.io/unreachable"
NOT_READY = "node.kubernetes.io/not-ready"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
PRESSURES = {
    "MemoryPressure": "node.kubernetes.io/memory-pressure",
    "DiskPressure": "node.kubernetes.io/disk-pressure",
    "PIDPressure": "node.kubernetes.io/pid-pressure",
    "NetworkUnavailable": "node.kubernetes.io/network-unavailable",
}
OURS = frozenset({UNREACHABLE, NOT_READY, UNSCHEDULABLE, *PRESSURES.values()})
TOLD = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")


def decide(view: View, key: Key, now: datetime, *, config: ControllerConfig) -> Sequence[writes.Write]:
    """Return what follows from a Node's silence or its conditions: first its status, then taints and Pods."""
    node = view.get(NODES, key)
    if node is None or meta.is_deleting(node):
        return ()
    left = _patience(view, node, now, config)
    if left <= 0 and (unknown := _unknown(node, now)):
        told = writes.Event(node, "Normal", "NodeNotReady", f"Node {key[1]} status is now: NodeNotReady")
        return [writes.UpdateStatus(NODES, writes.with_status(node, unknown)), told]
    todo = _taint(view, node, now)
    if not meta.is_condition_true(node, "Ready"):
        todo += _silence_pods(view, key[1], now)
    return [*todo, writes.Requeue(left)] if left > 0 else todo


def _patience(view: View, node: Object, now: datetime, config: ControllerConfig) -> float:
    """Return for how many seconds yet the Node is believed.

    Counted from when *we* saw its lease move, so neither skewed clocks nor an outage of ours condemn a Node.
    """
    name = node["metadata"]["name"]
    lease = ("kube-node-lease", name)
    if meta.condition(node, "Ready") is None and view.get(LEASES, lease) is None:
        return config.node_startup_grace - (now - view.seen(NODES, ("", name))).total_seconds()
    renewed = view.get(LEASES, lease)
    if renewed is None or _has_spoken_since(node, renewed):
        since = view.seen(NODES, ("", name))
    else:
        since = view.seen(LEASES, lease)
    return config.node_monitor_grace - (now - since).total_seconds()


def _has_spoken_since(node: Object, lease: Object) -> bool:
    """Whether the Node's own status is newer than its lease as we know it: Nodes and leases reach us by two ways.

    A Node that comes back tells its status about when it renews its lease. Both times are of the Node's one clock.
    """
    beat = (meta.condition(node, "Ready") or {}).get("lastHeartbeatTime")
    renewed = (lease.get("spec") or {}).get("renewTime")
    return beat is not None and renewed is not None and timestamp.parse(beat) > timestamp.parse(renewed)


def _unknown(node: Object, now: datetime) -> Object | None:
    """Return the status in which nothing is known, or None if it says so already."""
    before = node.get("status") or {}
    status = before
    for kind in TOLD:
        if conditions.find(before, kind) is None:
            text = ("NodeStatusNeverUpdated", "Kubelet never posted node status.")
        else:
            text = ("NodeStatusUnknown", "Kubelet stopped posting node status.")
        held = conditions.find(status, kind)
        if held is None or held.get("status") != "Unknown":
            new = conditions.make(kind, "Unknown", *text, now)
            status = conditions.put(status, {**(held or {}), **new})
    return None if status is before else status


def _taint(view: View, node: Object, now: datetime) -> list[writes.Write]:
    held = node["spec"].get("taints") or []
    wanted = _wanted(view, node)
    kept = [taint for taint in held if taint["key"] not in OURS or (taint["key"], taint["effect"]) in wanted]
    present = {(taint["key"], taint["effect"]) for taint in kept}
    added = [
        {"key": taint, "effect": effect, "timeAdded": timestamp.rfc3339(now)}
        for taint, effect in sorted(wanted - present)
    ]
    if not added and len(kept) == len(held):
        return []
    metadata = node["metadata"]
    guard = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
    return [writes.Patch(NODES, ("", metadata["name"]), {"metadata": guard, "spec": {"taints": [*kept, *added]}})]


def _wanted(view: View, node: Object) -> set[tuple[str, str]]:
    wanted = set()
    ready = (meta.condition(node, "Ready") or {}).get("status", "False")
    if ready != "True":
        key = UNREACHABLE if ready == "Unknown" else NOT_READY
        wanted.add((key, "NoSchedule"))
        # When no Node at all is ready, the fault is more likely ours: nobody is evicted (upstream: full disruption).
        if any(meta.is_condition_true(other, "Ready") for other in view.all(NODES)):
            wanted.add((key, "NoExecute"))
    for kind, key in PRESSURES.items():
        if meta.is_condition_true(node, kind):
            wanted.add((key, "NoSchedule"))
    if node["spec"].get("unschedulable"):
        wanted.add((UNSCHEDULABLE, "NoSchedule"))
    return wanted


def _silence_pods(view: View, name: str, now: datetime) -> list[writes.Write]:
    """Return the updates that take the Node's ready Pods out of their Services."""
    todo: list[writes.Write] = []
    for pod in view.on_node(name):
        if not pods.is_ready(pod):
            continue
        held = dict(meta.condition(pod, "Ready") or {})
        told = {**held, "status": "False", "lastTransitionTime": timestamp.rfc3339(now)}
        todo.append(writes.UpdateStatus(PODS, writes.with_status(pod, conditions.put(pod["status"], told))))
        todo.append(writes.Event(pod, "Warning", "NodeNotReady", "Node is not ready"))
    return todo
