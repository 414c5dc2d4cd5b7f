"""What LimitRanges and ResourceQuotas must fulfil (ValidateLimitRange, ValidateResourceQuota of core/validation)."""

from __future__ import annotations

from collections.abc import Iterable

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.rules import names
from netplane.kube import quantity
from netplane.kube.types import Object

_COMPUTE = frozenset({"cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"})
_COUNTED = frozenset(
    {
        "pods", "services", "replicationcontrollers", "resourcequotas", "secrets", "configmaps",
        "persistentvolumeclaims", "services.nodeports", "services.loadbalancers",
    }
)  # fmt: skip
_QUOTA = (
    _COMPUTE | _COUNTED | {"ephemeral-storage", "requests.ephemeral-storage", "limits.ephemeral-storage"}
    | {"requests.storage"}
)  # fmt: skip
_STANDARD = _QUOTA | {"storage"}
_CONTAINER = frozenset({"cpu", "memory", "ephemeral-storage"})
_HUGE = ("hugepages-", "requests.hugepages-")
_LIMIT_TYPES = ("Pod", "Container", "PersistentVolumeClaim")
_SCOPES = frozenset(
    {"Terminating", "NotTerminating", "BestEffort", "NotBestEffort", "PriorityClass", "CrossNamespacePodAffinity"}
)
_CONFLICTS = ({"BestEffort", "NotBestEffort"}, {"Terminating", "NotTerminating"})
_EXISTS_ONLY = (
    "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, "
    "ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"
)
_COMPARED = (
    ("min", "max", "min", "min", "min value {} is greater than max value {}"),
    ("min", "defaultRequest", "defaultRequest", "defaultRequest",
     "min value {} is greater than default request value {}"),
    ("defaultRequest", "max", "defaultRequest", "defaultRequest",
     "default request value {} is greater than max value {}"),
    ("defaultRequest", "default", "defaultRequest", "defaultRequest",
     "default request value {} is greater than default limit value {}"),
    ("min", "default", "default", "min", "min value {} is greater than default value {}"),
    ("default", "max", "default", "max", "default value {} is greater than max value {}"),
)  # fmt: skip
"""What may not be more than what, the field that is told of it, the value that is shown, and the words."""


def _resource_name(name: str, path: str, known: Iterable[str], detail: str) -> list[Fault]:
    found = [faults.invalid(path, name, each) for each in names.qualified(name)]
    if found or "/" in name:
        return found
    if name not in _STANDARD and not name.startswith(_HUGE):
        found.append(faults.invalid(path, name, "must be a standard resource type or fully qualified"))
    if name not in known and not name.startswith(_HUGE):
        found.append(faults.invalid(path, name, detail))
    return found


def amount_faults(name: str, amount: str, path: str) -> list[Fault]:
    """Return the faults of how much there is of a resource: never less than nothing, and whole where it is counted."""
    value = quantity.parse(amount)
    found = [faults.invalid(path, amount, names.NOT_NEGATIVE)] if value < 0 else []
    extended = "/" in name and "kubernetes.io/" not in name and not name.startswith("requests.")
    if (name in _COUNTED or extended) and value % 1 != 0:
        found.append(faults.invalid(path, amount, "must be an integer"))
    return found


def resource_quota(obj: Object) -> list[Fault]:
    """Return every fault of a ResourceQuota."""
    spec = obj.get("spec") or {}
    hard = spec.get("hard") or {}
    found: list[Fault] = []
    for name, amount in hard.items():
        at = f"spec.hard[{name}]"
        found += _resource_name(name, at, _QUOTA, "must be a standard resource for quota") + amount_faults(
            name, amount, at
        )
    scopes = spec.get("scopes") or []
    for scope in scopes:
        if scope not in _SCOPES:
            found.append(faults.invalid("spec.scopes", scopes, "unsupported scope"))
        found += _misapplied(scope, hard, "spec.scopes", scopes)
    if any(each <= set(scopes) for each in _CONFLICTS):
        found.append(faults.invalid("spec.scopes", scopes, "conflicting scopes"))
    return found + _scope_selector(spec.get("scopeSelector") or {}, hard)


def _misapplied(scope: str, hard: Object, path: str, value: object) -> list[Fault]:
    """A scope speaks of pods: only what pods use can be counted within it."""
    if scope not in _SCOPES:
        return []
    fit = {"pods"} if scope == "BestEffort" else {"pods"} | _COMPUTE
    detail = "unsupported scope applied to resource"
    return [faults.invalid(path, value, detail) for name in sorted(hard) if name in _QUOTA and name not in fit]


