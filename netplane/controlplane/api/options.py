"""Read the query of a request: list, watch, create, delete options. Pure; a bad value is a 400 that names it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import parse_qsl

from netplane.controlplane.api import status
from netplane.controlplane.registry import faults, strategy
from netplane.kube.types import Object

_KINDS = {"POST": "CreateOptions", "PUT": "UpdateOptions", "PATCH": "PatchOptions"}
_VALIDATIONS = ("Ignore", "Strict", "Warn")
_LONGEST_MANAGER = 128
Query = Mapping[str, tuple[str, ...]]


def query(raw: bytes) -> Query:
    """Decode a query string; a name given several times keeps all its values in order."""
    if not raw:
        return {}
    out: dict[str, tuple[str, ...]] = {}
    for name, value in parse_qsl(raw.decode("utf-8", "replace"), keep_blank_values=True):
        out[name] = (*out.get(name, ()), value)
    return out


def text(asked: Query, name: str) -> str:
    """Return the first value of a name, "" without it."""
    return asked.get(name, ("",))[0]


def flag(asked: Query, name: str) -> bool:
    """Return a boolean option: present and neither `false` nor `0` is true, as Kubernetes reads it."""
    values = asked.get(name)
    return values is not None and values[0].lower() not in ("false", "0")


def number(asked: Query, name: str) -> int | None:
    """Return a whole number option, None without it."""
    value = text(asked, name)
    if not value:
        return None
    try:
        return int(value)
    except ValueError:
        raise status.bad_request(f'invalid value for {name}: "{value}" is not a whole number') from None


def revision(asked: Query) -> int | None:
    """Return `resourceVersion` as a number, None when it is not given."""
    value = text(asked, "resourceVersion")
    if not value:
        return None
    if not value.isdigit():
        raise status.bad_request(f'Invalid value: "{value}": resourceVersion must be a number')
    return int(value)


@dataclass(frozen=True, slots=True)
class Writing:
    """The options that every write shares."""

    is_dry_run: bool
    field_manager: str
    field_validation: strategy.FieldValidation
    force: bool


def writing(asked: Query, *, default_manager: str, method: str) -> Writing:
    """Return the write options; the manager falls back to the client's name as Kubernetes does. Raises 422."""
    if not asked:
        return _unasked(default_manager)
    dry, validation = asked.get("dryRun", ()), text(asked, "fieldValidation") or "Warn"
    manager, found = text(asked, "fieldManager"), []
    if any(value not in ("All", "") for value in dry):
        found.append(faults.not_supported("dryRun", ",".join(dry), ("All",)))
    if validation not in _VALIDATIONS:
        found.append(faults.not_supported("fieldValidation", validation, _VALIDATIONS))
    if len(manager.encode()) > _LONGEST_MANAGER:
        found.append(faults.too_long("fieldManager", _LONGEST_MANAGER))
    if not manager.isprintable():
        found.append(faults.invalid("fieldManager", manager, "should only contain printable characters"))
    if found:
        raise status.invalid_options(_KINDS.get(method, "CreateOptions"), *found)
    chosen = cast(strategy.FieldValidation, validation)
    return Writing("All" in dry, manager or default_manager, chosen, flag(asked, "force"))


@functools.lru_cache(256)
def _unasked(manager: str) -> Writing:
    return Writing(is_dry_run=False, field_manager=manager, field_validation="Warn", force=False)


@dataclass(frozen=True, slots=True)
class Deleting:
    """DeleteOptions: from the body, or from the query when there is no body."""

    grace_seconds: int | None = None
    propagation: str = ""
    uid: str = ""
    resource_version: str = ""
    is_dry_run: bool = False


def deleting(asked: Query, body: Object | None) -> Deleting:
    """Return the delete options of a request. What cannot be read is refused: a deletion is never made by mistake.

    Where body and query both say `dryRun` and they differ, nothing is deleted.
    """
    given = body or {}
    if (given.get("kind") or "DeleteOptions") != "DeleteOptions":
        raise status.bad_request(f"the body of a deletion is DeleteOptions, not {given['kind']}")
    grace = given.get("gracePeriodSeconds")
    if grace is None:
        grace = number(asked, "gracePeriodSeconds")
    if grace is not None and (isinstance(grace, bool) or not isinstance(grace, int)):
        raise status.bad_request(f"gracePeriodSeconds: Invalid value: {grace!r}: must be a whole number")
    preconditions = _preconditions(given)
    return Deleting(
        # A negative period means one second, as the API has it for pods.
        grace_seconds=1 if grace is not None and grace < 0 else grace,
        propagation=_propagation(asked, given),
        uid=preconditions.get("uid") or "",
        resource_version=preconditions.get("resourceVersion") or "",
        is_dry_run=_is_dry_run(asked, given),
    )


def _is_dry_run(asked: Query, given: Object) -> bool:
    in_body = given.get("dryRun") or []
    if not isinstance(in_body, list):
        raise status.bad_request('dryRun: Invalid value: must be a list, of which only "All" is supported')
    values = [*in_body, *asked.get("dryRun", ())]
    if any(value not in ("All", "") for value in values):
        listed = ",".join(str(value) for value in values)
        raise _invalid(f'dryRun: Unsupported value: "{listed}": supported values: "All"')
    return "All" in values


def _propagation(asked: Query, given: Object) -> str:
    propagation = given.get("propagationPolicy") or text(asked, "propagationPolicy")
    orphan = given.get("orphanDependents")
    if orphan is None and "orphanDependents" in asked:
        orphan = flag(asked, "orphanDependents")
    if orphan not in (None, True, False):
        raise status.bad_request("orphanDependents: Invalid value: must be true or false")
    if propagation and orphan is not None:
        why = "orphanDependents and deletionPropagation cannot be both set"
        raise _invalid(f'propagationPolicy: Invalid value: "{propagation}": {why}')
    if propagation not in ("", "Orphan", "Background", "Foreground"):
        supported = '"Foreground", "Background", "Orphan", "nil"'
        raise _invalid(f'propagationPolicy: Unsupported value: "{propagation}": supported values: {supported}')
    if orphan is None:
        return str(propagation)
    return "Orphan" if orphan else "Background"


def _preconditions(given: Object) -> Object:
    found = given.get("preconditions") or {}
    if not isinstance(found, dict) or any(not isinstance(each, str | None) for each in found.values()):
        raise status.bad_request("preconditions: Invalid value: uid and resourceVersion must be strings")
    return found


def _invalid(why: str) -> status.ApiStatus:
    return status.ApiStatus(422, "Invalid", f'DeleteOptions.meta.k8s.io "" is invalid: {why}')
