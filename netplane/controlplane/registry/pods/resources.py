"""What requests and limits must fulfil."""

from __future__ import annotations

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.rules import names
from netplane.kube import quantity
from netplane.kube.types import Object

_STANDARD = ("cpu", "memory", "ephemeral-storage")


def resource_faults(resources: Object, path: str) -> list[Fault]:
    """Return every fault of a ResourceRequirements."""
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    found: list[Fault] = []
    for name, amount in limits.items():
        found += _amount(name, amount, f"{path}.limits")
    for name, amount in requests.items():
        found += _amount(name, amount, f"{path}.requests")
        limit = limits.get(name)
        if limit is not None and limit != amount:
            found += _against_limit(name, amount, limit, f"{path}.requests")
        elif limit is None and not _may_overcommit(name):
            found.append(faults.required(f"{path}.limits", "Limit must be set for non overcommitable resources"))
    asked = {*limits, *requests}
    if any(name.startswith("hugepages-") for name in asked) and not asked & {"cpu", "memory"}:
        found.append(faults.forbidden(path, "HugePages require cpu or memory"))
    return found


def _may_overcommit(name: str) -> bool:
    """Standard resources may be requested without a limit; extended ones and huge pages may not."""
    return name in _STANDARD or (("/" not in name or "kubernetes.io/" in name) and not name.startswith("hugepages-"))


def _against_limit(name: str, amount: str, limit: str, path: str) -> list[Fault]:
    if not _may_overcommit(name):
        return [faults.invalid(path, amount, f"must be equal to {name} limit of {limit}")]
    if quantity.parse(amount) > quantity.parse(limit):
        return [faults.invalid(path, amount, f"must be less than or equal to {name} limit of {limit}")]
    return []


def _amount(name: str, amount: str, path: str) -> list[Fault]:
    at = f"{path}[{name}]" if "/" in name else f"{path}.{name}"
    found: list[Fault] = []
    if name not in _STANDARD:
        found += [faults.invalid(at, name, each) for each in names.qualified(name)]
        if "/" not in name and not name.startswith("hugepages-"):
            found.append(faults.invalid(at, name, "must be a standard resource type or fully qualified"))
            found.append(faults.invalid(at, name, "must be a standard resource for containers"))
    value = quantity.parse(amount)
    if value < 0:
        found.append(faults.invalid(at, amount, names.NOT_NEGATIVE))
    if "/" in name and value % 1 != 0:
        found.append(faults.invalid(at, amount, "must be an integer"))
    return found
