"""Know who is at the other end of a TLS connection: uvicorn's protocols, and the client certificate with them."""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from uvicorn.protocols.http import flow_control, httptools_impl

from netplane.controlplane.api import access, heads
from netplane.lib import clock as clocks

_STATE = "netplane.peer"
_LINE = "netplane.line"
_LARGE = 1 << 16
_RECEIVED = memoryview(bytearray(1 << 18))
"""What a connection receives, until its protocol has taken it: in the same turn, so that all of them can share it."""


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

    def write_whole(self, answer: bytes, body: bytes) -> None:
        """Send an answer's head and its body, after what waits."""
        if self._head:
            self._flush()
        if len(body) < _LARGE:
            self._transport.write(answer + body)
        else:
            self._transport.write(answer)
            self._transport.write(body)

    def is_closing(self) -> bool:
        """Whether the connection is closed or about to be."""
        return self._transport.is_closing()

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


@functools.lru_cache(2)
def _chunk(body: bytes) -> bytes:
    """Return a body's part as a chunk (RFC 9112, section 7.1), made once for all who are sent the same."""
    return b"%x\r\n%b\r\n" % (len(body), body)


class Line:
    """The way of an answer in chunks past ASGI: one call for each client of many, where a turn of a task costs more.

    For who has begun a chunked answer and is the only one to write it.
    """

    __slots__ = ("_connection", "_flow")

    def __init__(self, connection: Joined, flow: flow_control.FlowControl) -> None:
        self._connection = connection
        self._flow = flow

    @property
    def is_clear(self) -> bool:
        """Whether the client is there and has read most of what was sent."""
        return not (self._flow.write_paused or self._connection.is_closing())

    def write(self, body: bytes) -> None:
        """Send a part of the answer."""
        self._connection.write(_chunk(body))


def arrived(receive: object) -> bytes | None:
    """Return a request's body as `receive` would in one message; None when it must be asked, or awaited."""
    cycle = getattr(receive, "__self__", None)
    if type(cycle) is not httptools_impl.RequestResponseCycle or cycle.more_body or cycle.waiting_for_100_continue:
        return None
    if cycle.disconnected or cycle.response_complete or not cycle.message_event.is_set():
        return None
    cycle.flow.resume_reading()
    cycle.message_event.clear()
    body, cycle.body = cycle.body, bytearray()
    return bytes(body)


def answered(send: object, code: int, content_type: bytes, body: bytes) -> bool:
    """Answer a request as `send` would in two messages, and return whether that was done.

    A small answer is half of a small request's cost on its way through ASGI. Only for an answer that nothing is
    special about: the server's own `send`, a client that is there and reads, a body of known length.
    """
    cycle = getattr(send, "__self__", None)
    if type(cycle) is not httptools_impl.RequestResponseCycle or cycle.scope["method"] == "HEAD":
        return False
    if cycle.response_started or cycle.disconnected or cycle.flow.write_paused:
        return False
    head = b"%b%d\r\n%b" % (
        _beginning(code, content_type, *cycle.default_headers),
        len(body),
        b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n",
    )
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cast(Joined, cycle.transport).write_whole(head, body)
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True


@functools.lru_cache(64)
def _beginning(code: int, content_type: bytes, *headers: tuple[bytes, bytes]) -> bytes:
    """Return an answer's head up to the number of its body's bytes: the date in it is the same for a second."""
    lines = [b"%b: %b\r\n" % each for each in (*headers, (b"content-type", content_type))]
    return b"".join([httptools_impl.STATUS_LINE[code], *lines, b"content-length: "])


_HEADS = heads.Heads()


