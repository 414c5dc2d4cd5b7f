"""The OpenAPI v3 documents, one for each group version. The one v2 document for all of them is swagger's.

kubectl reads v3 for `explain`, `apply` and `diff`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from netplane import __version__
from netplane.controlplane.registry.catalog import Registry
from netplane.controlplane.registry.schema import definitions
from netplane.controlplane.registry.types import ResourceType

VERSION = f"v1.33.0+netplane.{__version__.replace('+', '.')}"
_COMPONENTS = "#/components/schemas/"
_ACTIONS = {
    "list": ("get", False), "create": ("post", False), "deletecollection": ("delete", False),
    "get": ("get", True), "update": ("put", True), "patch": ("patch", True), "delete": ("delete", True),
}  # fmt: skip
_ACTION_NAMES = {"create": "post", "update": "put"}
_WRITE_QUERIES = "dryRun fieldManager fieldValidation"
_QUERIES = {
    "list": "continue fieldSelector labelSelector limit resourceVersion resourceVersionMatch sendInitialEvents"
    " timeoutSeconds",
    "create": _WRITE_QUERIES,
    "update": _WRITE_QUERIES,
    "patch": _WRITE_QUERIES + " force",
    "delete": "dryRun gracePeriodSeconds orphanDependents propagationPolicy",
}
_MORE_QUERIES = {"list": " allowWatchBookmarks watch", "deletecollection": " " + _QUERIES["delete"]}
_QUERY_TYPES = {
    **dict.fromkeys(("allowWatchBookmarks", "force", "orphanDependents", "sendInitialEvents", "watch"), "boolean"),
    **dict.fromkeys(("gracePeriodSeconds", "limit", "timeoutSeconds"), "integer"),
}
_PATCHES = {
    "application/apply-patch+yaml": {"type": "object"},
    "application/json-patch+json": {"type": "array", "items": {"type": "object"}},
    "application/merge-patch+json": {"type": "object"},
    "application/strategic-merge-patch+json": {"type": "object"},
}
_EDITION = 2
"""How documents are written: counts up with every change of that, as clients keep what has a known hash for ever."""
DELETING = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"


@dataclass(frozen=True, slots=True)
class Document:
    """An encoded document; the hash is its ETag and part of its URL, so that it may be cached for ever."""

    body: bytes
    hash: str


class Documents:
    """The documents of a registry, each built when it is first asked for and kept as bytes."""

    __slots__ = ("_built", "_types")

    def __init__(self, registry: Registry, known: Documents | None = None) -> None:
        """`known` are the documents of an earlier registry: what has not changed is taken over."""
        self._types = {_path(group, version): types for (group, version), types in registry.group_versions().items()}
        self._built: dict[str, Document] = dict(known._built) if known else {}

    def index(self) -> bytes:
        """Answer `/openapi/v3`: path to hashed URL. Builds no document."""
        paths = {
            path: {"serverRelativeURL": f"/openapi/v3/{path}?hash={_fingerprint(path, types)}"}
            for path, types in sorted(self._types.items())
        }
        return orjson.dumps({"paths": paths})

    def document(self, path: str) -> Document | None:
        """Answer `/openapi/v3/PATH`, as `apis/apps/v1`; None when that is not served."""
        types = self._types.get(path)
        if types is None:
            return None
        fingerprint = _fingerprint(path, types)
        if fingerprint not in self._built:
            self._built[fingerprint] = Document(orjson.dumps(_document(types)), fingerprint)
        return self._built[fingerprint]


def _path(group: str, version: str) -> str:
    return f"apis/{group}/{version}" if group else f"api/{version}"


def _fingerprint(path: str, types: Iterable[ResourceType]) -> str:
    told: list[Any] = [VERSION, _EDITION, path]
    for rt in types:
        told += [rt.plural, rt.kind, rt.verbs, [each.name for each in rt.subresources]]
        told.append(rt.crd["spec"] if rt.crd else None)
    return hashlib.sha256(orjson.dumps(told)).hexdigest().upper()


def _document(types: tuple[ResourceType, ...]) -> dict[str, Any]:
    known = definitions.load()
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for rt in types:
        name = schema_name(rt)
        if rt.crd is not None:
            known |= custom(rt)
        _collect(name, known, schemas)
        if f"{name}List" in known:
            _collect(f"{name}List", known, schemas)
        paths |= operations(rt, name)
    _collect(DELETING, known, schemas)
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": dict(sorted(schemas.items()))},
    }


def schema_name(rt: ResourceType) -> str:
    """Return the name under which the documents define the objects of a type."""
    if rt.crd is None:
        return rt.definition
    return ".".join([*reversed(rt.group.split(".")), rt.version, rt.kind])


def _collect(name: str, known: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Add a definition and all it refers to."""
    pending = [name]
    while pending:
        each = pending.pop()
        if each not in schemas and each in known:
            schemas[each] = _convert(known[each], pending)


