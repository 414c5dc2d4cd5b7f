"""Requests and responses over ASGI: reading bodies, sending bytes. What they say is the verbs'."""

from __future__ import annotations

import asyncio
import functools
import re
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import orjson

from netplane.controlplane.api import access, asked, options, route, status, transport
from netplane.kube.types import Object

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]

KEPT = "netplane.onlooker"
"""Where a scope holds who looks on from outside."""
BODY_LIMIT = 3 << 20
JSON = b"application/json"
_BODY_SECONDS = 60.0
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_WARNINGS_LIMIT = 4096
_LONG_WARNING = 256


@functools.lru_cache(256)
def _media_type(header: bytes) -> str:
    return header.decode("latin-1").partition(";")[0].strip().lower()


@functools.lru_cache(256)
def _agent(header: bytes) -> str:
    return header.decode("latin-1").partition("/")[0][:128] or "unknown"


class Onlooker(Protocol):
    """Who is told of a request: as soon as it is read (`request`), and when it is known from whom it is."""

    request: Request | None

    def known(self) -> None:
        """Take note of the user who asks."""


class Disconnected(Exception):
    """The client is gone; nobody is left to answer."""


@dataclass(slots=True)
class Request:
    """One HTTP request on its way through the server."""

    method: str
    path: str
    query: options.Query
    headers: dict[bytes, bytes]
    target: route.Target | None
    user: access.User
    receive: Receive
    send: Send
    scope: Scope = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    annotations: dict[str, str] = field(default_factory=dict)
    kept: tuple[Object, bytes] | None = None
    """What the request wrote, and the bytes that were stored of it: an answer of it need not be encoded again."""
    asker: access.User | None = None
    decision: tuple[str, str] | None = None
    """`allow` or `forbid`, and why."""
    onlooker: Onlooker | None = None
    asked: asked.Asked = field(default_factory=asked.nothing)

    @property
    def client(self) -> str:
        """Where it comes from: `ADDRESS:PORT`."""
        client = self.scope.get("client")
        return f"{client[0]}:{client[1]}" if client else ""

    @property
    def accept(self) -> str:
        """The Accept header."""
        return self.headers.get(b"accept", b"").decode("latin-1")

    @property
    def content_type(self) -> str:
        """The media type of the body, without parameters."""
        return _media_type(self.headers.get(b"content-type", b""))

    @property
    def user_agent(self) -> str:
        """The name the client gives itself, up to the first slash: the default field manager."""
        return _agent(self.headers.get(b"user-agent", b""))

    async def body(self) -> bytes:
        """Read the whole body; raise 413 past the limit, 408 when it does not come, Disconnected without a client."""
        there = transport.arrived(self.receive)
        if there is not None:
            if len(there) > BODY_LIMIT:
                raise status.too_large(BODY_LIMIT)
            return there
        reading = self._read()
        try:
            waited_for = reading.send(None)
        except StopIteration as read:  # all of it was there: most bodies come with their head
            return cast(bytes, read.value)
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                return await _resumed(reading, waited_for)
        except TimeoutError:
            raise status.ApiStatus(408, "Timeout", "the body of the request did not arrive in time") from None

    async def _read(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            part = message.get("body", b"")
            size += len(part)
            if size > BODY_LIMIT:
                raise status.too_large(BODY_LIMIT)
            parts.append(part)
            if not message.get("more_body"):
                return parts[0] if len(parts) == 1 else b"".join(parts)


@types.coroutine
def _resumed(begun: Coroutine[Any, Any, bytes], waited_for: Any) -> Generator[Any, Any, bytes]:
    """Go on with a coroutine that was begun by hand and waits for something."""
    while True:
        try:
            sent = yield waited_for
        except BaseException as error:  # the end of the wait is the coroutine's own to handle
            step = functools.partial(begun.throw, error)
        else:
            step = functools.partial(begun.send, sent)
        try:
            waited_for = step()
        except StopIteration as done:
            return cast(bytes, done.value)


@dataclass(slots=True)
class Response:
    """An answer that is complete, or comes in chunks that are ready in memory."""

    code: int
    body: bytes = b""
    content_type: bytes = JSON
    headers: Headers = ()
    chunks: Iterable[bytes] | None = None


def json(code: int, obj: Object, *, headers: Headers = ()) -> Response:
    """Return an object as a JSON response."""
    return Response(code, orjson.dumps(obj), headers=headers)


def failure(refusal: status.ApiStatus) -> Response:
    """Return a refusal as a response."""
    return json(refusal.code, refusal.body(), headers=refusal.headers)


def warning_headers(warnings: Sequence[str]) -> Headers:
    """Return RFC 7234 Warning headers, as kubectl prints them: no control characters, and shortened as the real ones.

    What a client sent stands in them, a field's name for one.
    """
    if not warnings:
        return ()
    told = [_CONTROL.sub(" ", warning) for warning in dict.fromkeys(warnings)]
    is_long = sum(map(len, told)) > _WARNINGS_LIMIT
    lines, size = [], 0
    for text in (each[:_LONG_WARNING] for each in told) if is_long else told:
        size += len(text)
        if size > _WARNINGS_LIMIT:
            break
        quoted = text.replace("\\", "\\\\").replace('"', '\\"')
        lines.append((b"warning", f'299 - "{quoted}"'.encode()))
    return lines


def answered(send: Send, response: Response) -> bool:
    """Send a response if nothing is special about it and nothing to be waited for; return whether that was done."""
    is_plain = not response.headers and response.chunks is None
    return is_plain and transport.answered(send, response.code, response.content_type, response.body)


async def respond(send: Send, response: Response, *, more_headers: Headers = ()) -> None:
    """Send a response; chunks go out one by one with a turn for others between them."""
    if not more_headers and answered(send, response):
        return
    headers = [(b"content-type", response.content_type), *response.headers, *more_headers]
    if response.chunks is None:
        headers.append((b"content-length", b"%d" % len(response.body)))
        await send({"type": "http.response.start", "status": response.code, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})
        return
    await send({"type": "http.response.start", "status": response.code, "headers": headers})
    for chunk in response.chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b""})


async def until_disconnect(receive: Receive) -> None:
    """Return when the client hangs up. Without this a stream to a closed client would never end."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def refuse_websocket(receive: Receive, send: Send, refusal: status.ApiStatus) -> None:
    """Answer a WebSocket's handshake with a refusal, so that the client reads the reason."""
    body = orjson.dumps(refusal.body())
    headers = [(b"content-type", JSON), (b"content-length", b"%d" % len(body)), *refusal.headers]
    await send({"type": "websocket.http.response.start", "status": refusal.code, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