class Protocol(httptools_impl.HttpToolsProtocol):
    """HTTP over TLS whose requests, WebSocket handshakes among them, carry the connection's peer in their state.

    A request whose head is known and whose body came with it goes past the parser. That is only asked where a request
    begins: after one that was read and answered whole.
    """

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self._begun = 0
        self._ended = 0
        self._idle_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        joined = Joined(transport, self.loop)
        super().connection_made(cast(asyncio.Transport, joined))
        self.app_state = {**self.app_state, _LINE: Line(joined, self.flow)}
        # The handshake is over: the certificate is one of the cluster's authority, or there is none.
        certificate = transport.get_extra_info("peercert")
        if certificate:
            self.app_state = {**self.app_state, _STATE: peer(certificate)}

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        # A client that just went away, as most do, would be kept in memory until its connection's time is over.
        super()._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        begins = self._begun == self._ended and self._is_idle and self.limit_concurrency is None
        found = _HEADS.find(data) if begins else None
        if found is not None:
            self._begin(*found)
            return
        before = self._ended
        super().data_received(data)
        if begins and self._begun == self._ended == before + 1:
            _HEADS.remember(data, cast(dict[str, Any], self.scope))

    def _begin(self, head: heads.Head, body: bytes) -> None:
        """Start a request as the parser's callbacks would have."""
        of_connection = {"server": self.server, "client": self.client, "scheme": self.scheme}
        scope = {**head.scope, **of_connection, "state": self.app_state.copy(), heads.READ: head}
        self.scope = cast(Any, scope)
        self.headers = head.scope["headers"]
        arrived = asyncio.Event()
        arrived.set()
        self.cycle = httptools_impl.RequestResponseCycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=arrived,
            expect_100_continue=False,
            keep_alive=True,
            on_response=self.on_response_complete,
        )
        self.cycle.body = cast(bytearray, body)
        self.cycle.more_body = False
        self._start_asgi_task(self.cycle, self.app)

    @property
    def _is_idle(self) -> bool:
        """Whether the last request was answered, and another may come."""
        return self.cycle is None or (self.cycle.response_complete and self.cycle.keep_alive and not self.pipeline)

    def on_message_begin(self) -> None:
        """Note that a request began."""
        self._begun += 1
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """Note that a request has been read whole."""
        self._ended += 1
        super().on_message_complete()

    def _unset_keepalive_if_required(self) -> None:
        """Let the timer run: making one for each request costs more than looking, when it is over, whether it is."""

    def on_response_complete(self) -> None:
        """Note since when the client may be silent."""
        self._idle_since = self.loop.time()
        if self.pipeline or self.timeout_keep_alive_task is None:
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def timeout_keep_alive_handler(self) -> None:
        """Hang up when the client has been silent for long enough; what is being answered sets another timer."""
        self.timeout_keep_alive_task = None
        if not self._is_idle or self._begun != self._ended:
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection on; it may be silent from now on."""
        super()._unset_keepalive_if_required()
        super().handle_websocket_upgrade()


class Buffered(asyncio.BufferedProtocol):
    """A connection's protocol that is given what was received in a buffer that is there already.

    uvloop would make 256 KB for every request otherwise and shrink them to what came: three calls of the system.
    """

    __slots__ = ("_protocol", "connection_lost", "eof_received", "pause_writing", "resume_writing")

    def __init__(self, **parts: Any) -> None:
        self._protocol = protocol = Protocol(**parts)
        self.connection_lost = protocol.connection_lost  # type: ignore[method-assign]
        self.eof_received = protocol.eof_received  # type: ignore[method-assign]
        self.pause_writing = protocol.pause_writing  # type: ignore[method-assign]
        self.resume_writing = protocol.resume_writing  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Hand the connection on."""
        self._protocol.connection_made(transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to put what comes."""
        return _RECEIVED

    def buffer_updated(self, nbytes: int) -> None:
        """Hand on what came."""
        self._protocol.data_received(bytes(_RECEIVED[:nbytes]))


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


def user_of(scope: Mapping[str, Any], clock: clocks.Clock) -> access.User | None:
    """Return the user of a request's client certificate; None without one, or with one that has expired meanwhile."""
    found: Peer | None = (scope.get("state") or {}).get(_STATE)
    if found is None or not found.user.name or clock.now().timestamp() >= found.until:
        return None
    return found.user


def line_of(scope: Mapping[str, Any]) -> Line | None:
    """Return the straight way to a request's client; None where the answer has no body or another server carries it."""
    found: Line | None = (scope.get("state") or {}).get(_LINE)
    return found if scope.get("method") == "GET" else None
