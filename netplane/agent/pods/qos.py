"""Turn a pod's requests and limits into its quality-of-service class and into cgroup limits, as the kubelet does."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from netplane.agent.pods.spec import Container, Pod
from netplane.agent.runtime.protocol import Resources
from netplane.kube import quantity

Class = Literal["Guaranteed", "Burstable", "BestEffort"]

LEAST_SHARES = 2
PERIOD = 100_000
LEAST_QUOTA = 1000


def class_of(pod: Pod) -> Class:
    """Return the class: Guaranteed when every container has equal requests and limits of cpu and memory."""
    named = [{**dict(c.limits), **dict(c.requests)} for c in pod.all_containers]
    if not any(key in ("cpu", "memory") and quantity.parse(value) for entry in named for key, value in entry.items()):
        return "BestEffort"
    return "Guaranteed" if all(map(_is_guaranteed, pod.all_containers)) else "Burstable"


def limits(pod: Pod, container: Container, *, node_memory: int, pids: int = 0) -> Resources:
    """Return what the container's cgroup allows, and how likely the kernel kills it first when memory is short."""
    requests, most = dict(container.requests), dict(container.limits)
    cpu = quantity.parse(requests.get("cpu", most.get("cpu", "0")))
    quota = int(quantity.parse(most.get("cpu", "0")) * PERIOD)
    return Resources(
        cpu_shares=max(int(cpu * 1024), LEAST_SHARES),
        cpu_quota=max(quota, LEAST_QUOTA) if quota else 0,
        cpu_period=PERIOD,
        memory=int(quantity.parse(most.get("memory", "0"))),
        pids=pids,
        oom_score_adj=_oom_score_adj(pod, requests.get("memory", most.get("memory", "0")), node_memory),
    )


def _oom_score_adj(pod: Pod, memory: str, node_memory: int) -> int:
    kind = class_of(pod)
    if kind == "Guaranteed":
        return -997
    if kind == "BestEffort" or not node_memory:
        return 1000
    share = int(1000 - (1000 * quantity.parse(memory)) / Decimal(node_memory))
    return min(max(share, 3), 999)


def _is_guaranteed(container: Container) -> bool:
    requests, most = dict(container.requests), dict(container.limits)
    for key in ("cpu", "memory"):
        limit = quantity.parse(most.get(key, "0"))
        if not limit or quantity.parse(requests.get(key, most[key])) != limit:
            return False
    return True
