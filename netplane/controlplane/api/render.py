"""Turn records into the bytes of an answer: objects, lists, Tables, metadata only. Pure; the rows are registry's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

import orjson
import yaml

from netplane.controlplane.api import negotiate
from netplane.controlplane.registry import tables, types
from netplane.controlplane.store import history
from netplane.kube.types import Object

_CHUNK = 50


def served(of: types.ResourceType, record: history.Record) -> bytes:
    """Return the object's bytes in the version that is asked for: the stored ones, unless it is a converted type."""
    if of.conversion is None:
        return record.value
    return orjson.dumps(decoded(of, record))


def decoded(of: types.ResourceType, record: history.Record) -> Object:
    """Return the object of a record, in the version that is asked for."""
    obj: Object = orjson.loads(record.value)
    return of.conversion.from_stored(obj) if of.conversion is not None else obj


def shaped(
    of: types.ResourceType, obj: Object, how: negotiate.Format, now: datetime, *, include: tables.IncludeObject
) -> Object:
    """Return one object in the shape the client asked for."""
    if obj.get("kind") != of.kind:
        return obj
    if how.shape == "table":
        metadata = {"resourceVersion": obj["metadata"].get("resourceVersion", "")}
        return tables.table(of, [obj], include_object=include, now=now, metadata=metadata)
    return tables.partial(obj) if how.shape == "metadata" else obj


def encoded(obj: Object, how: negotiate.Format) -> bytes:
    """Return an object as the text the client reads."""
    text = orjson.dumps(obj)
    return yaml.safe_dump(orjson.loads(text), sort_keys=False).encode() if how.is_yaml else text


def list_metadata(revision: int, *, token: str, remaining: int) -> Object:
    """Return the ListMeta of a page."""
    out: Object = {"resourceVersion": str(revision)}
    if token:
        out["continue"] = token
        if remaining:
            out["remainingItemCount"] = remaining
    return out


def many(
    of: types.ResourceType,
    records: Sequence[history.Record],
    metadata: Object,
    how: negotiate.Format,
    now: datetime,
    *,
    include: tables.IncludeObject,
) -> Iterator[bytes]:
    """Yield a list in chunks; each takes little time to make, so that others get their turn between them."""
    head, name, make = _list_parts(of, metadata, how, now, include)
    yield orjson.dumps(head)[:-1] + b',"' + name + b'":['
    for start in range(0, len(records), _CHUNK):
        made = [make(record) for record in records[start : start + _CHUNK]]
        yield b",".join([b"", *made] if start else made)
    yield b"]}\n"


def _list_parts(
    of: types.ResourceType, metadata: Object, how: negotiate.Format, now: datetime, include: tables.IncludeObject
) -> tuple[Object, bytes, Callable[[history.Record], bytes]]:
    def as_row(record: history.Record) -> bytes:
        return orjson.dumps(tables.row(of, decoded(of, record), include_object=include, now=now))

    def as_metadata(record: history.Record) -> bytes:
        return orjson.dumps(tables.partial(decoded(of, record)))

    def whole(record: history.Record) -> bytes:
        return served(of, record)

    if how.shape == "table":
        head = tables.table(of, (), include_object=include, now=now, metadata=metadata)
        head.pop("rows")
        return head, b"rows", as_row
    if how.shape == "metadata":
        head = tables.partial_list((), metadata=metadata)
        head.pop("items")
        return head, b"items", as_metadata
    return {"kind": of.list_kind, "apiVersion": of.api_version, "metadata": metadata}, b"items", whole


def as_yaml(chunks: Iterator[bytes]) -> bytes:
    """Return JSON chunks as one YAML document."""
    return yaml.safe_dump(orjson.loads(b"".join(chunks)), sort_keys=False).encode()
