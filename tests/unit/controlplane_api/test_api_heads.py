"""A request whose head is known reads as it did the first time, and everything else goes through the parser."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from netplane.controlplane.api import asked, heads, transport

POST = b"POST /api/v1/pods?dryRun=All&a=%20 HTTP/1.1\r\nHost: a\r\nX-One: 1\r\nContent-Length: 4\r\n\r\n"
GET = b"GET /api HTTP/1.1\r\nHost: a\r\n\r\n"
TURNS = 1000


class _Socket(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 1), "sockname": ("192.0.2.2", 2), "sslcontext": True})
        self.sent: list[bytes] = []
        self.is_closed = False

    def write(self, data: Any) -> None:
        self.sent.append(bytes(data))

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Line:
    """A connection to an application that notes what it is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.known = heads.Heads()
        monkeypatch.setattr(transport, "_HEADS", self.known)
        self.socket = _Socket()
        self.scopes: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()
        config = uvicorn.Config(
            self._serve, log_config=None, ws="none", lifespan="off", interface="asgi3", proxy_headers=False
        )
        config.load()
        self.protocol = transport.Protocol(
            config=config, server_state=ServerState(), app_state={}, _loop=asyncio.get_running_loop()
        )
        self.protocol.connection_made(self.socket)

    async def _serve(self, scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        self.scopes.append({**scope, "is_known": scope.pop(heads.READ, None) is not None})
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        self.bodies.append(body)
        await self.gate.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def send(self, *parts: bytes, answers: int = 1) -> None:
        """Send data in these parts and wait until so many more requests were answered."""
        wanted = self.protocol.server_state.total_requests + answers
        for part in parts:
            self.protocol.data_received(part)
            await asyncio.sleep(0)
        for _ in range(TURNS):
            if self.protocol.server_state.total_requests >= wanted:
                return
            await asyncio.sleep(0)
        raise AssertionError(f"not answered: {self.scopes}")

    @property
    def ways(self) -> list[bool]:
        """Which requests had heads that were known."""
        return [scope["is_known"] for scope in self.scopes]

    def asked(self, number: int) -> dict[str, Any]:
        """Return the scope of a request, but for what is the protocol's own."""
        return {k: v for k, v in self.scopes[number].items() if not k.startswith(("netplane", "is_known", "state"))}


@pytest.fixture
async def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    return Line(monkeypatch)


async def test_a_known_head_says_what_it_said_before(line: Line) -> None:
    await line.send(POST + b"one.")
    await line.send(POST + b"two.")
    assert line.ways == [False, True]
    assert line.asked(0) == line.asked(1)
    assert line.bodies == [b"one.", b"two."]
    assert line.scopes[1]["state"].keys() == line.scopes[0]["state"].keys()


async def test_what_comes_in_parts_or_two_at_once_is_read_by_the_parser(line: Line) -> None:
    await line.send(POST + b"one.")
    await line.send(POST[:9], POST[9:] + b"tw", b"o.")
    await line.send(POST + b"thr", b"e", answers=1)
    await line.send(POST + b"four" + POST + b"five", answers=2)
    await line.send(GET, answers=1)
    await line.send(GET, answers=1)
    assert line.bodies == [b"one.", b"two.", b"thre", b"four", b"five", b"", b""]
    assert line.ways == [False] * 6 + [True]


async def test_a_request_behind_one_that_is_not_answered_waits_for_it(line: Line) -> None:
    await line.send(POST + b"one.")
    line.gate.clear()
    await line.send(POST + b"two.", POST + b"tre.", answers=0)
    assert line.bodies == [b"one.", b"two."]
    line.gate.set()
    await line.send(answers=2)
    assert line.bodies == [b"one.", b"two.", b"tre."]
    assert line.ways == [False, True, False]


@pytest.mark.parametrize(
    "more",
    [
        b"Expect: 100-continue\r\nContent-Length: 1\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\nContent-Length: 1\r\n",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
        b"Content-Length: 1\r\nContent-Length: 1\r\n",
        b"Content-Length: +1\r\n",
        b"X: " + b"x" * 5000 + b"\r\nContent-Length: 1\r\n",
    ],
)
def test_a_head_with_anything_special_is_not_remembered(more: bytes) -> None:
    known, data = heads.Heads(), b"POST / HTTP/1.1\r\n" + more + b"\r\nx"
    lines = [line.split(b": ") for line in more.splitlines()]
    scope = {"headers": [(name.lower(), value) for name, value in lines], "http_version": "1.1"}
    known.remember(data, scope)
    assert known.find(data) is None


def test_few_heads_are_remembered() -> None:
    known = heads.Heads()
    names = ("type", "asgi", "root_path", "method", "path", "raw_path", "query_string")
    scope = {**dict.fromkeys(names, ""), "headers": [], "http_version": "1.1"}
    texts = [b"GET /%d HTTP/1.1\r\n\r\n" % number for number in range(1000)]
    for text in texts:
        known.remember(text, scope)
    assert known.find(texts[-1]) is not None
    assert sum(known.find(text) is not None for text in texts) <= 256


async def test_a_client_that_is_silent_for_long_is_hung_up_on(line: Line) -> None:
    await line.send(GET)
    line.protocol.timeout_keep_alive_handler()
    assert not line.socket.is_closed, "it spoke just now"
    line.protocol.timeout_keep_alive = 0
    line.protocol.timeout_keep_alive_handler()
    assert line.socket.is_closed


async def test_a_client_that_waits_for_its_answer_or_is_still_asking_is_not_hung_up_on(line: Line) -> None:
    line.protocol.timeout_keep_alive = 3600
    await line.send(GET)
    line.protocol.timeout_keep_alive = 0
    line.gate.clear()
    await line.send(GET, answers=0)
    line.protocol.timeout_keep_alive_handler()
    assert not line.socket.is_closed
    line.gate.set()
    line.protocol.timeout_keep_alive = 3600
    await line.send(answers=1)
    line.protocol.timeout_keep_alive = 0
    line.protocol.data_received(POST)
    line.protocol.timeout_keep_alive_handler()
    assert not line.socket.is_closed
    line.protocol.connection_lost(None)
    assert line.protocol.timeout_keep_alive_task is None


@pytest.mark.parametrize(
    ("header", "credentials"),
    [
        (b"Bearer a.b.c", ("bearer", "a.b.c")),
        (b"bearer  a.b.c ", ("bearer", "a.b.c")),
        (b"Basic YTpi", ("basic", "YTpi")),
        (b"a", ("a", "")),
        (b"", None),
        (None, None),
    ],
)
def test_a_head_says_who_asks(header: bytes | None, credentials: tuple[str, str] | None) -> None:
    told = [] if header is None else [(b"authorization", header)]
    scope: dict[str, Any] = {"path": "/api/v1/pods", "query_string": b"", "headers": told}
    assert asked.of(scope).credentials == credentials


def test_what_a_known_head_asks_for_is_found_out_once() -> None:
    scope: dict[str, Any] = {
        "path": "/api/v1/watch/namespaces/a/pods",
        "query_string": b"a=b",
        "headers": [(b"impersonate-user", b"a")],
    }
    known = {**scope, heads.READ: heads.Head(scope, 0)}
    one, other = asked.of(known), asked.of({**known})
    assert one is other
    assert (one.path, one.query, one.impersonates) == (
        "/api/v1/namespaces/a/pods",
        {"a": ("b",), "watch": ("true",)},
        True,
    )
    assert asked.of(scope) is not asked.of(scope)
