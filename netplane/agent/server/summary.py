"""Tell what pods use, as the kubelet's /stats/summary does for metrics servers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from netplane.agent.pods.spec import Pod
from netplane.agent.runtime.protocol import Runtime, Usage
from netplane.kube.types import Object
from netplane.lib.clock import rfc3339


def summary(node: str, pods: Sequence[Pod], runtime: Runtime, now: datetime) -> Object:
    """Return the usage of the node's pods and of their containers."""
    entries = [_pod(pod, runtime, now) for pod in sorted(pods, key=lambda pod: (pod.namespace, pod.name))]
    totals = [entry["cpu"]["usageCoreNanoSeconds"] for entry in entries]
    memory = [entry["memory"]["workingSetBytes"] for entry in entries]
    whole = _usage(Usage(cpu_ns=sum(totals), memory=sum(memory), working_set=sum(memory)), now)
    return {"node": {"nodeName": node, **whole}, "pods": entries}


def _pod(pod: Pod, runtime: Runtime, now: datetime) -> Object:
    running = [status for status in runtime.containers(pod.uid) if status.state == "running"]
    usages = {status.name: runtime.usage(status.id) for status in running}
    every = usages.values()
    total = Usage(
        cpu_ns=sum(usage.cpu_ns for usage in every),
        memory=sum(usage.memory for usage in every),
        working_set=sum(usage.working_set for usage in every),
        pids=sum(usage.pids for usage in every),
    )
    return {
        "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
        "containers": [{"name": name, **_usage(usage, now)} for name, usage in sorted(usages.items())],
        "process_stats": {"process_count": total.pids},
        **_usage(total, now),
    }


def _usage(usage: Usage, now: datetime) -> Object:
    moment = rfc3339(now)
    return {
        "cpu": {"time": moment, "usageCoreNanoSeconds": usage.cpu_ns},
        "memory": {"time": moment, "usageBytes": usage.memory, "workingSetBytes": usage.working_set},
    }
