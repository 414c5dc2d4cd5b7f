"""Kubernetes' OpenAPI definitions as shapes. What objects must fulfil beyond their structure is said in `groups`."""

from __future__ import annotations

from importlib import resources
from typing import Any

import orjson

from netplane.controlplane.registry.schema import usage
from netplane.kube.shape import ANY, Kind, ListType, Shape

_VERSION = "v1.33.0-local"
_REF = len("#/$defs/")
_SCALARS: dict[str, Kind] = {"string": "string", "integer": "integer", "number": "number", "boolean": "boolean"}
_NAMED: dict[str, Kind] = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": "quantity",
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": "int-or-string",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Time": "time",
    "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime": "micro-time",
}
_UNTYPED = {
    "io.k8s.apimachinery.pkg.runtime.RawExtension",
    "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray",
}


def load() -> dict[str, Any]:
    """Read the definitions of the Kubernetes version we claim: name to schema (1.4 MB of text, about 10 ms)."""
    folder = resources.files("kubernetes_validate") / "kubernetes-json-schema" / _VERSION
    definitions: dict[str, Any] = orjson.loads((folder / "_definitions.json").read_bytes())["$defs"]
    return definitions | usage.definitions()


class Shapes:
    """Definition name to shape. The schemas are dropped as they are compiled; what is never asked for costs nothing."""

    __slots__ = ("_definitions", "_shapes")

    def __init__(self, definitions: dict[str, Any]) -> None:
        self._definitions = {name: _stripped(schema) for name, schema in definitions.items()}
        self._shapes: dict[str, Shape] = {}

    def of(self, name: str) -> Shape:
        """Return the shape of a named definition; `ANY` for a name that is not defined."""
        if name in self._shapes:
            return self._shapes[name]
        if name in _NAMED:
            return self._shapes.setdefault(name, Shape(kind=_NAMED[name], name=name))
        if name in _UNTYPED or name not in self._definitions:
            return ANY
        schema = self._definitions.pop(name)
        if "properties" not in schema:
            return self._shapes.setdefault(name, self.compile(schema))
        shape = Shape(kind="object", name=name, required=frozenset(schema.get("required", ())))
        shape.is_atomic = schema.get("x-kubernetes-map-type") == "atomic"
        self._shapes[name] = shape
        for key, value in schema["properties"].items():
            shape.fields[key] = self.compile(value)
        return shape

    def compile(self, schema: dict[str, Any]) -> Shape:
        """Return the shape of one schema as it stands at a property."""
        reference = schema.get("$ref") or next((s["$ref"] for s in schema.get("allOf", ()) if "$ref" in s), None)
        if reference:
            return _with_strategies(self.of(reference[_REF:]), schema)
        kind = _type(schema)
        if kind == "array":
            return self._list(schema)
        if kind == "object":
            return self._map(schema)
        if kind == "string" and schema.get("format") == "byte":
            return Shape(kind="bytes")
        return Shape(kind=_SCALARS[kind], format=schema.get("format", "")) if kind in _SCALARS else ANY

    def _map(self, schema: dict[str, Any]) -> Shape:
        values = schema.get("additionalProperties")
        if not isinstance(values, dict):
            return ANY
        return Shape(kind="map", items=self.compile(values), is_atomic=schema.get("x-kubernetes-map-type") == "atomic")

    def _list(self, schema: dict[str, Any]) -> Shape:
        item = self.compile(schema["items"])
        keys = tuple(schema.get("x-kubernetes-list-map-keys", ()))
        list_type: ListType = schema.get("x-kubernetes-list-type", "atomic")
        defaults = {"protocol": "TCP"} if "protocol" in keys else {}
        shape = Shape(kind="list", items=item, list_type=list_type, list_keys=keys, key_defaults=defaults)
        return _with_strategies(shape, schema)


def _type(schema: dict[str, Any]) -> str:
    kind = schema.get("type", "")
    if isinstance(kind, list):
        return next((str(each) for each in kind if each != "null"), "")
    return str(kind)


def _with_strategies(shape: Shape, schema: dict[str, Any]) -> Shape:
    """Return the shape with the patch strategy of the place where it stands; the fields stay shared, for recursion."""
    strategy = schema.get("x-kubernetes-patch-strategy", "")
    if not strategy:
        return shape
    return Shape(
        kind=shape.kind,
        name=shape.name,
        fields=shape.fields,
        items=shape.items,
        required=shape.required,
        list_type=shape.list_type,
        list_keys=shape.list_keys,
        key_defaults=shape.key_defaults,
        is_atomic=shape.is_atomic,
        is_open=shape.is_open,
        merge_key=schema.get("x-kubernetes-patch-merge-key", ""),
        strategies=frozenset(strategy.split(",")),
    )


_KEPT = ("$ref", "allOf", "items", "additionalProperties", "type", "format", "required")


def _stripped(schema: dict[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in schema.items() if k in _KEPT or k.startswith("x-kubernetes-")}
    if "properties" in schema:
        kept["properties"] = {k: _stripped(v) for k, v in schema["properties"].items()}
    return kept
