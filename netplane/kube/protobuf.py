"""Decode protobuf request bodies into the JSON objects they stand for.

kubectl from 1.32 on and client-go send some objects as `application/vnd.kubernetes.protobuf`, and take no refusal for
an answer. The fields of every message that is known stand in `protobuf_fields.txt`; a number that is not there fails
loudly, because dropping a field silently would change what the client asked for. Answers are always JSON.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import orjson

CONTENT_TYPE = "application/vnd.kubernetes.protobuf"
MAGIC = b"k8s\x00"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_DEPTH = 50
_META_KINDS = ("DeleteOptions", "Status")


class ProtobufError(ValueError):
    """A body that is no protobuf object we can read: the message, field and reason."""


class _Field(NamedTuple):
    name: str
    kind: str
    form: str  # "" one value, "*" repeated, "%" map, "<" inlined into the parent
    keeps_zero: bool


def decode(body: bytes) -> dict[str, Any]:
    """Return the object in a body with the `k8s\\0` envelope. Raises ProtobufError."""
    if not body.startswith(MAGIC):
        raise ProtobufError("the body does not begin with the envelope's four bytes k8s\\0")
    envelope = dict(_fields(memoryview(body)[len(MAGIC) :], "runtime.Unknown"))
    meta = {
        number: _text(value, "runtime.TypeMeta") for number, value in _fields(envelope.get(1, b""), "runtime.TypeMeta")
    }
    api_version, kind = meta.get(1, ""), meta.get(2, "")
    name = message_name(api_version, kind)
    if name not in _messages():
        raise ProtobufError(f"no protobuf fields are known of {kind} in {api_version}: send it as JSON")
    return {"apiVersion": api_version, "kind": kind, **_message(name, envelope.get(2, b""), 0)}


def message_name(api_version: str, kind: str) -> str:
    """Return the name of an object's message: `apps.v1.Deployment`."""
    if kind in _META_KINDS:
        return f"meta.v1.{kind}"
    group, _, version = api_version.rpartition("/")
    return f"{group.partition('.')[0] or 'core'}.{version}.{kind}"


@cache
def _messages() -> dict[str, str]:
    text = (resources.files("netplane.kube") / "protobuf_fields.txt").read_text()
    rows = (line.partition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: fields for name, _, fields in rows}


@cache
def _table(name: str) -> dict[int, _Field]:
    table: dict[int, _Field] = {}
    for each in _messages()[name].split():
        number, field, kind = each.split(":")
        form = kind[0] if kind[0] in "*%<" else ""
        bare = kind.removeprefix(form)
        table[int(number)] = _Field(field, bare.removesuffix("!"), form, bare.endswith("!"))
    return table


def _fields(data: bytes | memoryview, name: str) -> Iterator[tuple[int, Any]]:
    """Yield (field number, raw value): an int for numbers, a view of the bytes for the rest."""
    position, end = 0, len(data)
    while position < end:
        key, position = _varint(data, position, name)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, position = _varint(data, position, name)
            yield number, value
            continue
        if wire == _BYTES:
            length, position = _varint(data, position, name)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise ProtobufError(f"{name}: field {number} has wire type {wire}")
        if position + length > end:
            raise ProtobufError(f"{name}: field {number} ends after the body does")
        yield number, data[position : position + length]
        position += length


def _varint(data: bytes | memoryview, position: int, name: str) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if position >= len(data):
            raise ProtobufError(f"{name}: the body ends within a number")
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, position
    raise ProtobufError(f"{name}: a number is longer than ten bytes")


def _message(name: str, data: bytes | memoryview, depth: int) -> dict[str, Any]:
    if depth > _MAX_DEPTH:
        raise ProtobufError(f"{name}: messages are nested too deeply")
    table = _table(name)
    obj: dict[str, Any] = {}
    for number, raw in _fields(data, name):
        field = table.get(number)
        if field is None:
            raise ProtobufError(f"{name}: unknown field {number}")
        if field.form == "%":
            key, value = _entry(field, raw, name, depth)
            obj.setdefault(field.name, {})[key] = value
        elif field.form == "*":
            obj.setdefault(field.name, []).append(_value(field.kind, raw, name, depth))
        elif field.form == "<":
            obj |= _message(field.kind, raw, depth + 1)
        else:
            value = _value(field.kind, raw, name, depth)
            if value or field.keeps_zero or field.kind == "intstr" or isinstance(value, dict):
                obj[field.name] = value
    return obj


def _entry(field: _Field, raw: Any, name: str, depth: int) -> tuple[str, Any]:
    entry = dict(_fields(raw, f"{name}.{field.name}"))
    empty: Any = 0 if field.kind in ("int", "bool") else b""
    return _text(entry.get(1, b""), name), _value(field.kind, entry.get(2, empty), name, depth)


def _text(raw: Any, name: str) -> str:
    if isinstance(raw, int):
        raise ProtobufError(f"{name}: a number stands where a text belongs")
    try:
        return bytes(raw).decode()
    except UnicodeDecodeError as error:
        raise ProtobufError(f"{name}: {error}") from error


def _value(kind: str, raw: Any, name: str, depth: int) -> Any:
    if kind == "string":
        return _text(raw, name)
    if kind in ("int", "bool"):
        if not isinstance(raw, int):
            raise ProtobufError(f"{name}: bytes stand where a number belongs")
        return bool(raw) if kind == "bool" else _signed(raw)
    if isinstance(raw, int):
        raise ProtobufError(f"{name}: a number stands where a {kind} belongs")
    if kind == "bytes":
        return base64.b64encode(raw).decode()
    wrapper = _WRAPPERS.get(kind)
    return wrapper(raw) if wrapper else _message(kind, raw, depth + 1)


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number


def _time(raw: Any) -> str:
    return _moment(raw).strftime("%Y-%m-%dT%H:%M:%SZ") if len(raw) else ""


def _micro_time(raw: Any) -> str:
    return _moment(raw).strftime("%Y-%m-%dT%H:%M:%S.%fZ") if len(raw) else ""


def _moment(raw: Any) -> datetime:
    parts = dict(_fields(raw, "meta.v1.Time"))
    try:
        return _EPOCH + timedelta(seconds=_signed(parts.get(1, 0)), microseconds=parts.get(2, 0) // 1000)
    except (OverflowError, TypeError) as error:
        raise ProtobufError(f"meta.v1.Time: {error}") from error


def _quantity(raw: Any) -> str:
    return _text(dict(_fields(raw, "Quantity")).get(1, b""), "Quantity")


def _int_or_string(raw: Any) -> int | str:
    parts = dict(_fields(raw, "IntOrString"))
    return _text(parts.get(3, b""), "IntOrString") if parts.get(1) == 1 else _signed(parts.get(2, 0))


def _raw(raw: Any) -> Any:
    content = bytes(dict(_fields(raw, "RawExtension")).get(1, b""))
    if content.startswith(MAGIC):
        raise ProtobufError("RawExtension: a protobuf envelope stands where JSON belongs")
    try:
        return orjson.loads(content) if content else {}
    except orjson.JSONDecodeError as error:
        raise ProtobufError(f"RawExtension: {error}") from error


def _strings(raw: Any) -> list[str]:
    return [_text(value, "strings") for _, value in _fields(raw, "strings")]


_WRAPPERS = {
    "time": _time,
    "micro": _micro_time,
    "quantity": _quantity,
    "intstr": _int_or_string,
    "raw": _raw,
    "strings": _strings,
}
