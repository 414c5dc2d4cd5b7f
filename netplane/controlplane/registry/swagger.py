"""The OpenAPI v2 document: all types in one, for clients that read no v3. Its bytes for old kubectl are gnostic's.

kubectl up to 1.28 reads it for `apply`, and every kubectl for `explain --output=plaintext-openapiv2`. It says what the
v3 documents say, in Swagger 2.0: definitions with their kinds, list keys and patch strategies, and the paths.
"""

from __future__ import annotations

from typing import Any

import orjson

from netplane.controlplane.registry import gnostic, openapi
from netplane.controlplane.registry.catalog import Registry
from netplane.controlplane.registry.schema import definitions

PROTOBUF = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
"""What the answer is called: with the `@` of the name that clients ask for it would be no media type (RFC 9110)."""

_DEFINITIONS = "#/definitions/"
_SHAPES = frozenset({"type", "items", "properties", "additionalProperties", "required", "format", "default"})
_TEXTS: dict[str, dict[str, str]] = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": "string", "format": "int-or-string"},
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": "string"},
}
"""What v2 has no words for, as Kubernetes tells it there."""


def document(registry: Registry) -> dict[str, Any]:
    """Return the document of all types. It takes about a fifth of a second: not for an event loop."""
    known = definitions.load()
    paths: dict[str, Any] = {}
    wanted = [openapi.DELETING]
    for rt in registry.all():
        name = openapi.schema_name(rt)
        if rt.crd is not None:
            known |= {each: _structural(schema) for each, schema in openapi.custom(rt).items()}
        wanted += [each for each in (name, f"{name}List") if each in known]
        for path, item in openapi.operations(rt, name).items():
            paths[path] = _item(item)
    return {
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": openapi.VERSION},
        "paths": dict(sorted(paths.items())),
        "definitions": dict(sorted(_collected(wanted, known).items())),
    }


def as_json(registry: Registry) -> bytes:
    """Return the document as JSON."""
    return orjson.dumps(document(registry))


def as_protobuf(registry: Registry) -> bytes:
    """Return the document as gnostic's `openapi.v2.Document`."""
    return gnostic.encode(document(registry))


def _collected(wanted: list[str], known: dict[str, Any]) -> dict[str, Any]:
    """Return the wanted definitions and all they refer to."""
    pending, schemas = list(wanted), {}
    while pending:
        name = pending.pop()
        if name not in schemas and name in known:
            schemas[name] = _schema(known[name], pending) | _TEXTS.get(name, {})
    return schemas


def _schema(schema: dict[str, Any], references: list[str]) -> dict[str, Any]:
    """Return a JSON schema as Swagger takes it: no null types, no alternatives."""
    result: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "$ref" and isinstance(value, str):
            target = value.rpartition("/")[2]
            references.append(target)
            result[key] = _DEFINITIONS + target
        elif key == "type" and isinstance(value, list):
            result[key] = next(each for each in value if each != "null")
        elif key == "properties":
            result[key] = {name: _schema(each, references) for name, each in openapi.told(schema).items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            result[key] = _schema(value, references)
        elif _is_told(key) and (key != "enum" or None not in value):
            result[key] = value
    return result


def _is_told(key: str) -> bool:
    return key in gnostic.SCHEMA_KEYS or key.startswith("x-")


def _structural(schema: Any) -> Any:
    """Return a custom resource's schema without what v2 cannot say: nulls, and objects that keep unknown fields.

    Of these no shape is told, as clients would take what it does not name for a mistake. After apiextensions'
    ToStructuralOpenAPIV2.
    """
    if not isinstance(schema, dict):
        return schema
    is_free = schema.get("nullable") or schema.get("x-kubernetes-preserve-unknown-fields")
    is_free = is_free or (schema.get("type") == "array" and not isinstance(schema.get("items"), dict))
    told = {key: value for key, value in schema.items() if not (is_free and key in _SHAPES)}
    if "properties" in told:
        told["properties"] = {name: _structural(each) for name, each in told["properties"].items()}
    for key in ("items", "additionalProperties"):
        if key in told:
            told[key] = _structural(told[key])
    return told


def _item(item: dict[str, Any]) -> dict[str, Any]:
    """Return a path's item of a v3 document as v2 has it."""
    return {
        key: [_parameter(each) for each in value] if key == "parameters" else _operation(value)
        for key, value in item.items()
    }


def _parameter(parameter: dict[str, Any]) -> dict[str, Any]:
    return {**{key: value for key, value in parameter.items() if key != "schema"}, **parameter["schema"]}


def _operation(operation: dict[str, Any]) -> dict[str, Any]:
    told = {key: value for key, value in operation.items() if key.startswith("x-")}
    parameters = [_parameter(each) for each in operation.get("parameters", ())]
    body = operation.get("requestBody")
    if body is not None:
        content = body["content"]
        is_whole = "application/json" in content
        told["consumes"] = ["*/*"] if is_whole else sorted(content)
        schema = _referred(content["application/json"]["schema"]) if is_whole else {"type": "object"}
        is_needed = {"required": True} if body.get("required") else {}
        parameters.insert(0, {"name": "body", "in": "body", "schema": schema} | is_needed)
    if parameters:
        told["parameters"] = parameters
    told["produces"] = ["application/json", "application/yaml"]
    told["responses"] = {
        code: {"description": each["description"], "schema": _referred(each["content"]["application/json"]["schema"])}
        for code, each in operation["responses"].items()
    }
    return told


def _referred(schema: dict[str, Any]) -> dict[str, Any]:
    return {"$ref": _DEFINITIONS + schema["$ref"].rpartition("/")[2]}
