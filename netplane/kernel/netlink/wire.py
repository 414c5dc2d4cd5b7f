"""The form of netlink messages and of the attributes in them, as bytes (linux/netlink.h). Sending is channel's."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

HEADER = struct.Struct("=IHHII")
ATTRIBUTE = struct.Struct("=HH")
I32 = struct.Struct("=i")

ERROR, DONE = 2, 3
REQUEST, ACK, DUMP_INTERRUPTED, DUMP, CREATE, APPEND = 0x1, 0x4, 0x10, 0x300, 0x400, 0x800
ACK_CAPPED, ACK_TLVS = 0x100, 0x200
NESTED, KIND = 0x8000, 0x3FFF
"""Of an attribute's type: the flag that says what it holds, and the bits that are the type itself."""

_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class Message(NamedTuple):
    """One netlink message without its header: type, flags and body (the header of its family, and attributes)."""

    type: int
    flags: int
    body: bytes


def packed(message: Message, sequence: int) -> bytes:
    """Return the message with its header."""
    return HEADER.pack(HEADER.size + len(message.body), message.type, message.flags, sequence, 0) + message.body


def attribute(kind: int, payload: bytes) -> bytes:
    """Return one attribute, padded."""
    size = len(payload)
    return ATTRIBUTE.pack(size + 4, kind) + payload + _PADDING[size & 3]


def nested(kind: int, *parts: bytes) -> bytes:
    """Return an attribute that holds attributes."""
    return attribute(kind | NESTED, b"".join(parts))


def text(kind: int, value: str) -> bytes:
    """Return an attribute that holds a string."""
    return attribute(kind, value.encode() + b"\0")


def split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Walk over the messages of one receive: type, flags, sequence number and body."""
    at = 0
    while at + HEADER.size <= len(data):
        size, kind, flags, sequence, _ = HEADER.unpack_from(data, at)
        if size < HEADER.size:
            return
        yield kind, flags, sequence, data[at + HEADER.size : at + size]
        at += (size + 3) & ~3


def attributes(payload: memoryview | bytes, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Walk over attributes: the type without its flags, where the payload starts, and where it ends."""
    while start + 4 <= stop:
        size, kind = ATTRIBUTE.unpack_from(payload, start)
        if size < 4:
            return
        yield kind & KIND, start + 4, start + size
        start += (size + 3) & ~3


def find(payload: bytes, start: int, stop: int, wanted: int) -> tuple[int, int] | None:
    """Return where the payload of the first attribute of a type lies."""
    return next(((a, b) for kind, a, b in attributes(payload, start, stop) if kind == wanted), None)


def string(payload: bytes, start: int, stop: int) -> str:
    """Read a string attribute's payload."""
    return payload[start:stop].rstrip(b"\0").decode(errors="replace")


def refusal(body: bytes) -> int:
    """Return the errno in the body of an ERROR or DONE message; 0 when nothing was refused."""
    return -int(I32.unpack_from(body)[0]) if len(body) >= I32.size else 0
