"""HorizontalPodAutoscalers of autoscaling/v1, kept as those of v2: what v1 has no field for is in annotations.

Source: k8s.io/kubernetes/pkg/apis/autoscaling/v1/conversion.go.
"""

from __future__ import annotations

import copy
from datetime import datetime
from typing import Any

import orjson

from netplane.controlplane.registry import faults, schema
from netplane.controlplane.registry.cluster import columns, scaling
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.schema import decode
from netplane.kube.types import Object, Resource

STORED = Resource("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
SERVED = Resource("autoscaling", "v1", "horizontalpodautoscalers", "HorizontalPodAutoscaler")
DEFINITION = "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler"
_TARGET, _CURRENT = "targetCPUUtilizationPercentage", "currentCPUUtilizationPercentage"
_NOTES = (
    ("autoscaling.alpha.kubernetes.io/metrics", "spec", "metrics"),
    ("autoscaling.alpha.kubernetes.io/behavior", "spec", "behavior"),
    ("autoscaling.alpha.kubernetes.io/current-metrics", "status", "currentMetrics"),
    ("autoscaling.alpha.kubernetes.io/conditions", "status", "conditions"),
)
_DEFAULT_TARGET = 80


def to_stored(obj: Object) -> Object:
    """Return an autoscaler of v1 as one of v2."""
    new = copy.deepcopy(obj)
    new["apiVersion"] = STORED.api_version
    annotations = new["metadata"].get("annotations") or {}
    for note, part, field in _NOTES:
        text = annotations.pop(note, None)
        if text is not None:
            try:
                new.setdefault(part, {})[field] = orjson.loads(text)
            except orjson.JSONDecodeError:
                continue  # somebody else's annotation: it says nothing
    if not annotations:
        new["metadata"].pop("annotations", None)
    target = new.get("spec", {}).pop(_TARGET, None)
    if target is not None:
        new["spec"]["metrics"] = [_metric("target", target), *(new["spec"].get("metrics") or ())]
    current = (new.get("status") or {}).pop(_CURRENT, None)
    if current is not None:
        new["status"]["currentMetrics"] = [_metric("current", current), *(new["status"].get("currentMetrics") or ())]
    return new


def _metric(field: str, percentage: int) -> Object:
    amount: Object = {"averageUtilization": percentage}
    if field == "target":
        amount["type"] = "Utilization"
    return {"type": "Resource", "resource": {"name": "cpu", field: amount}}


def from_stored(obj: Object) -> Object:
    """Return an autoscaler of v2 as one of v1."""
    new = copy.deepcopy(obj)
    new["apiVersion"] = SERVED.api_version
    for part, field, own, name in (
        ("spec", "metrics", "target", _TARGET),
        ("status", "currentMetrics", "current", _CURRENT),
    ):
        held = new.get(part) or {}
        metrics = held.get(field) or []
        found = next((each for each in metrics if _utilization(each, own) is not None), None)
        if found is not None:
            held[name] = _utilization(found, own)
            held[field] = [each for each in metrics if each is not found]
    for note, part, field in _NOTES:
        value = (new.get(part) or {}).pop(field, None)
        if value:
            new["metadata"].setdefault("annotations", {})[note] = orjson.dumps(value).decode()
    return new


def _utilization(metric: Object, own: str) -> int | None:
    resource = metric.get("resource") or {}
    if metric.get("type") != "Resource" or resource.get("name") != "cpu":
        return None
    found: int | None = (resource.get(own) or {}).get("averageUtilization")
    return found


def default(obj: Object) -> None:
    """Fill in an autoscaler of v1."""
    spec = obj.setdefault("spec", {})
    spec.setdefault("minReplicas", 1)
    if _TARGET not in spec and _NOTES[0][0] not in (obj["metadata"].get("annotations") or {}):
        spec[_TARGET] = _DEFAULT_TARGET


def check(obj: Object) -> list[Fault]:
    """Return every fault of an autoscaler of v1, also of what its annotations say: nobody has read them yet."""
    stored = to_stored(obj)
    errors = decode.read(schema.shapes().of(DEFINITION), stored).errors
    if errors:
        return [faults.invalid("metadata.annotations", obj["metadata"].get("annotations"), errors[0])]
    return scaling.autoscaler(stored)


def cells(obj: Object, now: datetime) -> list[Any]:
    """The row of an autoscaler of v1."""
    return columns.autoscaler(to_stored(obj), now)
