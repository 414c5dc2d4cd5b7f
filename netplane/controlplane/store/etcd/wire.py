"""Write and read etcd's messages (etcdserverpb, v3.4): protobuf by hand, only the fields that are used.

A package for etcd that is maintained and awaits was not to be found (measured: etcd3 does not import with today's
protobuf, etcd3gw blocks, aetcd rests since 2022), and these are fifteen messages that never change.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from netplane.lib import protobuf

_MOD, _VALUE = 2, 3


class Malformed(Exception):
    """Bytes that are no message."""


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key as it stands in etcd. `revision` is that of its last change (mod_revision)."""

    key: bytes
    revision: int
    version: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Ranged:
    """The answer to a range: `revision` is the store's when it was made."""

    revision: int
    found: tuple[KeyValue, ...]
    has_more: bool


@dataclass(frozen=True, slots=True)
class Decided:
    """The answer to a transaction; `found` is what the ranges of the branch taken have read, one tuple each."""

    revision: int
    succeeded: bool
    found: tuple[tuple[KeyValue, ...], ...]


@dataclass(frozen=True, slots=True)
class Change:
    """One event of a watch."""

    is_deletion: bool
    at: KeyValue


@dataclass(frozen=True, slots=True)
class Watched:
    """One message of a watch stream. `compacted` is the first revision still there when the watch began too early."""

    revision: int
    changes: tuple[Change, ...]
    is_cancelled: bool
    compacted: int
    reason: str


def range_(
    key: bytes, end: bytes = b"", *, limit: int = 0, revision: int = 0, keys_only: bool = False, is_count: bool = False
) -> bytes:
    """A RangeRequest, linearizable: of one key, or of all from `key` up to and without `end`."""
    return (
        protobuf.field(1, key)
        + (protobuf.field(2, end) if end else b"")
        + _number(3, limit)
        + _number(4, revision)
        + _number(8, int(keys_only))
        + _number(9, int(is_count))
    )


def put(key: bytes, value: bytes, *, lease: int = 0) -> bytes:
    """A PutRequest; keys with a lease go when it ends."""
    return protobuf.field(1, key) + protobuf.field(2, value) + _number(3, lease)


def stands_at(key: bytes, revision: int) -> bytes:
    """A Compare: the key's last change was at this revision; 0 says that it is not there."""
    return _number(2, _MOD) + protobuf.field(3, key) + _always(6, revision)


def is_version(key: bytes, version: int) -> bytes:
    """A Compare: the key was written so many times since it was made; 0 says that it is not there."""
    return protobuf.field(3, key) + _always(4, version)


def holds(key: bytes, value: bytes) -> bytes:
    """A Compare: the key is there with this very value."""
    return _number(2, _VALUE) + protobuf.field(3, key) + protobuf.field(7, value)


def doing_put(request: bytes) -> bytes:
    """A RequestOp that puts."""
    return protobuf.field(2, request)


def doing_range(request: bytes) -> bytes:
    """A RequestOp that reads."""
    return protobuf.field(1, request)


def doing_delete(key: bytes) -> bytes:
    """A RequestOp that deletes one key."""
    return protobuf.field(3, protobuf.field(1, key))


def txn(compares: Iterable[bytes], then: Iterable[bytes], otherwise: Iterable[bytes] = ()) -> bytes:
    """A TxnRequest."""
    return b"".join(
        (
            *(protobuf.field(1, each) for each in compares),
            *(protobuf.field(2, each) for each in then),
            *(protobuf.field(3, each) for each in otherwise),
        )
    )


def compaction(revision: int) -> bytes:
    """A CompactionRequest: what was changed before this revision is forgotten."""
    return _number(1, revision)


def lease_grant(seconds: int) -> bytes:
    """A LeaseGrantRequest; etcd chooses the lease's number."""
    return _number(1, seconds)


def watch_create(key: bytes, end: bytes, *, start: int) -> bytes:
    """A WatchRequest for all changes of a range from a revision on, that one included."""
    return protobuf.field(1, protobuf.field(1, key) + protobuf.field(2, end) + _number(3, start))


def read_range(data: bytes) -> Ranged:
    """Read a RangeResponse."""
    fields = _fields(data)
    return Ranged(_revision(fields), _key_values(fields.get(2, ())), bool(_first(fields, 3)))


def read_txn(data: bytes) -> Decided:
    """Read a TxnResponse."""
    fields = _fields(data)
    found = tuple(
        _key_values(_fields(content[0]).get(2, ()))
        for content in (_fields(each).get(1) for each in _messages(fields.get(3, ())))
        if content and isinstance(content[0], bytes)
    )
    return Decided(_revision(fields), bool(_first(fields, 2)), found)


def read_lease(data: bytes) -> int:
    """Read a LeaseGrantResponse: the lease's number."""
    return _first(_fields(data), 2)


def read_watch(data: bytes) -> Watched:
    """Read a WatchResponse."""
    fields = _fields(data)
    reason = fields.get(6, [b""])[0]
    return Watched(
        _revision(fields),
        tuple(_change(each) for each in _messages(fields.get(11, ()))),
        bool(_first(fields, 4)),
        _first(fields, 5),
        reason.decode("utf-8", "replace") if isinstance(reason, bytes) else "",
    )


def _change(data: bytes) -> Change:
    fields = _fields(data)
    (at,) = _key_values(fields[2])
    return Change(_first(fields, 1) == 1, at)


def _key_values(values: Iterable[int | bytes]) -> tuple[KeyValue, ...]:
    return tuple(_key_value(each) for each in _messages(values))


def _key_value(data: bytes) -> KeyValue:
    fields = _fields(data)
    (key,), (value,) = _messages(fields.get(1, (b"",))), _messages(fields.get(5, (b"",)))
    return KeyValue(key, _first(fields, 3), _first(fields, 4), value)


def _messages(values: Iterable[int | bytes]) -> list[bytes]:
    return [each for each in values if isinstance(each, bytes)]


def _first(fields: dict[int, list[int | bytes]], number: int) -> int:
    value = fields.get(number, (0,))[0]
    if not isinstance(value, int):
        raise Malformed(f"field {number} is no number")
    return value


def _revision(fields: dict[int, list[int | bytes]]) -> int:
    header = fields.get(1, (b"",))[0]
    return _first(_fields(header), 3) if isinstance(header, bytes) else 0


def _fields(data: bytes) -> dict[int, list[int | bytes]]:
    found: dict[int, list[int | bytes]] = {}
    at, size = 0, len(data)
    try:
        while at < size:
            tag, at = _read_varint(data, at)
            kind = tag & 7
            value: int | bytes
            if kind == protobuf.VARINT:
                value, at = _read_varint(data, at)
            elif kind == protobuf.BYTES:
                length, at = _read_varint(data, at)
                value, at = data[at : at + length], at + length
            elif kind in (protobuf.FIXED64, protobuf.FIXED32):
                length = 8 if kind == protobuf.FIXED64 else 4
                value, at = data[at : at + length], at + length
            else:
                raise Malformed(f"unknown wire type {kind}")
            found.setdefault(tag >> 3, []).append(value)
    except IndexError as error:
        raise Malformed("the message ends too early") from error
    if at != size:
        raise Malformed("the message ends too early")
    return found


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    byte = data[at]
    if byte < 128:
        return byte, at + 1
    value, shift = byte & 127, 7
    while True:
        at += 1
        byte = data[at]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at + 1
        shift += 7


def _number(number: int, value: int) -> bytes:
    return _always(number, value) if value else b""


def _always(number: int, value: int) -> bytes:
    return protobuf.key(number, protobuf.VARINT) + protobuf.varint(value)
