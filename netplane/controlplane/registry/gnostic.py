"""Encode a Swagger 2.0 document as gnostic's protobuf message `openapi.v2.Document`, which old clients insist on.

Source of the numbers: google/gnostic, openapiv2/OpenAPIv2.proto. Only what `swagger` writes is known here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from netplane.lib import protobuf

Write = Callable[[int, Any], bytes]
_Fields = Mapping[str, tuple[int, Write]]
"""Name to number and what writes key, length and value."""


def encode(document: Mapping[str, Any]) -> bytes:
    """Return the message of a document; a KeyError names what it holds that is not known here."""
    return (
        _text(1, document["swagger"])
        + protobuf.field(2, _members(_INFO, document["info"]))
        + protobuf.field(8, b"".join(_named(2, path, _path_item(item)) for path, item in document["paths"].items()))
        + protobuf.field(9, b"".join(_named(1, name, _schema(each)) for name, each in document["definitions"].items()))
    )


def _text(number: int, value: object) -> bytes:
    return protobuf.field(number, str(value).encode())


def _texts(number: int, values: Iterable[object]) -> bytes:
    return b"".join(_text(number, each) for each in values)


def _flag(number: int, value: object) -> bytes:
    return protobuf.key(number, protobuf.VARINT) + (b"\x01" if value else b"\x00")


def _count(number: int, value: Any) -> bytes:
    return protobuf.key(number, protobuf.VARINT) + protobuf.varint(int(value))


def _number(number: int, value: Any) -> bytes:
    return protobuf.key(number, protobuf.FIXED64) + struct.pack("<d", float(value))


def _any(value: object) -> bytes:
    """gnostic's Any: YAML, of which JSON is a part."""
    return _text(2, orjson.dumps(value).decode())


def _named(number: int, name: str, body: bytes) -> bytes:
    return protobuf.field(number, _text(1, name) + protobuf.field(2, body))


def _members(fields: _Fields, value: Mapping[str, Any]) -> bytes:
    """Return the fields of a message; extensions go under the number of `x-`."""
    parts = []
    for name, each in value.items():
        if name.startswith("x-"):
            parts.append(_named(fields["x-"][0], name, _any(each)))
        else:
            number, write = fields[name]
            parts.append(write(number, each))
    return b"".join(parts)


def _schema(value: Mapping[str, Any]) -> bytes:
    return _members(_SCHEMA, value)


def _properties(number: int, value: Mapping[str, Any]) -> bytes:
    return protobuf.field(number, b"".join(_named(1, name, _schema(each)) for name, each in value.items()))


def _additional(number: int, value: Any) -> bytes:
    return protobuf.field(number, _flag(2, value) if isinstance(value, bool) else protobuf.field(1, _schema(value)))


def _type(number: int, value: object) -> bytes:
    return protobuf.field(number, _text(1, value))


def _items(number: int, value: Mapping[str, Any]) -> bytes:
    return protobuf.field(number, protobuf.field(1, _schema(value)))


def _value(number: int, value: object) -> bytes:
    return protobuf.field(number, _any(value))


def _values(number: int, values: Iterable[object]) -> bytes:
    return b"".join(_value(number, each) for each in values)


def _extension(number: int, value: object) -> bytes:
    raise AssertionError("an extension is written by its own name")


def _path_item(value: Mapping[str, Any]) -> bytes:
    return _members(_PATH_ITEM, value)


def _operation(number: int, value: Mapping[str, Any]) -> bytes:
    return protobuf.field(number, _members(_OPERATION, value))


def _parameters(number: int, values: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(protobuf.field(number, protobuf.field(1, _parameter(each))) for each in values)


def _parameter(value: Mapping[str, Any]) -> bytes:
    if value["in"] == "body":
        return protobuf.field(1, _members(_BODY, value))
    place, fields = _PLAIN[value["in"]]
    return protobuf.field(2, protobuf.field(place, _members(fields, value)))


def _nested_schema(number: int, value: Mapping[str, Any]) -> bytes:
    return protobuf.field(number, _schema(value))


def _response_schema(number: int, value: Mapping[str, Any]) -> bytes:
    return protobuf.field(number, protobuf.field(1, _schema(value)))


def _responses(number: int, value: Mapping[str, Any]) -> bytes:
    return protobuf.field(
        number, b"".join(_named(1, code, protobuf.field(1, _members(_RESPONSE, each))) for code, each in value.items())
    )


_INFO: _Fields = {"title": (1, _text), "version": (2, _text)}
_SCHEMA: _Fields = {
    "$ref": (1, _text), "format": (2, _text), "title": (3, _text), "description": (4, _text), "default": (5, _value),
    "multipleOf": (6, _number), "maximum": (7, _number), "exclusiveMaximum": (8, _flag), "minimum": (9, _number),
    "exclusiveMinimum": (10, _flag), "maxLength": (11, _count), "minLength": (12, _count), "pattern": (13, _text),
    "maxItems": (14, _count), "minItems": (15, _count), "uniqueItems": (16, _flag), "maxProperties": (17, _count),
    "minProperties": (18, _count), "required": (19, _texts), "enum": (20, _values),
    "additionalProperties": (21, _additional), "type": (22, _type), "items": (23, _items),
    "properties": (25, _properties), "readOnly": (27, _flag), "x-": (31, _extension),
}  # fmt: skip
SCHEMA_KEYS = frozenset(_SCHEMA)
"""What a schema may hold, besides extensions."""
_PATH_ITEM: _Fields = {
    "get": (2, _operation), "put": (3, _operation), "post": (4, _operation), "delete": (5, _operation),
    "patch": (8, _operation), "parameters": (9, _parameters),
}  # fmt: skip
_OPERATION: _Fields = {
    "produces": (6, _texts), "consumes": (7, _texts), "parameters": (8, _parameters), "responses": (9, _responses),
    "x-": (13, _extension),
}  # fmt: skip
_BODY: _Fields = {
    "name": (2, _text), "in": (3, _text), "required": (4, _flag), "schema": (5, _nested_schema),
}  # fmt: skip
_QUERY: _Fields = {
    "required": (1, _flag), "in": (2, _text), "name": (4, _text), "type": (6, _text), "uniqueItems": (20, _flag),
}  # fmt: skip
_PATH: _Fields = {
    "required": (1, _flag), "in": (2, _text), "name": (4, _text), "type": (5, _text), "uniqueItems": (19, _flag),
}  # fmt: skip
_PLAIN = {"query": (3, _QUERY), "path": (4, _PATH)}
_RESPONSE: _Fields = {
    "description": (1, _text), "schema": (2, _response_schema),
}  # fmt: skip
