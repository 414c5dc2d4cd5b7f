"""What HorizontalPodAutoscalers of autoscaling/v2 must fulfil: their bounds, metrics and behavior.

Source: k8s.io/kubernetes/pkg/apis/autoscaling/validation.
"""

from __future__ import annotations

from typing import Any

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.rules import labels, names
from netplane.kube import quantity
from netplane.kube.types import Object

_SOURCES = {
    "ContainerResource": "containerResource",
    "External": "external",
    "Object": "object",
    "Pods": "pods",
    "Resource": "resource",
}
_TARGETS = ("Utilization", "Value", "AverageValue")
_SELECTED = ("Disabled", "Max", "Min")
_MOST_SECONDS = 1800
_MOST_WINDOW = 3600


def autoscaler(obj: Object) -> list[Fault]:
    """Return every fault of a HorizontalPodAutoscaler."""
    spec = obj["spec"]
    low, high = spec.get("minReplicas", 1), spec.get("maxReplicas", 0)
    found = _reference(spec.get("scaleTargetRef") or {}, "spec.scaleTargetRef")
    if low < 1:
        found.append(faults.invalid("spec.minReplicas", low, "must be greater than or equal to 1"))
    if high < 1:
        found.append(faults.invalid("spec.maxReplicas", high, "must be greater than 0"))
    if high < low:
        found.append(faults.invalid("spec.maxReplicas", high, "must be greater than or equal to `minReplicas`"))
    for index, metric in enumerate(spec.get("metrics") or ()):
        found += _metric(metric, f"spec.metrics[{index}]")
    for name, rules in (spec.get("behavior") or {}).items():
        found += _rules(rules, f"spec.behavior.{name}")
    return found


def _reference(target: Object, path: str) -> list[Fault]:
    found: list[Fault] = []
    for name in ("kind", "name"):
        value = target.get(name)
        if not value:
            found.append(faults.required(f"{path}.{name}"))
        else:
            found += [faults.invalid(f"{path}.{name}", value, each) for each in names.path_segment(value)]
    return found


def _metric(metric: Object, path: str) -> list[Fault]:
    kind = metric.get("type", "")
    found = [] if kind else [faults.required(f"{path}.type", "must specify a metric source type")]
    if kind not in _SOURCES:
        found.append(faults.not_supported(f"{path}.type", kind, sorted(_SOURCES)))
    given = [name for name in ("object", "external", "pods", "resource", "containerResource") if name in metric]
    if given:
        found += _source(given[0], metric[given[0]], f"{path}.{given[0]}")
    expected = _SOURCES.get(kind, "")
    if expected and expected not in given:
        found.append(faults.required(f"{path}.{expected}", "must populate information for the given metric source"))
    if len(given) != 1:
        detail = "must populate the given metric source only"
        found += [faults.forbidden(f"{path}.{each}", detail) for each in given if each != expected]
    return found


def _source(kind: str, source: Object, path: str) -> list[Fault]:
    target = source.get("target") or {}
    found = _target(target, f"{path}.target")
    if kind in ("resource", "containerResource"):
        return _resource(source, target, path, needs_container=kind == "containerResource") + found
    metric = source.get("metric") or {}
    name = metric.get("name")
    if not name:
        found.append(faults.required(f"{path}.metric.name", "must specify a metric name"))
    else:
        found += [faults.invalid(f"{path}.metric.name", name, each) for each in names.path_segment(name)]
    if metric.get("selector"):
        found += labels.selector_faults(metric["selector"], f"{path}.metric.selector")
    if kind == "pods":
        if "averageValue" not in target or quantity.parse(target["averageValue"]) <= 0:
            found.append(faults.required(f"{path}.target.averageValue", "must specify a positive target averageValue"))
        return found
    if kind == "object":
        found = _reference(source.get("describedObject") or {}, f"{path}.describedObject") + found
    if "value" not in target and "averageValue" not in target:
        detail = "must set either a target value for metric or a per-pod target"
        found.append(faults.required(f"{path}.target.averageValue", detail))
    if kind == "external" and "value" in target and "averageValue" in target:
        detail = "may not set both a target value for metric and a per-pod target"
        found.append(faults.forbidden(f"{path}.target.value", detail))
    return found


def _resource(source: Object, target: Object, path: str, *, needs_container: bool) -> list[Fault]:
    found: list[Fault] = []
    if not source.get("name"):
        found.append(faults.required(f"{path}.name", "must specify a resource name"))
    if needs_container and not source.get("container"):
        found.append(faults.required(f"{path}.container", "must specify a container"))
    if "averageUtilization" not in target and "averageValue" not in target:
        detail = "must set either a target raw value or a target utilization"
        found.append(faults.required(f"{path}.target.averageUtilization", detail))
    if "averageUtilization" in target and "averageValue" in target:
        detail = "may not set both a target raw value and a target utilization"
        found.append(faults.forbidden(f"{path}.target.averageValue", detail))
    return found


def _target(target: Object, path: str) -> list[Fault]:
    kind = target.get("type", "")
    found = [] if kind else [faults.required(f"{path}.type", "must specify a metric target type")]
    if kind not in _TARGETS:
        found.append(faults.invalid(f"{path}.type", kind, "must be either Utilization, Value, or AverageValue"))
    for name in ("value", "averageValue"):
        if name in target and quantity.parse(target[name]) <= 0:
            found.append(faults.invalid(f"{path}.{name}", target[name], "must be positive"))
    if target.get("averageUtilization", 1) < 1:
        at = f"{path}.averageUtilization"
        found.append(faults.invalid(at, target["averageUtilization"], "must be greater than 0"))
    return found


def _rules(rules: Object, path: str) -> list[Fault]:
    found: list[Fault] = []
    window = rules.get("stabilizationWindowSeconds", 0)
    if not 0 <= window <= _MOST_WINDOW:
        words = (
            f"must be less than or equal to {_MOST_WINDOW}" if window > 0 else "must be greater than or equal to zero"
        )
        found.append(faults.invalid(f"{path}.stabilizationWindowSeconds", window, words))
    selected = rules.get("selectPolicy", "Max")
    if selected not in _SELECTED:
        found.append(faults.not_supported(f"{path}.selectPolicy", selected, _SELECTED))
    if not rules.get("policies"):
        found.append(faults.required(f"{path}.policies", "must specify at least one Policy"))
    for index, each in enumerate(rules.get("policies") or ()):
        at = f"{path}.policies[{index}]"
        if each.get("type") not in ("Percent", "Pods"):
            found.append(faults.not_supported(f"{at}.type", each.get("type", ""), ("Percent", "Pods")))
        found += _positive(each.get("value", 0), f"{at}.value")
        seconds = each.get("periodSeconds", 0)
        found += _positive(seconds, f"{at}.periodSeconds")
        if seconds > _MOST_SECONDS:
            detail = f"must be less than or equal to {_MOST_SECONDS}"
            found.append(faults.invalid(f"{at}.periodSeconds", seconds, detail))
    return found


def _positive(value: Any, path: str) -> list[Fault]:
    return [faults.invalid(path, value, "must be greater than zero")] if value <= 0 else []
