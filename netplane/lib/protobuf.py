"""Write protobuf's wire format by hand: numbers, keys, fields with a length. Who reads it says what it refuses.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""The wire types: what follows a key."""


def varint(value: int) -> bytes:
    """Return a whole number, seven bits a byte, the lowest first; below zero it is its two's complement of 64 bits."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def key(number: int, wire: int) -> bytes:
    """Return what stands before a field's value."""
    return varint(number << 3 | wire)


def field(number: int, content: bytes) -> bytes:
    """Return a field of text, bytes or another message."""
    return key(number, BYTES) + varint(len(content)) + content
