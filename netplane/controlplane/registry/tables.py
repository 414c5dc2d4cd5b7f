"""Answers of the kind Table: what `kubectl get` prints."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from netplane.controlplane.registry.types import ResourceType
from netplane.kube.types import Object

IncludeObject = Literal["None", "Metadata", "Object"]


def table(
    rt: ResourceType,
    objects: Iterable[Object],
    *,
    include_object: IncludeObject = "Metadata",
    now: datetime,
    metadata: Object | None = None,
    columns: bool = True,
) -> Object:
    """Return the objects as a meta.k8s.io/v1 Table, a row each; a watch event is a table of one row.

    `metadata` is the list's own. `columns=False` leaves the definitions out, as watches do after their first event.
    """
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata or {},
        "columnDefinitions": [each.definition() for each in rt.columns] if columns else None,
        "rows": [row(rt, each, include_object=include_object, now=now) for each in objects],
    }


def row(rt: ResourceType, obj: Object, *, include_object: IncludeObject, now: datetime) -> Object:
    """Return one object as a row of its type's table."""
    made: Object = {"cells": rt.cells(obj, now)}
    conditions = rt.row_conditions(obj) if rt.row_conditions else None
    if conditions:
        made["conditions"] = conditions
    if include_object == "Object":
        made["object"] = obj
    elif include_object == "Metadata":
        made["object"] = partial(obj)
    else:
        made["object"] = None
    return made


def partial(obj: Object) -> Object:
    """Return the object's metadata alone, as a PartialObjectMetadata."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def partial_list(objects: Iterable[Object], *, metadata: Object) -> Object:
    """Return the metadata of many objects as a PartialObjectMetadataList."""
    items = [{"metadata": each["metadata"]} for each in objects]
    return {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": items}
