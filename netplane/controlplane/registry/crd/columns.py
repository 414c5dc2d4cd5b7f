"""Table columns of custom resources, from their additionalPrinterColumns."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson

from netplane.controlplane.registry.crd import jsonpath
from netplane.controlplane.registry.rules import times
from netplane.controlplane.registry.types import Cells, Column
from netplane.kube.types import Object

_NAME = Column("Name", format="name")
_AGE = {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}
_DESCRIPTION = "Custom resource definition column (in JSONPath format): "


def columns(declared: list[Object]) -> tuple[Column, ...]:
    """Return NAME and the declared columns, AGE when none is declared."""
    return (_NAME, *(_column(each) for each in declared or [_AGE]))


def _column(each: Object) -> Column:
    return Column(
        each["name"],
        each["type"],
        format=each.get("format", ""),
        description=each.get("description") or _DESCRIPTION + each["jsonPath"],
        priority=each.get("priority", 0),
    )


def cells(declared: list[Object]) -> Cells:
    """Return the function that makes a row of the same columns."""
    readers = [(each["jsonPath"], each["type"]) for each in declared or [_AGE]]

    def row(obj: Object, now: datetime) -> list[Any]:
        return [obj["metadata"]["name"], *(_cell(obj, path, kind, now) for path, kind in readers)]

    return row


def _cell(obj: Object, path: str, kind: str, now: datetime) -> Any:
    found = jsonpath.find(obj, path)
    if not found or found[0] is None:
        return None
    if kind == "string":
        return _text(found[0])
    value = found[0]
    if kind == "date":
        return _age(value, now)
    if kind == "boolean":
        return value if isinstance(value, bool) else None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return int(value) if kind == "integer" else float(value)


def _age(value: Any, now: datetime) -> str:
    try:
        return times.age(value, now) if isinstance(value, str) else "<invalid>"
    except ValueError:
        return "<invalid>"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
