"""The protobuf descriptors that every kubectl carries: the truth about field numbers."""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from pathlib import Path
from typing import Any

_GZIP = re.compile(rb"\x1f\x8b\x08\x00\x00\x00\x00\x00")
_LONGEST = 400_000
_PREFIXES = ("k8s.io.apimachinery.pkg.apis.", "k8s.io.apimachinery.pkg.", "k8s.io.api.")


def fields(kubectl: Path) -> dict[str, dict[int, tuple[str, int]]]:
    """Return message to field number to (name, protobuf type), the names shortened as in protobuf_fields.txt."""
    content = kubectl.read_bytes()
    found: dict[str, dict[int, tuple[str, int]]] = {}
    for match in _GZIP.finditer(content):
        try:
            unpacked = zlib.decompressobj(31).decompress(content[match.start() : match.start() + _LONGEST])
            file = parsed(unpacked)
            package = file[2][0].decode()
        except (zlib.error, ValueError, IndexError, UnicodeDecodeError, AttributeError):
            continue
        if package.startswith("k8s.io."):
            for each in file[4]:
                message = parsed(each)
                found[_short(f"{package}.{message[1][0].decode()}")] = dict(map(_field, message[2]))
    return found


def _short(name: str) -> str:
    return next((name.removeprefix(each) for each in _PREFIXES if name.startswith(each)), name)


def _field(raw: bytes) -> tuple[int, tuple[str, int]]:
    parts = parsed(raw)
    return parts[3][0], (parts[1][0].decode(), parts[5][0])


def parsed(data: bytes) -> dict[int, list[Any]]:
    """Return a protobuf message of numbers and bytes: field number to values."""
    parts: dict[int, list[Any]] = defaultdict(list)
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        if key & 7 == 0:
            value, position = _varint(data, position)
            parts[key >> 3].append(value)
        elif key & 7 == 2:
            length, position = _varint(data, position)
            parts[key >> 3].append(data[position : position + length])
            position += length
        else:
            raise ValueError("no descriptor")
    return parts


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, position
