"""What `kubectl get pods` prints: readiness, the status word, restarts (pkg/printers/internalversion)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from netplane.controlplane.registry.rules import times
from netplane.controlplane.registry.types import Column
from netplane.kube.types import Object

COLUMNS = (
    Column("Name", format="name"),
    Column("Ready", description="The aggregate readiness state of this pod for accepting traffic."),
    Column("Status", description="The aggregate status of the containers in this pod."),
    Column("Restarts", description="How often its containers restarted, and when one did last."),
    Column("Age"),
    Column("IP", priority=1),
    Column("Node", priority=1),
    Column("Nominated Node", priority=1),
    Column("Readiness Gates", priority=1, description="How many of the pod's readiness gates are passed."),
)

_COMPLETED = {
    "Succeeded": "The pod has completed successfully.",
    "Failed": "The pod failed.",
}


def conditions(pod: Object) -> list[Object]:
    """Mark the rows of pods that have come to their end."""
    phase = (pod.get("status") or {}).get("phase", "")
    if phase not in _COMPLETED:
        return []
    return [{"type": "Completed", "status": "True", "reason": phase, "message": _COMPLETED[phase]}]


def cells(pod: Object, now: datetime) -> list[Any]:
    """One row, all columns."""
    spec, status, metadata = pod.get("spec") or {}, pod.get("status") or {}, pod["metadata"]
    tally = _Tally(spec, status)
    addresses = status.get("podIPs") or [{"ip": status.get("podIP")}]
    return [
        metadata["name"],
        f"{tally.ready}/{tally.total}",
        _word(tally.reason, metadata, status),
        tally.restarts_text(now),
        times.age(metadata.get("creationTimestamp"), now),
        addresses[0].get("ip") or "<none>",
        spec.get("nodeName") or "<none>",
        status.get("nominatedNodeName") or "<none>",
        _gates(spec.get("readinessGates") or [], status.get("conditions") or []),
    ]


def _word(reason: str, metadata: Object, status: Object) -> str:
    if not metadata.get("deletionTimestamp"):
        return reason
    if status.get("reason") == "NodeLost":
        return "Unknown"
    return reason if status.get("phase") in ("Succeeded", "Failed") else "Terminating"


def _gates(gates: list[Object], conditions: list[Object]) -> str:
    if not gates:
        return "<none>"
    true = {each.get("type", "") for each in conditions if each.get("status") == "True"}
    return f"{sum(each.get('conditionType', '') in true for each in gates)}/{len(gates)}"


def _has(conditions: list[Object], kind: str) -> bool:
    return any(each.get("type") == kind and each.get("status") == "True" for each in conditions)


class _Tally:
    """Counts over a pod's containers, and the word that says how they fare."""

    __slots__ = ("last_restart", "ready", "reason", "restarts", "total")

    def __init__(self, spec: Object, status: Object) -> None:
        restartable = {
            each.get("name", "") for each in spec.get("initContainers") or () if each.get("restartPolicy") == "Always"
        }
        conditions = status.get("conditions") or []
        self.ready = self.restarts = 0
        self.last_restart = ""
        self.total = len(spec.get("containers") or ()) + len(restartable)
        self.reason: str = status.get("reason") or status.get("phase") or ""
        if any(c.get("type") == "PodScheduled" and c.get("reason") == "SchedulingGated" for c in conditions):
            self.reason = "SchedulingGated"
        initial = status.get("initContainerStatuses") or []
        initializing = self._initial(initial, restartable, len(spec.get("initContainers") or ()))
        if not initializing or _has(conditions, "Initialized"):
            self.restarts, self.last_restart = 0, ""
            for each in initial:
                if each.get("name", "") in restartable:
                    self._count(each)
            self._main(status.get("containerStatuses") or [], is_ready=_has(conditions, "Ready"))

    def restarts_text(self, now: datetime) -> str:
        """`3 (5m ago)`, or the bare number when nothing is known of the last restart."""
        if self.restarts and self.last_restart:
            return f"{self.restarts} ({times.age(self.last_restart, now)} ago)"
        return str(self.restarts)

    def _count(self, container: Object) -> None:
        self.restarts += container.get("restartCount", 0)
        ended = ((container.get("lastState") or {}).get("terminated") or {}).get("finishedAt") or ""
        self.last_restart = max(self.last_restart, ended)

    def _initial(self, statuses: list[Object], restartable: set[str], total: int) -> bool:
        for index, container in enumerate(statuses):
            self._count(container)
            state = container.get("state") or {}
            terminated = state.get("terminated")
            if terminated is not None and terminated.get("exitCode", 0) == 0:
                continue
            if container.get("name", "") in restartable and container.get("started"):
                self.ready += bool(container.get("ready"))
                continue
            waiting = (state.get("waiting") or {}).get("reason", "")
            if terminated is not None:
                self.reason = f"Init:{_ending(terminated)}"
            elif waiting and waiting != "PodInitializing":
                self.reason = f"Init:{waiting}"
            else:
                self.reason = f"Init:{index}/{total}"
            return True
        return False

    def _main(self, statuses: list[Object], *, is_ready: bool) -> None:
        has_running = False
        for container in reversed(statuses):
            self._count(container)
            state = container.get("state") or {}
            waiting = (state.get("waiting") or {}).get("reason")
            if waiting:
                self.reason = waiting
            elif state.get("terminated") is not None:
                self.reason = _ending(state["terminated"])
            elif container.get("ready") and state.get("running") is not None:
                has_running = True
                self.ready += 1
        if self.reason == "Completed" and has_running:
            self.reason = "Running" if is_ready else "NotReady"


def _ending(terminated: Object) -> str:
    if terminated.get("reason"):
        return str(terminated.get("reason", ""))
    if terminated.get("signal"):
        return f"Signal:{terminated.get('signal', '')}"
    return f"ExitCode:{terminated.get('exitCode', 0)}"
