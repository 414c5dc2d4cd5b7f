"""Know who is at the other end of a TLS connection: uvicorn's protocols, and the client certificate with them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from uvicorn.protocols.http import httptools_impl

from netplane.controlplane.api import access

_STATE = "netplane.peer"
_LARGE = 1 << 16


@dataclass(frozen=True, slots=True)
class Peer:
    """Who a client certificate names, and until when (seconds since the epoch)."""

    user: access.User
    until: float


class Joined:
    """A connection that sends an answer's head together with its body: one record of TLS and one call of the system.

    A head waits for what is written next, but no longer than this turn of the loop: a stream's first line may be far.
    """

    __slots__ = ("_head", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""

    def write(self, part: bytes) -> None:
        """Send bytes, after those that wait."""
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head + part if len(part) < _LARGE else head)
            if len(part) >= _LARGE:
                self._transport.write(part)
        elif part.startswith(b"HTTP/1.1 "):
            self._head = part
            self._loop.call_soon(self._flush)
        elif part:
            self._transport.write(part)

    def close(self) -> None:
        """Send what waits and close the connection."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Protocol(httptools_impl.HttpToolsProtocol):
    """HTTP over TLS whose requests, WebSocket handshakes among them, carry the connection's peer in their state."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(cast(asyncio.Transport, Joined(transport, self.loop)))
        # The handshake is over: the certificate is one of the cluster's authority, or there is none.
        certificate = transport.get_extra_info("peercert")
        if certificate:
            self.app_state = {**self.app_state, _STATE: peer(certificate)}


def peer(certificate: Mapping[str, Any]) -> Peer:
    """Return whom a verified certificate names: CN is the user, every O a group."""
    name, groups = "", []
    for part in certificate.get("subject") or ():
        for field, value in part:
            if field == "commonName":
                name = value
            elif field == "organizationName":
                groups.append(value)
    until = ssl.cert_time_to_seconds(certificate["notAfter"])
    return Peer(access.User(name, (*groups, access.AUTHENTICATED)), until)


def user_of(scope: Mapping[str, Any], *, now: float) -> access.User | None:
    """Return the user of a request's client certificate; None without one, or with one that has expired meanwhile."""
    found: Peer | None = (scope.get("state") or {}).get(_STATE)
    if found is None or not found.user.name or now >= found.until:
        return None
    return found.user
