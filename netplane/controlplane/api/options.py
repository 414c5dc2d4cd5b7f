"""Read the query of a request: list, watch, create, delete options. Pure; a bad value is a 400 that names it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import parse_qsl

from netplane.controlplane.api import status
from netplane.controlplane.registry import strategy
from netplane.kube.types import Object

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


def writing(asked: Query, *, default_manager: str) -> Writing:
    """Return the write options; the manager falls back to the client's name as Kubernetes does."""
    if not asked:
        return Writing(is_dry_run=False, field_manager=default_manager, field_validation="Warn", force=False)
    dry = asked.get("dryRun", ())
    if any(value not in ("All", "") for value in dry):
        raise status.bad_request(f'Invalid value: "{",".join(dry)}": dryRun: supported values: "All"')
    validation = text(asked, "fieldValidation") or "Warn"
    if validation not in ("Strict", "Warn", "Ignore"):
        raise status.bad_request(
            f'fieldValidation: Unsupported value: "{validation}": supported values: "Ignore", "Strict", "Warn"'
        )
    manager = text(asked, "fieldManager")
    if len(manager) > 128 or not manager.isprintable():
        raise status.bad_request("fieldManager: at most 128 printable characters")
    chosen = cast(strategy.FieldValidation, validation)
    return Writing("All" in dry, manager or default_manager, chosen, flag(asked, "force"))


@dataclass(frozen=True, slots=True)
class Deleting:
    """DeleteOptions: from the body, or from the query when there is no body."""

    grace_seconds: int | None = None
    propagation: str = ""
    uid: str = ""
    resource_version: str = ""
    is_dry_run: bool = False


def deleting(asked: Query, body: Object | None) -> Deleting:
    """Return the delete options of a request."""
    given = body or {}
    preconditions = given.get("preconditions") or {}
    grace = given.get("gracePeriodSeconds")
    if grace is None:
        grace = number(asked, "gracePeriodSeconds")
    propagation = given.get("propagationPolicy") or text(asked, "propagationPolicy")
    orphan = given.get("orphanDependents")
    if not propagation and orphan is not None:
        propagation = "Orphan" if orphan else "Background"
    if propagation not in ("", "Orphan", "Background", "Foreground"):
        raise status.bad_request(f'propagationPolicy: Unsupported value: "{propagation}"')
    if grace is not None and (not isinstance(grace, int) or grace < 0):
        # A negative period means one second, as the API has it for pods.
        grace = 1 if isinstance(grace, int) else None
    dry = given.get("dryRun") or asked.get("dryRun", ())
    return Deleting(
        grace_seconds=grace,
        propagation=propagation,
        uid=preconditions.get("uid") or "",
        resource_version=preconditions.get("resourceVersion") or "",
        is_dry_run="All" in dry,
    )
