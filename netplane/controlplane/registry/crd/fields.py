"""What a definition may say of metadata, and the fields by which its objects can be selected (KEP-4358)."""

from __future__ import annotations

from typing import Any

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.faults import Fault
from netplane.kube.types import Object

_METADATA = frozenset({"name", "generateName"})
_MOST = 8
_SELECTABLE = ("boolean", "integer", "string")
_NONE: Any = None


def of_metadata(schema: Object, path: str) -> list[Fault]:
    """Return the faults of what a root schema says of metadata: only of its names may it say anything."""
    stated = (schema.get("properties") or {}).get("metadata") or {}
    detail = "must not specify anything other than name and generateName, but metadata is implicitly specified"
    more = set(stated) - {"type", "properties", "description"}
    if more or set(stated.get("properties") or ()) - _METADATA:
        return [faults.forbidden(f"{path}.properties[metadata]", detail)]
    return []


def selectable(version: Object, schema: Object, path: str) -> list[Fault]:
    """Return the faults of a version's `selectableFields`."""
    stated, at = version.get("selectableFields") or (), f"{path}.selectableFields"
    found: list[Fault] = []
    if len(stated) > _MOST:
        found.append(faults.too_many(at, len(stated), _MOST))
    seen: set[str] = set()
    for index, each in enumerate(stated):
        text, where = str(each.get("jsonPath") or ""), f"{at}[{index}].jsonPath"
        if not text:
            found.append(faults.required(where))
        elif text in seen:
            found.append(faults.duplicate(where, text))
        elif why := _problem(schema, text):
            found.append(faults.invalid(where, text, why))
        seen.add(text)
    return found


def _problem(schema: Object, text: str) -> str:
    if not text.startswith("."):
        return "is an invalid path: must be a simple path that begins with a dot"
    if text == ".metadata" or text.startswith(".metadata."):
        return "must not point to fields in metadata"
    at: Object | None = schema
    for step in text[1:].split("."):
        at = (at.get("properties") or {}).get(step, _NONE) if at is not None else None
    if at is None:
        return "is an invalid path: does not refer to a valid field"
    kind = at.get("type", "")
    return "" if kind in _SELECTABLE else "must point to a field of type string, boolean or integer"
