"""Structural schemas: the shape they give, what they prune and what they default.

Source: k8s.io/apiextensions-apiserver/pkg/apiserver/schema. A schema here is the JSON of `openAPIV3Schema`.
"""

from __future__ import annotations

import copy
from typing import Any

from netplane.controlplane.registry.schema.decode import Path, dotted
from netplane.kube.shape import ANY, Kind, ListType, Shape

Schema = dict[str, Any]

_ROOT = ("apiVersion", "kind", "metadata")
_SCALARS: dict[str, Kind] = {"string": "string", "integer": "integer", "number": "number", "boolean": "boolean"}


def shape(schema: Schema, *, metadata: Shape) -> Shape:
    """Return the shape of a custom resource's objects."""
    root = _shape(schema)
    text = Shape(kind="string")
    fields = {**root.fields, "apiVersion": text, "kind": text, "metadata": metadata}
    return Shape(kind="object", fields=fields, is_open=root.is_open)


def _shape(schema: Schema) -> Shape:
    if schema.get("x-kubernetes-int-or-string"):
        return Shape(kind="int-or-string")
    kind = schema.get("type", "")
    if kind == "array":
        return _list(schema)
    is_atomic = schema.get("x-kubernetes-map-type") == "atomic"
    if "properties" in schema or (kind == "object" and not isinstance(schema.get("additionalProperties"), dict)):
        fields = {name: _shape(each) for name, each in (schema.get("properties") or {}).items()}
        is_open = bool(schema.get("x-kubernetes-preserve-unknown-fields") or schema.get("additionalProperties"))
        return Shape(kind="object", fields=fields, is_atomic=is_atomic, is_open=is_open)
    if isinstance(schema.get("additionalProperties"), dict):
        return Shape(kind="map", items=_shape(schema["additionalProperties"]), is_atomic=is_atomic)
    return Shape(kind=_SCALARS[kind]) if kind in _SCALARS else ANY


def _list(schema: Schema) -> Shape:
    items = schema.get("items")
    list_type: ListType = schema.get("x-kubernetes-list-type", "atomic")
    keys = tuple(schema.get("x-kubernetes-list-map-keys", ()))
    properties = (items or {}).get("properties") or {}
    defaults = {key: properties[key]["default"] for key in keys if "default" in properties.get(key, {})}
    item = _shape(items) if items else ANY
    return Shape(kind="list", items=item, list_type=list_type, list_keys=keys, key_defaults=defaults)


def prune(obj: dict[str, Any], schema: Schema) -> list[str]:
    """Drop from a custom resource what its schema does not name, in place; return what was dropped, as faults."""
    unknown: list[str] = []
    _prune(obj, schema, None, unknown, is_resource=True)
    return unknown


def _prune(value: Any, schema: Schema, path: Path, unknown: list[str], *, is_resource: bool) -> None:
    if isinstance(value, list):
        items = schema.get("items") or {}
        for index, each in enumerate(value):
            _prune(each, items, (path, index), unknown, is_resource=bool(items.get("x-kubernetes-embedded-resource")))
    if not isinstance(value, dict):
        return
    properties, additional = schema.get("properties") or {}, schema.get("additionalProperties")
    preserves = schema.get("x-kubernetes-preserve-unknown-fields") or additional is True
    for key in list(value):
        if is_resource and key in _ROOT:
            continue
        child = properties.get(key)
        if child is None and isinstance(additional, dict):
            child = additional
        if child is not None:
            embedded = bool(child.get("x-kubernetes-embedded-resource"))
            _prune(value[key], child, (path, key), unknown, is_resource=embedded)
        elif not preserves:
            unknown.append(f'unknown field "{dotted((path, key))}"')
            del value[key]


def default(value: Any, schema: Schema) -> None:
    """Fill in, in place, what the schema has defaults for; nulls that may not be null count as absent."""
    if isinstance(value, list):
        items = schema.get("items")
        for each in value if items else ():
            default(each, items or {})
    if not isinstance(value, dict):
        return
    properties, additional = schema.get("properties") or {}, schema.get("additionalProperties")
    for key, child in properties.items():
        if key in value and value[key] is None and not child.get("nullable"):
            del value[key]
        if key not in value and "default" in child:
            value[key] = copy.deepcopy(child["default"])
        if key in value:
            default(value[key], child)
    if isinstance(additional, dict):
        for key, each in list(value.items()):
            if key in properties:
                continue
            if each is None and not additional.get("nullable"):
                _drop_null(value, key, additional)
            default(value.get(key), additional)


def _drop_null(value: dict[str, Any], key: str, schema: Schema) -> None:
    if "default" in schema:
        value[key] = copy.deepcopy(schema["default"])
    elif schema.get("type") or schema.get("x-kubernetes-int-or-string"):
        del value[key]
