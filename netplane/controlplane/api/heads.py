"""Remember the heads of requests: a client sends the same ones again and again. Reading a new one is uvicorn's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MOST = 256
_LONGEST = 4096
_SPECIAL = frozenset({b"expect", b"transfer-encoding", b"upgrade"})
READ = "netplane.head"
"""Where a scope holds the head that was known, for who wants to remember what it made of it."""


class Head:
    """What a head says: the scope (ASGI) of every request that begins with it, and how long their bodies are."""

    __slots__ = ("asked", "length", "scope")

    def __init__(self, scope: dict[str, Any], length: int) -> None:
        self.scope = scope
        self.length = length
        self.asked: Any = None


class Heads:
    """The heads that were read, by their bytes: method, path, query and headers, and nothing of who sent them."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def find(self, data: bytes) -> tuple[Head, bytes] | None:
        """Return the known head of a request and its body, when the data is that request and nothing else."""
        end = data.find(b"\r\n\r\n") + 4
        head = self._known.get(data[:end])
        return (head, data[end:]) if head is not None and len(data) == end + head.length else None

    def remember(self, data: bytes, scope: Mapping[str, Any]) -> None:
        """Remember the head of data that was one whole request with this scope, if nothing is special about it."""
        end = data.find(b"\r\n\r\n") + 4
        length = _length(scope["headers"])
        if length is None or end > _LONGEST or len(data) != end + length or scope["http_version"] != "1.1":
            return
        if len(self._known) >= _MOST:
            self._known.clear()
        told = ("type", "asgi", "http_version", "root_path", "headers", "method", "path", "raw_path", "query_string")
        self._known[data[:end]] = Head({name: scope[name] for name in told}, length)


def _length(headers: list[tuple[bytes, bytes]]) -> int | None:
    """Return how long the body is by a request's headers, None when they say it otherwise than by one number."""
    found = [value for name, value in headers if name == b"content-length"]
    if any(name in _SPECIAL or (name == b"connection" and value.lower() != b"keep-alive") for name, value in headers):
        return None
    if len(found) > 1 or any(not value.isdigit() for value in found):
        return None
    return int(found[0]) if found else 0
