"""A connection's writes: what is joined, what waits, and for how long."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

import pytest
from uvicorn.protocols.http import flow_control, httptools_impl

from netplane.controlplane.api import access, http, status, transport

_HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class _Socket:
    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.is_closed = False

    def write(self, part: bytes) -> None:
        self.sent.append(part)

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

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


def _asking(cycle: httptools_impl.RequestResponseCycle) -> http.Request:
    return http.Request(
        "POST", "/", {}, {}, None, access.ANONYMOUS, cast(http.Receive, cycle.receive), cast(http.Send, cycle.send)
    )


async def test_a_body_that_is_there_is_taken_once_and_past_asgi() -> None:
    cycle = _cycle(_Socket())
    cycle.body += b"whole"
    cycle.more_body = False
    cycle.message_event.set()
    assert await _asking(cycle).body() == b"whole"
    assert transport.arrived(cycle.receive) is None
    hung_up = asyncio.ensure_future(cycle.receive())
    await asyncio.sleep(0)
    assert not hung_up.done()
    cycle.disconnected = True
    cycle.message_event.set()
    assert await hung_up == {"type": "http.disconnect"}


async def test_a_body_of_which_more_is_to_come_or_whose_client_has_gone_is_asked_for() -> None:
    coming, gone = _cycle(_Socket()), _cycle(_Socket())
    coming.body += b"one "
    coming.message_event.set()
    reading = asyncio.ensure_future(_asking(coming).body())
    await asyncio.sleep(0)
    coming.body += b"two"
    coming.more_body = False
    coming.message_event.set()
    assert await reading == b"one two"
    gone.more_body, gone.disconnected = False, True
    gone.message_event.set()
    with pytest.raises(http.Disconnected):
        await _asking(gone).body()


async def test_a_body_that_is_too_large_is_refused_though_it_is_there() -> None:
    cycle = _cycle(_Socket())
    cycle.body += bytes(http.BODY_LIMIT + 1)
    cycle.more_body = False
    cycle.message_event.set()
    with pytest.raises(status.ApiStatus) as refused:
        await _asking(cycle).body()
    assert refused.value.code == 413


def _cycle(socket: _Socket, *, method: str = "GET", keep_alive: bool = True) -> httptools_impl.RequestResponseCycle:
    transport_ = cast(asyncio.Transport, transport.Joined(cast(asyncio.Transport, socket), asyncio.get_running_loop()))
    return httptools_impl.RequestResponseCycle(
        scope=cast(Any, {"type": "http", "method": method}),
        transport=transport_,
        flow=flow_control.FlowControl(transport_),
        logger=logging.getLogger("test"),
        access_logger=logging.getLogger("test"),
        access_log=False,
        default_headers=[(b"date", b"today")],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=keep_alive,
        on_response=lambda: None,
    )


async def _answered(cycle: httptools_impl.RequestResponseCycle, *, through_asgi: bool) -> None:
    send = cast(http.Send, cycle.send)
    more = [(b"warning", b"299 - x")] if through_asgi else []
    await http.respond(send, http.Response(200, b'{"a":1}'), more_headers=more)


@pytest.mark.parametrize("keep_alive", [True, False])
async def test_an_answer_past_asgi_is_the_one_through_it(keep_alive: bool) -> None:
    straight, through = _Socket(), _Socket()
    one, other = _cycle(straight, keep_alive=keep_alive), _cycle(through, keep_alive=keep_alive)
    await _answered(one, through_asgi=False)
    await _answered(other, through_asgi=True)
    heads = [set(b"".join(each.sent).partition(b"\r\n\r\n")[0].split(b"\r\n")) for each in (straight, through)]
    assert heads[0] == heads[1] - {b"warning: 299 - x"}
    assert straight.sent[-1].endswith(b'\r\n\r\n{"a":1}')
    assert (one.response_complete, one.message_event.is_set()) == (True, True)
    assert (straight.is_closed, through.is_closed) == (not keep_alive, not keep_alive)


async def test_a_head_alone_is_answered_without_a_body() -> None:
    socket = _Socket()
    cycle = _cycle(socket, method="HEAD")
    await _answered(cycle, through_asgi=False)
    await asyncio.sleep(0)
    assert b"".join(socket.sent).endswith(b"\r\n\r\n")


async def test_who_has_gone_is_answered_nothing() -> None:
    socket = _Socket()
    cycle = _cycle(socket)
    cycle.disconnected = True
    await _answered(cycle, through_asgi=False)
    assert socket.sent == []


async def test_connections_share_what_they_are_given_to_receive_and_each_keeps_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[object, bytes] = {}
    monkeypatch.setattr(transport.Protocol, "__init__", lambda self, **parts: None)
    monkeypatch.setattr(transport.Protocol, "data_received", lambda self, data: seen.update({self: data}))
    for text in (b"the first, which is longer", b"the second"):
        connection = transport.Buffered()
        connection.get_buffer(len(text))[: len(text)] = text
        connection.buffer_updated(len(text))
    assert list(seen.values()) == [b"the first, which is longer", b"the second"]
