"""Read an object against its shape: types, unknown fields, canonical values. What the values mean is validation's."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import msgspec
import orjson

from netplane.controlplane.registry.rules import times
from netplane.controlplane.registry.schema import twice
from netplane.controlplane.registry.types import Reading
from netplane.kube import quantity
from netplane.kube.known import Known, shared
from netplane.kube.shape import Shape

Path = tuple[Any, Any] | None
"""A linked path: (parent path, step). Built for every field, rendered only for faults."""

Reader = Callable[[Any, Path, str, "Reading"], Any]
"""(value, path, name of the enclosing type, where to report) to the canonical value, None to keep the value."""

_LONGEST = 16384
_LONGEST_SHARED = 8192
"""The bytes of a spec that is remembered: what one template makes has the same spec again and again."""


def read(shape: Shape, obj: dict[str, Any]) -> Reading:
    """Make an object canonical in place: without nulls and unknown fields, quantities and times in their one form.

    The errors are worded like those of the real API's JSON decoder.
    """
    spec, part = obj.get("spec"), shape.fields.get("spec")
    if spec.__class__ is Known:
        return _read_around(shape, obj, spec)
    if spec.__class__ is not dict or part is None or part.kind != "object":
        return _read(shape, obj)
    text = orjson.dumps(spec)
    if len(text) > _LONGEST:
        return _read(shape, obj)
    canonical = _canonical(part, text)
    if canonical is None:
        return _read(shape, obj)
    return _read_around(shape, obj, orjson.loads(canonical) if canonical else spec)


def _read_around(shape: Shape, obj: dict[str, Any], spec: dict[str, Any]) -> Reading:
    """Read an object whose spec has been read before: only the rest is new."""
    obj["spec"] = {}
    reading = _read(shape, obj)
    obj["spec"] = spec
    return reading


class _Json(msgspec.Struct, rename="camel", forbid_unknown_fields=True, gc=False):
    """An object's JSON as far as it is looked at: what else it might say is for all who read to hear of."""

    api_version: str
    kind: str
    metadata: msgspec.Raw
    spec: msgspec.Raw
    status: msgspec.Raw = msgspec.Raw()


