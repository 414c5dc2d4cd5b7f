"""The echo server says who answered whom, misbehaves on request, and stops without losing a request."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from netplane.agent.builtin import echo
from netplane.agent.builtin.echo import server

IDENTITY = {"pod": "web-1", "node": "node-1", "namespace": "default", "podIP": ""}


class Running:
    """A server at work, and a client for it."""

    def __init__(self, echo_server: server.Server, session: aiohttp.ClientSession, stop: asyncio.Event) -> None:
        self.server = echo_server
        self.session = session
        self.stop = stop

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.ports['http']}"

    async def get(self, path: str, **options: Any) -> tuple[int, dict[str, Any]]:
        async with self.session.get(self.url + path, **options) as answer:
            return answer.status, await answer.json()

    async def raw(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.ports["http"])
        writer.write(request)
        async with asyncio.timeout(20):
            told = await reader.read()
        writer.close()
        return told


@contextlib.asynccontextmanager
async def running(*, drain: float = 0.0, grace: float = 5.0) -> AsyncIterator[Running]:
    chosen = server.Settings(IDENTITY, 0, 0, 0, drain=drain, grace=grace, logs_requests=False)
    made, stop = server.Server(chosen), asyncio.Event()
    async with asyncio.TaskGroup() as group, aiohttp.ClientSession() as session:
        group.create_task(made.run(stop))
        while not made.ports:  # noqa: ASYNC110  # the server does not tell tests when it listens
            await asyncio.sleep(0.001)
        yield Running(made, session, stop)
        stop.set()


async def test_http_says_who_answers_whom() -> None:
    async with (
        running() as echo_,
        echo_.session.post(echo_.url + "/a%20b?x=1&y=", data=b"hello", headers={"X-Test": "1"}) as answer,
    ):
        told = await answer.json()
    assert (told["pod"], told["node"], told["namespace"]) == ("web-1", "node-1", "default")
    assert (told["podIP"], told["client"]["address"]) == ("127.0.0.1", "127.0.0.1")
    assert (told["method"], told["path"], told["query"]) == ("POST", "/a b", {"x": "1", "y": ""})
    assert told["headers"]["x-test"] == "1"
    assert told["body"] == {"length": 5, "start": "hello"}


async def test_ipv6_is_answered_by_the_same_server() -> None:
    async with running() as echo_:
        port = echo_.server.ports["http"]
        async with echo_.session.get(f"http://[::1]:{port}/") as answer:
            assert (await answer.json())["client"]["address"] == "::1"


async def test_tcp_and_udp_answer_too() -> None:
    async with running() as echo_:
        reader, writer = await asyncio.open_connection("127.0.0.1", echo_.server.ports["tcp"])
        writer.write(b"hi")
        told = json.loads(await reader.readline())
        writer.close()
        assert (told["protocol"], told["pod"], told["data"]) == ("tcp", "web-1", "hi")
        assert json.loads(await datagram(echo_.server.ports["udp"], b"hey"))["data"] == "hey"


async def datagram(port: int, data: bytes) -> bytes:
    answered = asyncio.get_running_loop().create_future()

    class Client(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            answered.set_result(data)

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Client, remote_addr=("127.0.0.1", port))
    transport.sendto(data)
    async with asyncio.timeout(20):
        told: bytes = await answered
    transport.close()
    return told


async def test_it_fails_and_waits_on_request() -> None:
    async with running() as echo_:
        began = asyncio.get_running_loop().time()
        status, _ = await echo_.get("/?status=503&delay=30")
        assert (status, asyncio.get_running_loop().time() - began >= 0.03) == (503, True)


@pytest.mark.parametrize("query", ["delay=x", "status=99", "status=a", "stream=many"])
async def test_a_bad_wish_is_answered_with_400(query: str) -> None:
    async with running() as echo_:
        assert (await echo_.get(f"/?{query}"))[0] == 400


async def test_a_stream_sends_line_after_line() -> None:
    async with running() as echo_, echo_.session.get(echo_.url + "/?stream=3&interval=1") as answer:
        lines = [json.loads(line)["line"] async for line in answer.content]
    assert lines == [0, 1, 2]


async def test_websocket_messages_come_back_whole() -> None:
    async with running() as echo_, echo_.session.ws_connect(echo_.url + "/ws") as connection:
        for message in ("text", "x" * 200, "y" * 70_000):
            await connection.send_str(message)
            assert await connection.receive_str() == message
        await connection.send_bytes(b"\0\1")
        assert await connection.receive_bytes() == b"\0\1"
        await connection.ping(b"still there?")
        await connection.close()
        assert connection.close_code == 1000


async def test_readiness_is_set_from_outside() -> None:
    async with running() as echo_:
        assert (await echo_.get("/ready"))[0] == 200
        async with echo_.session.post(echo_.url + "/ready?value=false") as answer:
            assert answer.status == 200
        assert (await echo_.get("/ready"))[0] == 503
        assert (await echo_.get("/healthz"))[0] == 200


async def test_one_connection_serves_many_requests() -> None:
    async with running() as echo_:
        ports = {(await echo_.get("/"))[1]["client"]["port"] for _ in range(3)}
    assert len(ports) == 1


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"hello\r\n\r\n", b"400"),
        (b"GET / HTTP/2\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", b"413"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", b"431"),
    ],
)
async def test_what_is_no_request_is_refused_and_the_connection_closed(request_: bytes, status: bytes) -> None:
    async with running() as echo_:
        assert (await echo_.raw(request_)).startswith(b"HTTP/1.1 " + status)


async def test_http_1_0_and_close_end_the_connection() -> None:
    async with running() as echo_:
        assert b"Connection: close" in await echo_.raw(b"GET / HTTP/1.0\r\n\r\n")
        assert b"Connection: close" in await echo_.raw(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")


async def test_a_chunked_body_and_a_head_request_are_understood() -> None:
    async with running() as echo_:
        head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        told = await echo_.raw(head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        assert b'"length": 5, "start": "abcde"' in told
        assert (await echo_.raw(b"HEAD / HTTP/1.0\r\n\r\n")).endswith(b"\r\n\r\n")


async def test_while_leaving_it_is_not_ready_but_answers_and_closes() -> None:
    async with running(drain=0.3) as echo_:
        await echo_.get("/")  # A connection kept open from before.
        echo_.stop.set()
        await asyncio.sleep(0.05)
        assert (await echo_.get("/ready"))[0] == 503
        async with echo_.session.get(echo_.url + "/") as answer:
            assert answer.status == 200
            assert answer.headers["Connection"] == "close"


async def test_what_is_being_answered_is_finished() -> None:
    async with running() as echo_, asyncio.TaskGroup() as group:
        slow = group.create_task(echo_.get("/?delay=200"))
        await asyncio.sleep(0.05)
        echo_.stop.set()
        assert (await slow)[0] == 200


async def test_what_takes_longer_than_the_grace_is_cut() -> None:
    async with running(grace=0.05) as echo_, asyncio.TaskGroup() as group:
        slow = group.create_task(_ends(echo_.get("/?delay=60000")))
        await asyncio.sleep(0.05)
        echo_.stop.set()
        assert await slow == "cut"


async def _ends(request: Any) -> str:
    try:
        await request
    except aiohttp.ClientError:
        return "cut"
    return "answered"


def test_the_environment_says_who_we_are() -> None:
    chosen = server.settings({"NODE_NAME": "n", "POD_IP": "10.0.0.1", "DRAIN_SECONDS": "7"}, "host")
    assert chosen.identity == {"pod": "host", "node": "n", "namespace": "", "podIP": "10.0.0.1"}
    assert chosen.drain == 7.0


def _started(**environ: str) -> subprocess.Popen[str]:
    ports = {"HTTP_PORT": "0", "TCP_PORT": "0", "UDP_PORT": "0", "DRAIN_SECONDS": "0"}
    folder = str(Path(echo.__file__).parents[1])
    code = f"import sys; sys.path.append({folder!r}); from echo import __main__ as program; program.main()"
    argv = [os.path.realpath(sys.executable), "-I", "-S", "-c", code]
    return subprocess.Popen(argv, env={**ports, **environ}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_as_a_program_it_ends_well_on_sigterm() -> None:
    with _started() as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("echo listens on ")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_a_setting_that_is_no_number_is_one_line() -> None:
    with _started(HTTP_PORT="many") as process:
        _, told = process.communicate(timeout=10)
        assert (process.returncode, told) == (1, "echo: invalid literal for int() with base 10: 'many'\n")