def _scope_selector(selector: Object, hard: Object) -> list[Fault]:
    at = "spec.scopeSelector.matchExpressions"
    found: list[Fault] = []
    scopes: set[str] = set()
    for each in selector.get("matchExpressions") or ():
        scope, operator, values = each.get("scopeName", ""), each.get("operator", ""), each.get("values") or []
        if scope not in _SCOPES:
            found.append(faults.invalid(f"{at}.scopeName", scope, "unsupported scope"))
        found += _misapplied(scope, hard, at, selector)
        if scope in _SCOPES - {"PriorityClass"} and operator != "Exists":
            found.append(faults.invalid(f"{at}.operator", operator, _EXISTS_ONLY))
        if operator in ("In", "NotIn") and not values:
            detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"
            found.append(faults.required(f"{at}.values", detail))
        elif operator in ("Exists", "DoesNotExist") and values:
            detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"
            found.append(faults.invalid(f"{at}.values", values, detail))
        elif operator not in ("In", "NotIn", "Exists", "DoesNotExist"):
            found.append(faults.invalid(f"{at}.operator", operator, "not a valid selector operator"))
        scopes.add(scope)
    if any(each <= scopes for each in _CONFLICTS):
        found.append(faults.invalid(at, sorted(scopes), "conflicting scopes"))
    return found


def resource_quota_update(new: Object, old: Object) -> list[Fault]:
    """What a quota counts never changes, only how much of it there may be."""
    now, before = (each.get("spec", {}).get("scopes") or [] for each in (new, old))
    return [] if set(now) == set(before) else [faults.invalid("spec.scopes", now, "field is immutable")]


def limit_range(obj: Object) -> list[Fault]:
    """Return every fault of a LimitRange."""
    found: list[Fault] = []
    seen: set[str] = set()
    for index, item in enumerate((obj.get("spec") or {}).get("limits") or ()):
        at, kind = f"spec.limits[{index}]", item.get("type", "")
        wrong = [faults.invalid(f"{at}.type", kind, each) for each in names.qualified(kind)]
        if not wrong and "/" not in kind and kind not in _LIMIT_TYPES:
            detail = "must be a standard limit type or fully qualified"
            wrong.append(faults.invalid(f"{at}.type", kind, detail))
        found += wrong
        if kind in seen:
            found.append(faults.duplicate(f"{at}.type", kind))
        seen.add(kind)
        found += _item(item, kind, at)
    return found


def _item(item: Object, kind: str, path: str) -> list[Fault]:
    found: list[Fault] = []
    is_pods = kind in ("Pod", "Container")
    known, detail = (_CONTAINER, "must be a standard resource for containers") if is_pods else (_STANDARD, "")
    fields = ("max", "min", "default", "defaultRequest", "maxLimitRequestRatio")
    for field in fields:
        if kind == "Pod" and field.startswith("default") and item.get(field):
            found.append(faults.forbidden(f"{path}.{field}", "may not be specified when `type` is 'Pod'"))
            continue
        for name in item.get(field) or ():
            found += _resource_name(name, f"{path}.{field}[{name}]", known, detail)
    given = [*(item.get("min") or ()), *(item.get("max") or ())]
    if kind == "PersistentVolumeClaim" and "storage" not in given:
        detail = "either minimum or maximum storage value is required, but neither was provided"
        found.append(faults.required(f"{path}.limits", detail))
    skipped = ("default", "defaultRequest") if kind == "Pod" else ()
    amounts = {each: {} if each in skipped else item.get(each) or {} for each in fields}
    for name in sorted({name for each in amounts.values() for name in each}):
        found += _compared(name, {each: amounts[each][name] for each in fields if name in amounts[each]}, path)
    return found


def _compared(name: str, amounts: Object, path: str) -> list[Fault]:
    """Return what of one resource's limits contradicts the others."""
    found: list[Fault] = []
    for less, more, told, shown, words in _COMPARED:
        if less in amounts and more in amounts and quantity.parse(amounts[less]) > quantity.parse(amounts[more]):
            detail = words.format(amounts[less], amounts[more])
            found.append(faults.invalid(f"{path}.{told}[{name}]", amounts[shown], detail))
    ratio = amounts.get("maxLimitRequestRatio")
    at = f"{path}.maxLimitRequestRatio[{name}]"
    if ratio is not None and quantity.parse(ratio) < 1:
        found.append(faults.invalid(at, ratio, f"ratio {ratio} is less than 1"))
    if ratio is not None and "min" in amounts and "max" in amounts and quantity.parse(amounts["min"]) > 0:
        most = quantity.parse(amounts["max"]) / quantity.parse(amounts["min"])
        if quantity.parse(ratio) > most:
            found.append(faults.invalid(at, ratio, f"ratio {ratio} is greater than max/min = {most:.6f}"))
    return found
