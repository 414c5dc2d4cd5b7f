"""What the agent answers the API server, called as uvicorn would call it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.types import ASGIApp

from netplane.agent.node.objects import Identity
from netplane.agent.runtime.protocol import RuntimeFailure, Sink
from netplane.agent.server import app
from netplane.agent.server.authentic import Gate, Refused
from netplane.kube.api import Response
from netplane.kube.fake import FakeApi
from netplane.kube.types import PODS
from netplane.lib import clock
from tests.support.agent_pods import FakeRuntime, pod_object
from tests.support.agent_rig import rig

KEY = ec.generate_private_key(ec.SECP256R1())


class Cluster:
    """The API's key set, and how often it was asked for."""

    asked = 0

    async def request(self, method: str, path: str) -> Response:
        self.asked += 1
        jwk = jwt.algorithms.ECAlgorithm.to_jwk(KEY.public_key(), as_dict=True)
        return Response(200, {}, orjson.dumps({"keys": [{**jwk, "kid": "k1", "alg": "ES256"}]}))


def token(*, key: Any = KEY, kid: str = "k1", **claims: Any) -> str:
    now = datetime.now(UTC)
    content = {"sub": "system:apiserver", "aud": ["netplane-agent"], "exp": now + timedelta(minutes=5)} | claims
    return jwt.encode(content, key, algorithm="ES256", headers={"kid": kid})


def gate() -> Gate:
    return Gate(Cluster(), clock.SYSTEM)  # type: ignore[arg-type]  # only `request` is asked of it


async def test_the_api_servers_token_is_believed() -> None:
    assert await gate().check({"authorization": f"Bearer {token()}"}) == "system:apiserver"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer nonsense",
        "Basic x",
        f"Bearer {token(aud=['other'])}",
        f"Bearer {token(exp=datetime(2020, 1, 1, tzinfo=UTC))}",
        f"Bearer {token(kid='k2')}",
        f"Bearer {token(key=ec.generate_private_key(ec.SECP256R1()))}",
    ],
)
async def test_nobody_else_is_believed(header: str) -> None:
    with pytest.raises(Refused):
        await gate().check({"authorization": header})


