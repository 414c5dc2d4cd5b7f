"""A connection's writes: what is joined, what waits, and for how long."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from netplane.controlplane.api import access, http, transport

_HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class _Socket:
    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.is_closed = False

    def write(self, part: bytes) -> None:
        self.sent.append(part)

    def close(self) -> None:
        self.is_closed = True

    def get_extra_info(self, name: str) -> str:
        return name


def _joined() -> tuple[transport.Joined, _Socket]:
    socket = _Socket()
    return transport.Joined(cast(asyncio.Transport, socket), asyncio.get_running_loop()), socket


async def test_an_answers_head_goes_with_its_body() -> None:
    joined, socket = _joined()
    joined.write(_HEAD)
    joined.write(b"body")
    await asyncio.sleep(0)
    assert socket.sent == [_HEAD + b"body"]


async def test_a_large_body_is_not_copied_for_its_head() -> None:
    joined, socket = _joined()
    body = bytes(1 << 20)
    joined.write(_HEAD)
    joined.write(body)
    assert socket.sent == [_HEAD, body]
    assert socket.sent[1] is body


async def test_a_streams_head_waits_for_no_line() -> None:
    joined, socket = _joined()
    joined.write(_HEAD)
    await asyncio.sleep(0)
    assert socket.sent == [_HEAD]
    joined.write(b"a line much later")
    assert socket.sent == [_HEAD, b"a line much later"]


async def test_closing_sends_what_waits_first() -> None:
    joined, socket = _joined()
    joined.write(_HEAD)
    joined.close()
    assert (socket.sent, socket.is_closed) == ([_HEAD], True)
    assert joined.get_extra_info("peername") == "peername"


def _request(*messages: dict[str, Any], gate: asyncio.Event | None = None) -> http.Request:
    waiting = iter(messages)

    async def receive() -> http.Message:
        if gate is not None:
            await gate.wait()
        return next(waiting)

    async def send(message: http.Message) -> None:
        raise AssertionError(message)

    return http.Request("POST", "/", {}, {}, None, access.ANONYMOUS, receive, send)


async def test_a_body_is_read_whether_it_is_there_or_comes_in_parts() -> None:
    parts = ({"type": "http.request", "body": b"one ", "more_body": True}, {"type": "http.request", "body": b"two"})
    assert await _request(*parts).body() == b"one two"
    gate = asyncio.Event()
    reading = asyncio.ensure_future(_request(*parts, gate=gate).body())
    await asyncio.sleep(0)
    assert not reading.done()
    gate.set()
    assert await reading == b"one two"


async def test_who_stops_reading_a_body_ends_the_wait() -> None:
    gate = asyncio.Event()
    reading = asyncio.ensure_future(_request(gate=gate).body())
    await asyncio.sleep(0)
    reading.cancel()
    (ended,) = await asyncio.gather(reading, return_exceptions=True)
    assert isinstance(ended, asyncio.CancelledError)