def told(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema's properties as documents tell them: of apiVersion and kind, not that they have one value only.

    The real ones do not either, and `kubectl explain` would print it.
    """
    properties: dict[str, Any] = schema["properties"]
    if "x-kubernetes-group-version-kind" not in schema:
        return properties
    fixed = {name: properties[name] for name in ("apiVersion", "kind") if name in properties}
    return properties | {
        name: {key: value for key, value in each.items() if key != "enum"} for name, each in fixed.items()
    }


def _convert(schema: Any, references: list[str]) -> Any:
    """Return a JSON schema as OpenAPI 3.0 takes it: no null types, no enums with null, no siblings of $ref."""
    if isinstance(schema, list):
        return [_convert(each, references) for each in schema]
    if not isinstance(schema, dict):
        return schema
    result: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "$ref" and isinstance(value, str):
            target = value.rpartition("/")[2]
            references.append(target)
            result[key] = _COMPONENTS + target
        elif key == "type" and isinstance(value, list):
            result[key] = next(each for each in value if each != "null")
        elif key == "properties":
            result[key] = {name: _convert(each, references) for name, each in told(schema).items()}
        elif key != "enum" or None not in value:
            result[key] = _convert(value, references)
    if "$ref" in result and len(result) > 1:
        result["allOf"] = [{"$ref": result.pop("$ref")}]
    return result


def custom(rt: ResourceType) -> dict[str, Any]:
    """Return the definitions of a custom resource and its list by name, with the standard metadata."""
    name = schema_name(rt)
    version = next(each for each in (rt.crd or {})["spec"]["versions"] if each["name"] == rt.version)
    schema = dict((version.get("schema") or {}).get("openAPIV3Schema") or {"type": "object"})
    meta = "io.k8s.apimachinery.pkg.apis.meta.v1"
    top = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}}
    fields = {**top, "metadata": {"$ref": f"#/$defs/{meta}.ObjectMeta"}}
    schema["properties"] = {**(schema.get("properties") or {}), **fields}
    gvk = {"group": rt.group, "version": rt.version}
    schema["x-kubernetes-group-version-kind"] = [{**gvk, "kind": rt.kind}]
    items = {"type": "array", "items": {"$ref": f"#/$defs/{name}"}}
    listed = {**top, "metadata": {"$ref": f"#/$defs/{meta}.ListMeta"}, "items": items}
    many = {
        "type": "object",
        "required": ["items"],
        "properties": listed,
        "x-kubernetes-group-version-kind": [{**gvk, "kind": rt.list_kind}],
    }
    return {name: schema, f"{name}List": many}


def operations(rt: ResourceType, name: str) -> dict[str, Any]:
    """Return the paths of a type whose objects are defined as `name`: path to method to operation, as v3 tells it."""
    root = rt.resource.path(namespace="{namespace}")
    paths: dict[str, Any] = {}
    for verb in rt.verbs:
        if verb in _ACTIONS:
            method, is_named = _ACTIONS[verb]
            path = f"{root}/{{name}}" if is_named else root
            shown = f"{name}List" if verb == "list" else name
            paths.setdefault(path, _item(rt, is_named=is_named))[method] = _operation(rt, verb, shown)
    if rt.has_status:
        item = paths.setdefault(f"{root}/{{name}}/status", _item(rt, is_named=True))
        for verb in ("get", "update", "patch"):
            item[_ACTIONS[verb][0]] = _operation(rt, verb, name)
    if rt.namespaced and "list" in rt.verbs:
        paths[rt.resource.path()] = {"get": _operation(rt, "list", f"{name}List")}
    return paths


def _item(rt: ResourceType, *, is_named: bool) -> dict[str, Any]:
    names = [*(["namespace"] if rt.namespaced else []), *(["name"] if is_named else [])]
    schema = {"type": "string", "uniqueItems": True}
    found = [{"name": each, "in": "path", "required": True, "schema": schema} for each in names]
    return {"parameters": found} if found else {}


def _operation(rt: ResourceType, verb: str, shown: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": _COMPONENTS + shown}}}
    operation: dict[str, Any] = {
        "x-kubernetes-action": _ACTION_NAMES.get(verb, verb),
        "x-kubernetes-group-version-kind": {"group": rt.group, "version": rt.version, "kind": rt.kind},
        "responses": {"200": {"description": "OK", "content": content}},
    }
    queries = _QUERIES.get("list" if verb == "deletecollection" else verb, "") + _MORE_QUERIES.get(verb, "")
    if queries:
        operation["parameters"] = [
            {"name": each, "in": "query", "schema": {"type": _QUERY_TYPES.get(each, "string"), "uniqueItems": True}}
            for each in queries.split()
        ]
    if verb in ("create", "update"):
        operation["requestBody"] = {"content": content, "required": True}
    elif verb == "patch":
        patches = {each: {"schema": schema} for each, schema in _PATCHES.items()}
        operation["requestBody"] = {"content": patches, "required": True}
    elif verb in ("delete", "deletecollection"):
        operation["requestBody"] = {"content": {"application/json": {"schema": {"$ref": _COMPONENTS + DELETING}}}}
    return operation
