"""What a request's head asks for, whoever sends it: found out once for each head that is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from netplane.controlplane.api import heads, options, route


class Asked:
    """What a head says. Nobody changes it; `plan` is for who serves it, to remember what it leads to."""

    __slots__ = ("credentials", "headers", "impersonates", "path", "plan", "query", "target")

    def __init__(self, path: str, query: options.Query, headers: dict[bytes, bytes]) -> None:
        self.path = path
        self.query = query
        self.headers = headers
        self.target = route.parse(path)
        self.credentials = _credentials(headers.get(b"authorization", b"").decode("latin-1"))
        self.impersonates = b"impersonate-" in b" ".join(headers)
        self.plan: Any = None


def nothing() -> Asked:
    """Return what no head asks for."""
    return Asked("", {}, {})


def of(scope: Mapping[str, Any]) -> Asked:
    """Return what the head of a request with this scope (ASGI) asks for."""
    head: heads.Head | None = scope.get(heads.READ)
    if head is None:
        return _read(scope)
    found: Asked | None = head.asked
    if found is None:
        found = head.asked = _read(scope)
    return found


def _read(scope: Mapping[str, Any]) -> Asked:
    raw = scope.get("raw_path") or scope["path"].encode()
    path = raw.partition(b"?")[0].decode("latin-1")
    query = options.query(scope["query_string"])
    if "/watch/" in path and (watched := route.unwatched(path)) is not None:
        path, query = watched, {**query, "watch": ("true",)}
    return Asked(path, query, dict(scope["headers"]))


def _credentials(header: str) -> tuple[str, str] | None:
    """Return an Authorization header's scheme in small letters and what follows it; None without a header."""
    scheme, _, rest = header.partition(" ")
    return (scheme.lower(), rest.strip()) if header else None
