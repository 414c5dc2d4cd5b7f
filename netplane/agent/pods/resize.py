"""Decide how much of what a resized pod asks for the node gives it. Keeping and applying it are lifecycle's.

After KEP-1287: a container is held to what it was *allotted*; another wish is allotted as a whole pod, when there is
room, put off when others use the room (Deferred), and refused when the node never had it (Infeasible).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from netplane.agent.pods.observed import Share, Waiting
from netplane.agent.pods.spec import Container, Pod
from netplane.kube import quantity

RESIZED = ("cpu", "memory")
_FINISHED = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Allotment:
    """What a pod is given: the pod with these shares as its requests and limits, and why it has not all it wants."""

    pod: Pod
    pending: Waiting | None = None


def share(container: Container) -> Share:
    """Return what a container's cgroup is to go by."""
    return Share(_of(container.requests), _of(container.limits))


def shares(pod: Pod) -> dict[str, Share]:
    """Return container name to share."""
    return {container.name: share(container) for container in pod.all_containers}


def allot(
    wanted: Pod, given: Mapping[str, Share], others: Iterable[Pod], allocatable: Mapping[str, str] | None
) -> Allotment:
    """Return what the pod gets; `given` is what it has, empty for a new one, which the scheduler has found room for."""
    if not given or given == shares(wanted):
        return Allotment(wanted)
    pending = _why_not(wanted, others, allocatable or {})
    return Allotment(held(wanted, given), pending) if pending else Allotment(wanted)


def held(pod: Pod, given: Mapping[str, Share]) -> Pod:
    """Return the pod with what it was given as its requests and limits."""

    def of(container: Container) -> Container:
        mine = given.get(container.name)
        if mine is None:
            return container
        return dataclasses.replace(
            container,
            requests=_merged(container.requests, mine.requests),
            limits=_merged(container.limits, mine.limits),
        )

    return dataclasses.replace(
        pod,
        containers=tuple(map(of, pod.containers)),
        init_containers=tuple(map(of, pod.init_containers)),
    )


def needs_restart(container: Container, applied: Share) -> bool:
    """Whether a change from what is applied is one that the container wants to be restarted for."""
    now = share(container)
    policies = dict(container.resize_policies)
    for name in RESIZED:
        before = (dict(applied.requests).get(name), dict(applied.limits).get(name))
        after = (dict(now.requests).get(name), dict(now.limits).get(name))
        if before != after and policies.get(name) == "RestartContainer":
            return True
    return False


def _why_not(wanted: Pod, others: Iterable[Pod], allocatable: Mapping[str, str]) -> Waiting | None:
    alive = [pod for pod in others if pod.uid != wanted.uid and pod.status.get("phase") not in _FINISHED]
    for name in RESIZED:
        if name not in allocatable:
            continue
        capacity, asked = quantity.parse(allocatable[name]), _requested(wanted, name)
        if asked > capacity:
            text = f"Node didn't have enough capacity: {name}, requested: {_told(name, asked)}"
            return Waiting("Infeasible", f"{text}, capacity: {_told(name, capacity)}")
        used = sum((_requested(pod, name) for pod in alive), Decimal(0))
        if asked + used > capacity:
            text = f"Node didn't have enough resource: {name}, requested: {_told(name, asked)}"
            return Waiting("Deferred", f"{text}, used: {_told(name, used)}, capacity: {_told(name, capacity)}")
    return None


def _requested(pod: Pod, name: str) -> Decimal:
    lasting = (*pod.containers, *(c for c in pod.init_containers if c.is_sidecar))
    return sum((quantity.parse(dict(container.requests).get(name, "0")) for container in lasting), Decimal(0))


def _told(name: str, amount: Decimal) -> int:
    """CPU in thousandths, memory in bytes, as the kubelet tells them."""
    return int(amount * 1000) if name == "cpu" else int(amount)


def _of(amounts: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, text) for name, text in amounts if name in RESIZED))


def _merged(amounts: Iterable[tuple[str, str]], held: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted({**{name: text for name, text in amounts if name not in RESIZED}, **dict(held)}.items()))
