"""metrics.k8s.io: what nodes and pods use now. Worked out when it is asked for, and not kept."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from netplane.controlplane.registry.schema import usage
from netplane.controlplane.registry.types import Column, ResourceType
from netplane.kube import quantity
from netplane.kube.types import Object, Resource

_VERBS = ("get", "list")
_COLUMNS = (Column("Name", format="name"), Column("CPU"), Column("Memory"), Column("Window"))


def _node_cells(obj: Object, now: datetime) -> list[Any]:
    used = obj.get("usage") or {}
    return [obj["metadata"]["name"], used.get("cpu", "0"), used.get("memory", "0"), obj.get("window", "")]


def _pod_cells(obj: Object, now: datetime) -> list[Any]:
    usages = [each.get("usage") or {} for each in obj.get("containers") or ()]
    cpu = sum(quantity.parse(each.get("cpu", "0")) for each in usages) * 10**9
    memory = sum(quantity.parse(each.get("memory", "0")) for each in usages) / 1024
    return [obj["metadata"]["name"], f"{int(cpu)}n", f"{int(memory)}Ki", obj.get("window", "")]


TYPES = (
    ResourceType(
        resource=Resource("metrics.k8s.io", "v1beta1", "nodes", "NodeMetrics", namespaced=False),
        singular="",
        definition=usage.PREFIX + "NodeMetrics",
        verbs=_VERBS,
        columns=_COLUMNS,
        cells=_node_cells,
        is_computed=True,
    ),
    ResourceType(
        resource=Resource("metrics.k8s.io", "v1beta1", "pods", "PodMetrics"),
        singular="",
        definition=usage.PREFIX + "PodMetrics",
        verbs=_VERBS,
        columns=_COLUMNS,
        cells=_pod_cells,
        is_computed=True,
    ),
)