class _Metadata(msgspec.Struct, rename="camel", forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """All that most objects have been given when they are new, which is canonical as it is."""

    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    creation_timestamp: None = None


class _Nothing(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    """`{}`, as clients in Go write a status."""


class _PlainJson(msgspec.Struct, rename="camel", forbid_unknown_fields=True, gc=False):
    """The same of an object about which there is nothing to find out but its spec."""

    api_version: str
    kind: str
    metadata: _Metadata
    spec: msgspec.Raw
    status: _Nothing = _Nothing()


_FIELDS = 4
"""How many fields an object without a status has."""
_parts = msgspec.json.Decoder(_Json).decode
_plain_parts = msgspec.json.Decoder(_PlainJson).decode


def begun(shape: Shape, body: bytes) -> dict[str, Any] | None:
    """Return the object that a JSON text holds, read, with a spec that is known: of all objects with the same one.

    None when there is anything to be told of it, as fields given twice, or it is not worth remembering.
    """
    try:
        try:
            return _of_plain(shape, body, _plain_parts(body))
        except msgspec.ValidationError:
            parts = _parts(body)
            return _of_parts(shape, parts) if _is_single_around(body, bytes(parts.spec)) else None
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None


def _is_single_around(body: bytes, spec: bytes) -> bool:
    """Whether an object says nothing twice but perhaps in its spec. No text holds a spec: its quotes are escaped."""
    around = body.replace(spec, b"0", 1)
    return twice.is_single(around, orjson.loads(around))


def _of_plain(shape: Shape, body: bytes, found: _PlainJson) -> dict[str, Any] | None:
    text = bytes(found.spec)
    spec = _known_spec(shape, text)
    if spec is None:
        return None
    metadata = msgspec.to_builtins(found.metadata)
    # Mostly these are all colons there are, which is quicker to see than `_is_single_around`.
    colons = _FIELDS + text.count(b":") + orjson.dumps(metadata).count(b":")
    if (body.count(b":") != colons or b"\\u" in body) and not _is_single_around(body, text):
        return None
    return {"apiVersion": found.api_version, "kind": found.kind, "metadata": metadata, "spec": spec}


def _of_parts(shape: Shape, found: _Json) -> dict[str, Any] | None:
    spec = _known_spec(shape, bytes(found.spec))
    if spec is None:
        return None
    metadata = orjson.loads(memoryview(found.metadata))
    obj = {"apiVersion": found.api_version, "kind": found.kind, "metadata": metadata, "spec": spec}
    if len(found.status):
        obj["status"] = orjson.loads(memoryview(found.status))
    reading = _read_around(shape, obj, spec)
    return None if reading.errors or reading.unknown else obj


def _known_spec(shape: Shape, text: bytes) -> Known | None:
    return _spec(shape.fields["spec"], text) if len(text) <= _LONGEST_SHARED else None


@lru_cache(128)
def _spec(shape: Shape, text: bytes) -> Known | None:
    spec = orjson.loads(text)
    if not twice.is_single(text, spec):
        return None
    reading = _read(shape, spec)
    return None if reading.errors or reading.unknown or not spec else shared(orjson.dumps(spec))


@lru_cache(512)
def _canonical(shape: Shape, text: bytes) -> bytes | None:
    """Return the canonical form of a spec, b"" when it is in it already, None when there is something to be told."""
    spec = orjson.loads(text)
    reading = Reading()
    reader(shape)(spec, None, "", reading)
    if reading.errors or reading.unknown:
        return None
    canonical = orjson.dumps(spec)
    return b"" if canonical == text else canonical


def _read(shape: Shape, obj: dict[str, Any]) -> Reading:
    reading = Reading()
    reader(shape)(obj, None, "", reading)
    return reading


class _Key(str):
    """A key of a map, which Go's decoder does not name: `ConfigMap.data`, not `ConfigMap.data.key`."""

    __slots__ = ()


def dotted(path: Path, *, with_indices: bool = True) -> str:
    """Render a path: `spec.containers[0].image`; without indices as Go's decoder names it."""
    steps: list[Any] = []
    while path is not None:
        path, step = path
        steps.append(step)
    text = ""
    for step in reversed(steps):
        if isinstance(step, int):
            text += f"[{step}]" if with_indices else ""
        elif with_indices or not isinstance(step, _Key):
            text += f".{step}" if text else str(step)
    return text


@cache
def reader(shape: Shape) -> Reader:
    """Return the compiled reader of a shape. Shapes that contain themselves are resolved when first used."""
    if shape.kind == "object":
        return _object(shape)
    if shape.kind == "map":
        return _map(shape)
    if shape.kind == "list":
        return _list(shape)
    return _integer32 if shape.kind == "integer" and shape.format == "int32" else _SCALARS[shape.kind]


def _object(shape: Shape) -> Reader:
    readers: dict[str, Reader] = {}
    name = shape.name.rpartition(".")[2]
    is_open = shape.is_open

    def read_object(value: Any, path: Path, owner: str, reading: Reading) -> None:
        if value.__class__ is not dict:
            reading.errors.append(_unmarshal(value, path, owner, name))
            return
        dropped = None
        for key, each in value.items():
            known = readers.get(key)
            if known is None:
                child = shape.fields.get(key)
                if child is None:
                    if not is_open:
                        reading.unknown.append(f'unknown field "{dotted((path, key))}"')
                        dropped = [*(dropped or ()), key]
                    continue
                known = readers[key] = reader(child)
            if each is None:
                dropped = [*(dropped or ()), key]
            elif known is not _string or each.__class__ is not str:
                better = known(each, (path, key), name, reading)
                if better is not None:
                    value[key] = better
        for key in dropped or ():
            del value[key]

    return read_object


def _map(shape: Shape) -> Reader:
    item = reader(shape.item)

    def read_map(value: Any, path: Path, owner: str, reading: Reading) -> None:
        if value.__class__ is not dict:
            reading.errors.append(_unmarshal(value, path, owner, "map[string]string"))
            return
        for key, each in value.items():
            if each is None:
                value[key] = "" if shape.item.kind in ("string", "bytes") else {}
            elif item is not _string or each.__class__ is not str:
                better = item(each, (path, _Key(key)), owner, reading)
                if better is not None:
                    value[key] = better

    return read_map


def _list(shape: Shape) -> Reader:
    item = reader(shape.item)
    go_type = "[]" + (shape.item.name.rpartition(".")[2] or shape.item.kind)

    def read_list(value: Any, path: Path, owner: str, reading: Reading) -> None:
        if value.__class__ is not list:
            reading.errors.append(_unmarshal(value, path, owner, go_type))
            return
        for index, each in enumerate(value):
            if each is None:
                value[index] = "" if shape.item.kind == "string" else {}
            elif item is not _string or each.__class__ is not str:
                better = item(each, (path, index), owner, reading)
                if better is not None:
                    value[index] = better

    return read_list


def _any(value: Any, path: Path, owner: str, reading: Reading) -> None:
    return None


def _string(value: Any, path: Path, owner: str, reading: Reading) -> None:
    if value.__class__ is not str:
        reading.errors.append(_unmarshal(value, path, owner, "string"))


def _boolean(value: Any, path: Path, owner: str, reading: Reading) -> None:
    if value.__class__ is not bool:
        reading.errors.append(_unmarshal(value, path, owner, "bool"))


def _integer(value: Any, path: Path, owner: str, reading: Reading) -> int | None:
    if value.__class__ is int and -(2**63) <= value < 2**63:
        return None
    return _whole(value, path, owner, reading, bits=64)


def _integer32(value: Any, path: Path, owner: str, reading: Reading) -> int | None:
    if value.__class__ is int and -(2**31) <= value < 2**31:
        return None
    return _whole(value, path, owner, reading, bits=32)


def _whole(value: Any, path: Path, owner: str, reading: Reading, *, bits: int) -> int | None:
    if value.__class__ is float and value.is_integer() and abs(value) < 2 ** (bits - 1):
        return int(value)
    reading.errors.append(_unmarshal(value, path, owner, f"int{bits}"))
    return None


def _number(value: Any, path: Path, owner: str, reading: Reading) -> None:
    if value.__class__ not in (int, float):
        reading.errors.append(_unmarshal(value, path, owner, "float64"))


def _int_or_string(value: Any, path: Path, owner: str, reading: Reading) -> None:
    if value.__class__ not in (int, str):
        reading.errors.append(_unmarshal(value, path, owner, "IntOrString"))


def _quantity(value: Any, path: Path, owner: str, reading: Reading) -> str | None:
    if value.__class__ not in (str, int, float):
        reading.errors.append(_unmarshal(value, path, owner, "Quantity"))
        return None
    try:
        return quantity.canonical(str(value))
    except ValueError as error:
        reading.errors.append(str(error))
        return None


def _time(value: Any, path: Path, owner: str, reading: Reading) -> str | None:
    return _with_time(times.seconds, value, path, owner, reading)


def _micro_time(value: Any, path: Path, owner: str, reading: Reading) -> str | None:
    return _with_time(times.micros, value, path, owner, reading)


def _with_time(form: Callable[[str], str], value: Any, path: Path, owner: str, reading: Reading) -> str | None:
    if value.__class__ is not str:
        reading.errors.append(_unmarshal(value, path, owner, "Time"))
        return None
    try:
        return form(value)
    except ValueError as error:
        reading.errors.append(str(error))
        return None


def _bytes(value: Any, path: Path, owner: str, reading: Reading) -> None:
    if value.__class__ is not str:
        reading.errors.append(_unmarshal(value, path, owner, "[]uint8"))
        return
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        reading.errors.append(f"illegal base64 data at input byte {_first_illegal(value)}")


_SCALARS: dict[str, Reader] = {
    "any": _any,
    "string": _string,
    "boolean": _boolean,
    "integer": _integer,
    "number": _number,
    "int-or-string": _int_or_string,
    "quantity": _quantity,
    "time": _time,
    "micro-time": _micro_time,
    "bytes": _bytes,
}
_GO_NAMES = {str: "string", bool: "bool", dict: "object", list: "array", int: "number", float: "number"}
_BASE64 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")


def _first_illegal(text: str) -> int:
    bare = text.rstrip("=")
    return next((index for index, each in enumerate(bare) if each not in _BASE64), len(bare) // 4 * 4)


def _unmarshal(value: Any, path: Path, owner: str, go_type: str) -> str:
    found = _GO_NAMES.get(value.__class__, "value")
    if found == "number" and go_type.startswith("int"):
        found = f"number {value}"
    where = f"Go struct field {owner}.{dotted(path, with_indices=False)}" if path else "Go value"
    return f"json: cannot unmarshal {found} into {where} of type {go_type}"
