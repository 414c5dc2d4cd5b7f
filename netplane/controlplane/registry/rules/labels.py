"""Label selectors: their rules, whether they match, and their text in tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.rules import metadata, names
from netplane.kube.types import Object

_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")


def map_text(labels: Mapping[str, str] | None) -> str:
    """`a=1,b=2`, `<none>` for no labels."""
    return ",".join(f"{key}={labels[key]}" for key in sorted(labels)) if labels else "<none>"


def selector_text(selector: Object | None) -> str:
    """A LabelSelector as `kubectl get -l` would take it; `<none>` for an empty one."""
    if not selector:
        return "<none>"
    exact = selector.get("matchLabels") or {}
    terms = [(key, f"{key}={exact[key]}") for key in exact]
    terms += [(each.get("key", ""), _term(each)) for each in selector.get("matchExpressions") or ()]
    return ",".join(text for _, text in sorted(terms)) or "<none>"


def _term(expression: Object) -> str:
    key, operator = expression.get("key", ""), expression.get("operator", "")
    if operator == "Exists":
        return str(key)
    if operator == "DoesNotExist":
        return f"!{key}"
    word = "in" if operator == "In" else "notin"
    return f"{key} {word} ({','.join(sorted(expression.get('values') or ()))})"


def matches(selector: Object, labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector selects an object with these labels; an empty one selects all."""
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_holds(each, labels) for each in selector.get("matchExpressions") or ())


def _holds(expression: Object, labels: Mapping[str, str]) -> bool:
    key, operator, values = expression.get("key", ""), expression.get("operator", ""), expression.get("values") or ()
    if operator == "In":
        return bool(labels.get(key) in values)
    if operator == "NotIn":
        return bool(labels.get(key) not in values)
    return bool((key in labels) == (operator == "Exists"))


def selector_faults(selector: Object, path: str) -> list[Fault]:
    """Return every fault of a LabelSelector."""
    found = metadata.label_faults(selector.get("matchLabels") or {}, f"{path}.matchLabels")
    for index, each in enumerate(selector.get("matchExpressions") or ()):
        found += _expression(each, f"{path}.matchExpressions[{index}]")
    return found


def _expression(expression: Object, path: str) -> list[Fault]:
    operator, values = expression.get("operator", ""), expression.get("values") or []
    found: list[Fault] = []
    if operator not in _OPERATORS:
        found.append(faults.invalid(f"{path}.operator", operator, "not a valid selector operator"))
    elif operator in ("In", "NotIn") and not values:
        found.append(faults.required(f"{path}.values", "must be specified when `operator` is 'In' or 'NotIn'"))
    elif operator in ("Exists", "DoesNotExist") and values:
        detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
        found.append(faults.forbidden(f"{path}.values", detail))
    found += [
        faults.invalid(f"{path}.key", expression.get("key"), e) for e in names.qualified(expression.get("key", ""))
    ]
    for index, value in enumerate(values):
        found += [faults.invalid(f"{path}.values[{index}]", value, each) for each in names.label_value(value)]
    return found


def is_empty(selector: Mapping[str, Any] | None) -> bool:
    """True for a selector without any requirement."""
    return not selector or not (selector.get("matchLabels") or selector.get("matchExpressions"))