class Shell:
    """A process that answers each line with itself and leaves with code 3 at the end of input."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, int]] = []
        self._lines: asyncio.Queue[bytes] = asyncio.Queue()

    async def forward(self, sink: Sink) -> None:
        while data := await self._lines.get():
            await sink("stdout", b"got " + data)
        await sink("stderr", b"bye")

    async def write(self, data: bytes) -> None:
        await self._lines.put(data)

    async def close_input(self) -> None:
        await self._lines.put(b"")

    def resize(self, width: int, height: int) -> None:
        self.sizes.append((width, height))

    async def wait(self) -> int | None:
        return 3

    async def close(self) -> None:
        self._lines.put_nowait(b"")


class Runtime(FakeRuntime):
    """A runtime whose commands are that shell, and whose logs are in a folder."""

    shell: Shell
    logs: Path
    port: int = 0

    async def connect(self, sandbox_id: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if port != self.port:
            raise RuntimeFailure(f"nobody listens on {port}")
        return await asyncio.open_connection("127.0.0.1", port)

    async def exec(self, container_id: str, argv: Any, *, tty: bool, stdin: bool) -> Any:
        return self.shell

    def log_file(self, container_id: str) -> Path:
        return self.logs / container_id


@pytest.fixture
async def runtime(tmp_path: Path) -> Runtime:
    made = Runtime(clock.SYSTEM)
    made.shell, made.logs = Shell(), tmp_path
    (tmp_path / "main-0").write_text("2026-01-01T12:00:00Z stdout F hello\n")
    return made


@pytest.fixture
async def served(runtime: Runtime, tmp_path: Path) -> AsyncIterator[ASGIApp]:
    api = FakeApi()
    async with rig(api, runtime, clock.SYSTEM, tmp_path) as kept:
        api.seed(PODS, pod_object())
        await api.until(lambda: kept.condition("Ready") == "True")
        identity = Identity("node-1", ("127.0.0.1",), 10250)
        yield app.build(kept.roster, runtime, identity, gate(), clock.SYSTEM)


async def get(served: ASGIApp, target: str, authorization: str | None = None) -> tuple[int, str]:
    path, _, query = target.partition("?")
    headers = [(b"authorization", (authorization or f"Bearer {token()}").encode())]
    scope = {"type": "http", "http_version": "1.1", "method": "GET", "path": path, "query_string": query.encode()}
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(3600)

    async def send(message: Any) -> None:
        sent.append(message)

    await served({**scope, "headers": headers, "asgi": {"spec_version": "2.4"}}, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:]).decode()


@pytest.mark.parametrize(
    ("target", "status", "said"),
    [
        ("/containerLogs/default/web/main", 200, "hello\n"),
        ("/containerLogs/default/web/main?timestamps=true", 200, "2026-01-01T12:00:00Z hello\n"),
        ("/containerLogs/default/web/other", 400, "container other is not valid for pod web"),
        ("/containerLogs/default/none/main", 404, 'pod "none" is not on node node-1'),
        ("/containerLogs/default/web/main?previous=true", 400, "previous terminated container"),
        ("/containerLogs/default/web/main?tailLines=x", 400, "log options make no sense"),
    ],
)
async def test_logs_are_shown_or_the_reason_why_not(served: ASGIApp, target: str, status: int, said: str) -> None:
    code, body = await get(served, target)
    assert code == status
    assert said in body


async def test_pods_and_usage_are_told_and_health_needs_no_token(served: ASGIApp) -> None:
    assert [item["metadata"]["name"] for item in json.loads((await get(served, "/pods"))[1])["items"]] == ["web"]
    usage = json.loads((await get(served, "/stats/summary"))[1])["pods"][0]
    assert usage["containers"][0]["memory"]["workingSetBytes"] == 3
    assert await get(served, "/healthz", "none") == (200, "ok")
    assert (await get(served, "/pods", "none"))[0] == 401
    assert (await get(served, "/metrics"))[0] == 200


class Client:
    """A WebSocket client without a socket."""

    def __init__(self, served: ASGIApp, target: str, protocols: list[str]) -> None:
        path, _, query = target.partition("?")
        self.sent: asyncio.Queue[Any] = asyncio.Queue()
        self.inbox: asyncio.Queue[Any] = asyncio.Queue()
        headers = [(b"authorization", f"Bearer {token()}".encode())]
        scope: dict[str, Any] = {"type": "websocket", "path": path, "query_string": query.encode()}
        self.call = served({**scope, "headers": headers, "subprotocols": protocols}, self.inbox.get, self.sent.put)
        self.inbox.put_nowait({"type": "websocket.connect"})

    def type(self, data: bytes) -> None:
        self.inbox.put_nowait({"type": "websocket.receive", "bytes": data})

    def frames(self) -> list[Any]:
        return [self.sent.get_nowait() for _ in range(self.sent.qsize())]


async def test_exec_carries_input_output_size_and_the_exit_code(served: ASGIApp, runtime: Runtime) -> None:
    target = "/exec/default/web/main?command=sh&stdin=true&stdout=true&tty=true"
    client = Client(served, target, ["v5.channel.k8s.io", "v4.channel.k8s.io"])
    client.type(b'\x04{"Width":80,"Height":24}')
    client.type(b"\x00hi")
    client.type(b"\xff\x00")
    async with asyncio.timeout(20):
        await client.call
    accepted, *frames, closed = client.frames()
    assert accepted["subprotocol"] == "v5.channel.k8s.io"
    assert [frame["bytes"] for frame in frames[:-1]] == [b"\x01", b"\x01got hi", b"\x02bye"]
    assert frames[-1]["bytes"][0] == 3
    assert json.loads(frames[-1]["bytes"][1:])["details"]["causes"][0]["message"] == "3"
    assert closed["type"] == "websocket.close"
    assert runtime.shell.sizes == [(80, 24)]


async def test_a_client_that_leaves_ends_its_command(served: ASGIApp) -> None:
    client = Client(served, "/exec/default/web/main?command=sh&stdin=true", ["v4.channel.k8s.io"])
    client.inbox.put_nowait({"type": "websocket.disconnect", "code": 1006})
    async with asyncio.timeout(20):
        await client.call


async def test_a_container_that_is_not_there_is_told_on_the_error_channel(served: ASGIApp) -> None:
    client = Client(served, "/exec/default/web/other?command=sh", ["v5.channel.k8s.io"])
    await client.call
    frame = client.frames()[1]["bytes"]
    assert frame[0] == 3
    assert "container other is not valid" in json.loads(frame[1:])["message"]


async def test_a_tunnel_carries_bytes_to_a_port_of_a_pod_and_back(served: ASGIApp, runtime: Runtime) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readexactly(4))[::-1])
        writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        runtime.port = server.sockets[0].getsockname()[1]
        client = Client(served, f"/tunnel/default/web/{runtime.port}", [])
        client.type(b"abcd")
        async with asyncio.timeout(20):
            await client.call
    accepted, *frames, closed = client.frames()
    assert (accepted["type"], closed["type"]) == ("websocket.accept", "websocket.close")
    assert b"".join(frame["bytes"] for frame in frames) == b"dcba"


async def test_a_tunnel_to_where_nobody_listens_is_refused(served: ASGIApp) -> None:
    client = Client(served, "/tunnel/default/web/9", [])
    async with asyncio.timeout(20):
        await client.call
    assert [frame["type"] for frame in client.frames()] == ["websocket.close"]
