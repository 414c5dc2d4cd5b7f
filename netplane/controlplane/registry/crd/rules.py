"""Judge a custom resource by its schema: every fault, worded as the real API words it."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any

import orjson

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.crd import patterns
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.rules import names, times

Schema = dict[str, Any]

_MAX_FAULTS = 100
_NOTHING: Any = object()
"""In place of an old value: there was none."""


def schema_faults(value: Any, schema: Schema, path: str = "", *, old: Any = _NOTHING) -> list[Fault]:
    """Return every fault of a value, its parts included; CEL rules are not judged here.

    What is as it was in the `old` value that this one replaces is not judged again (KEP-4008): a schema may become
    stricter, and an object that does not fulfil it stays writable in all its other parts.
    """
    found: list[Fault] = []
    _value(value, schema, path, found, old)
    return found[:_MAX_FAULTS]


def _is_as_before(value: Any, old: Any) -> bool:
    """Whether a value is the old one; for Python alone are 1 and True the same."""
    return bool(old is not _NOTHING and value == old and _json(value) == _json(old))


def _value(value: Any, schema: Schema, path: str, found: list[Fault], old: Any = _NOTHING) -> None:
    if _is_as_before(value, old):
        return
    if value is None:
        if not schema.get("nullable") and (schema.get("type") or schema.get("x-kubernetes-int-or-string")):
            _wrong_type(value, schema, path, found)
        return
    if not _is_type(value, schema):
        _wrong_type(value, schema, path, found)
        return
    if "enum" in schema and value not in schema["enum"]:
        supported = [str(each) for each in schema["enum"] if each is not None]
        found.append(faults.not_supported(path, value, supported))
    if isinstance(value, str):
        _string(value, schema, path, found)
    elif isinstance(value, dict):
        _object(value, schema, path, found, old)
    elif isinstance(value, list):
        _list(value, schema, path, found, old)
    elif not isinstance(value, bool):
        _number(value, schema, path, found)
    _combinations(value, schema, path, found)


def _is_type(value: Any, schema: Schema) -> bool:
    if schema.get("x-kubernetes-int-or-string"):
        return isinstance(value, (int, str)) and not isinstance(value, bool)
    kind = schema.get("type", "")
    if kind == "integer":
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return whole and not isinstance(value, bool)
    if kind == "number":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    types = {"object": dict, "array": list, "string": str, "boolean": bool}
    return kind not in types or isinstance(value, types[kind])


_TYPE_NAMES: dict[type, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    dict: "object",
    list: "array",
}


def _wrong_type(value: Any, schema: Schema, path: str, found: list[Fault]) -> None:
    kind = "integer,string" if schema.get("x-kubernetes-int-or-string") else schema.get("type", "")
    name = _TYPE_NAMES.get(type(value), "null")
    found.append(faults.wrong_type(path or "<nil>", name, f'{path} in body must be of type {kind}: "{name}"'))


def _bad(value: Any, path: str, detail: str) -> Fault:
    return faults.invalid(path or "<nil>", value, f"{path} in body {detail}")


def _string(value: str, schema: Schema, path: str, found: list[Fault]) -> None:
    if len(value) > schema.get("maxLength", len(value)):
        found.append(faults.too_long(path, schema["maxLength"]))
    if len(value) < schema.get("minLength", 0):
        found.append(_bad(value, path, f"should be at least {schema['minLength']} chars long"))
    if "pattern" in schema and not patterns.matches(schema["pattern"], value):
        found.append(_bad(value, path, f"should match '{schema['pattern']}'"))
    check = _FORMATS.get(schema.get("format", ""))
    if check is not None and not check(value):
        found.append(_bad(value, path, f'must be of type {schema["format"]}: "{value}"'))


def _number(value: float, schema: Schema, path: str, found: list[Fault]) -> None:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and (value < low or (schema.get("exclusiveMinimum") and value == low)):
        word = "greater than" if schema.get("exclusiveMinimum") else "greater than or equal to"
        found.append(_bad(value, path, f"should be {word} {low}"))
    if high is not None and (value > high or (schema.get("exclusiveMaximum") and value == high)):
        word = "less than" if schema.get("exclusiveMaximum") else "less than or equal to"
        found.append(_bad(value, path, f"should be {word} {high}"))
    step = schema.get("multipleOf")
    if step and value % step:
        found.append(_bad(value, path, f"should be a multiple of {step}"))
    limit = {"int32": 2**31, "int64": 2**63}.get(schema.get("format", ""))
    if limit and not -limit <= value < limit:
        found.append(_bad(value, path, f'must be of type {schema["format"]}: "{value}"'))


def _object(value: dict[str, Any], schema: Schema, path: str, found: list[Fault], old: Any) -> None:
    prefix = f"{path}." if path else ""
    found += [faults.required(f"{prefix}{name}") for name in schema.get("required") or () if name not in value]
    if len(value) > schema.get("maxProperties", len(value)):
        found.append(faults.too_many(path, len(value), schema["maxProperties"]))
    if len(value) < schema.get("minProperties", 0):
        found.append(_bad(value, path, f"should have at least {schema['minProperties']} properties"))
    properties, additional = schema.get("properties") or {}, schema.get("additionalProperties")
    before = old if isinstance(old, dict) else {}
    for key, each in value.items():
        if key in properties:
            _value(each, properties[key], f"{prefix}{key}", found, before.get(key, _NOTHING))
        elif isinstance(additional, dict):
            _value(each, additional, f"{prefix}{key}", found, before.get(key, _NOTHING))
    if schema.get("x-kubernetes-embedded-resource"):
        _embedded(value, path, found)


def _embedded(value: dict[str, Any], path: str, found: list[Fault]) -> None:
    """What stands inside must say of what kind it is, as if it stood alone (schema/objectmeta/validation.go)."""
    for name in ("apiVersion", "kind"):
        text = value.get(name)
        if not text:
            found.append(faults.required(f"{path}.{name}", "must not be empty"))
        elif not isinstance(text, str):
            detail = f'{path}.{name} in body must be of type string: "{_TYPE_NAMES[type(text)]}"'
            found.append(faults.wrong_type(f"{path}.{name}", _TYPE_NAMES[type(text)], detail))
    metadata = value.get("metadata", {})
    if not isinstance(metadata, dict):
        name = _TYPE_NAMES.get(type(metadata), "null")
        detail = f'{path}.metadata in body must be of type object: "{name}"'
        found.append(faults.wrong_type(f"{path}.metadata", name, detail))


def counterparts(schema: Schema, old: Any) -> dict[str, Any]:
    """Return the items of an old list by what identifies them; none where the schema names no keys."""
    keys = schema.get("x-kubernetes-list-map-keys")
    if not keys or not isinstance(old, list):
        return {}
    return {identity(schema, each): each for each in old if isinstance(each, dict)}


def identity(schema: Schema, item: Any) -> str:
    """Return what identifies an item of a list whose schema names keys."""
    keys = schema.get("x-kubernetes-list-map-keys") or ()
    return _json([item.get(key) for key in keys]) if isinstance(item, dict) else ""


def _list(value: list[Any], schema: Schema, path: str, found: list[Fault], old: Any) -> None:
    if len(value) > schema.get("maxItems", len(value)):
        found.append(faults.too_many(path, len(value), schema["maxItems"]))
    if len(value) < schema.get("minItems", 0):
        found.append(_bad(value, path, f"should have at least {schema['minItems']} items"))
    if schema.get("uniqueItems") and _has_duplicates(value):
        found.append(_bad(value, path, "shouldn't contain duplicates"))
    items = schema.get("items")
    if items:
        before = counterparts(schema, old)
        for index, each in enumerate(value):
            was = before.get(identity(schema, each), _NOTHING) if before else _NOTHING
            _value(each, items, f"{path}[{index}]", found, was)
    kind = schema.get("x-kubernetes-list-type")
    if kind in ("set", "map"):
        _keys(value, schema, kind, path, found)


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def _has_duplicates(value: list[Any]) -> bool:
    return len({_json(each) for each in value}) < len(value)


def _keys(value: list[Any], schema: Schema, kind: str, path: str, found: list[Fault]) -> None:
    seen: set[str] = set()
    for index, each in enumerate(value):
        key = each
        if kind == "map":
            if not isinstance(each, dict):
                continue
            key = {name: each[name] for name in schema.get("x-kubernetes-list-map-keys") or () if name in each}
        if _json(key) in seen:
            found.append(Fault(f"{path}[{index}]", "FieldValueDuplicate", f"Duplicate value: {_json(key)}"))
        seen.add(_json(key))


def _holds(value: Any, schema: Schema) -> bool:
    found: list[Fault] = []
    _value(value, schema, "", found)
    return not found


def _combinations(value: Any, schema: Schema, path: str, found: list[Fault]) -> None:
    if "allOf" in schema:
        for each in schema["allOf"]:
            _value(value, each, path, found)
    if "anyOf" in schema and not any(_holds(value, each) for each in schema["anyOf"]):
        found.append(_combined(path, "must validate at least one schema (anyOf)"))
    if "oneOf" in schema:
        count = sum(_holds(value, each) for each in schema["oneOf"])
        if count != 1:
            which = "none valid" if count == 0 else f"{count} valid alternatives"
            found.append(_combined(path, f"must validate one and only one schema (oneOf). Found {which}"))
    if "not" in schema and _holds(value, schema["not"]):
        found.append(_combined(path, "must not validate the schema (not)"))


def _combined(path: str, detail: str) -> Fault:
    return faults.invalid(path or "<nil>", "", f'"{path}" {detail}')


def _is_time(text: str) -> bool:
    try:
        times.parse(text)
    except ValueError:
        return False
    return True


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


_UUID = re.compile("[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE).fullmatch
_DATE = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])").fullmatch
_DURATION = re.compile(
    r"[+-]?(\d+(\.\d*)?|\.\d+) ?(ns|us|µs|ms|s|m|h|d|w)((\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h))*|0"
).fullmatch
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+").fullmatch
_MAC = re.compile("([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}").fullmatch
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:|/)\S*").fullmatch
_FORMATS: dict[str, Callable[[str], object]] = {
    "date-time": _is_time,
    "datetime": _is_time,
    "date": _DATE,
    "byte": _is_base64,
    "uuid": _UUID,
    "duration": _DURATION,
    "email": _EMAIL,
    "mac": _MAC,
    "uri": _URI,
    "ipv4": lambda text: names.is_ip(text) and ":" not in text,
    "ipv6": lambda text: names.is_ip(text) and ":" in text,
    "cidr": names.is_cidr,
    "hostname": lambda text: not names.subdomain(text.lower()),
}
