"""Read from two of an agent's summaries what its node and pods used between them. Pure; asking is metering's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from netplane.kube.types import Key, Object


@dataclass(frozen=True, slots=True)
class Counters:
    """A container's processor time since its start, and the memory it cannot do without."""

    cpu_ns: int
    memory: int


@dataclass(frozen=True, slots=True)
class Sample:
    """A node's summary: pod to its uid and its running containers, and when it was read (seconds, monotonic)."""

    taken: float
    pods: Mapping[Key, tuple[str, Mapping[str, Counters]]]


@dataclass(frozen=True, slots=True)
class Usage:
    """Billionths of a processor, and bytes."""

    cpu: int = 0
    memory: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.cpu + other.cpu, self.memory + other.memory)

    def resources(self) -> Object:
        """Return it as quantities, in metrics-server's units."""
        return {"cpu": f"{self.cpu}n", "memory": f"{self.memory // 1024}Ki"}


@dataclass(frozen=True, slots=True)
class Measured:
    """What a node's containers used on average during the last `window` seconds: pod to container to usage."""

    window: float
    pods: Mapping[Key, Mapping[str, Usage]]

    @property
    def total(self) -> Usage:
        """What all of them use together."""
        return sum((each for containers in self.pods.values() for each in containers.values()), Usage())


def sample(summary: Mapping[str, Any], *, taken: float) -> Sample:
    """Return the facts of `/stats/summary`; what has no figures is left out."""
    pods: dict[Key, tuple[str, Mapping[str, Counters]]] = {}
    for pod in summary.get("pods") or ():
        whose = pod["podRef"]
        found = {each["name"]: counters for each in pod.get("containers") or () if (counters := _counters(each))}
        if found:
            pods[(whose["namespace"], whose["name"])] = (whose.get("uid", ""), found)
    return Sample(taken, pods)


def between(older: Sample, newer: Sample) -> Measured:
    """Return the usage between two samples; a container that is younger than the first counts from its start."""
    window = max(newer.taken - older.taken, 1e-3)
    pods: dict[Key, Mapping[str, Usage]] = {}
    for key, (uid, containers) in newer.pods.items():
        known_uid, known = older.pods.get(key, ("", {}))
        before = known if known_uid == uid else {}
        pods[key] = {name: _used(before.get(name), now, window) for name, now in containers.items()}
    return Measured(window, pods)


def _counters(entry: Mapping[str, Any]) -> Counters | None:
    cpu, memory = entry.get("cpu") or {}, entry.get("memory") or {}
    used, kept = cpu.get("usageCoreNanoSeconds"), memory.get("workingSetBytes")
    return Counters(int(used), int(kept)) if used is not None and kept is not None else None


def _used(before: Counters | None, now: Counters, window: float) -> Usage:
    # A counter that fell is one of a container started anew.
    since = before.cpu_ns if before is not None and before.cpu_ns <= now.cpu_ns else 0
    return Usage(int((now.cpu_ns - since) / window), now.memory)
