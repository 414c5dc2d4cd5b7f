"""A node agent that answers logs, exec and port-forward from memory, with a certificate of the cluster's CA."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
from aiohttp import WSMsgType, web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.http_client import Client

STATUS = {"metadata": {}, "status": "Success"}
_BUSY = web.AppKey[tuple[str, str] | None]("busy")


async def _logs(request: web.Request) -> web.StreamResponse:
    if request.match_info["pod"] == "broken":
        return web.Response(status=400, text="container is waiting to start")
    answer = web.StreamResponse()
    await answer.prepare(request)
    await answer.write(f"{request.match_info['container']} {request.query_string}\n".encode())
    await answer.write(b"last line\n")
    return answer


async def _exec(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(protocols=("v5.channel.k8s.io", "v4.channel.k8s.io"))
    await socket.prepare(request)
    said = b""
    if request.query.get("stdin"):
        async for message in socket:
            if message.type is not WSMsgType.BINARY or message.data[:1] == b"\xff":
                break
            said += message.data[1:]
    await socket.send_bytes(b"\x01" + " ".join(request.query.getall("command")).encode() + b":" + said + b"\n")
    await socket.send_bytes(b"\x03" + orjson.dumps(STATUS))
    await socket.close()
    return socket


async def _port_forward(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(protocols=("SPDY/3.1+portforward.k8s.io",))
    await socket.prepare(request)
    async for message in socket:
        await socket.send_bytes(message.data[::-1])
    return socket


async def _tunnel(request: web.Request) -> web.WebSocketResponse:
    """Every pod is on this machine's loopback."""
    if request.match_info["pod"] == "broken":
        raise web.HTTPForbidden
    reader, writer = await asyncio.open_connection("127.0.0.1", int(request.match_info["port"]))
    socket = web.WebSocketResponse()
    await socket.prepare(request)

    async def outward() -> None:
        while data := await reader.read(65536):
            await socket.send_bytes(data)
        await socket.close()

    async with asyncio.TaskGroup() as group:
        out = group.create_task(outward())
        async for message in socket:
            writer.write(message.data)
        out.cancel()
    writer.close()
    return socket


async def _summary(request: web.Request) -> web.Response:
    told = {"asked": request.path_qs, "bearer": "authorization" in request.headers}
    busy = request.app[_BUSY]
    if busy is None:
        return web.json_response(told)
    used = {"cpu": {"usageCoreNanoSeconds": time.monotonic_ns()}, "memory": {"workingSetBytes": 4 << 20}}
    pod = {"podRef": {"namespace": busy[0], "name": busy[1], "uid": "u"}, "containers": [{"name": "main", **used}]}
    return web.json_response({**told, "pods": [pod]})


def _identity(api: Client, directory: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    asked = {"node": "node-1", "publicKey": public.decode(), "addresses": ["127.0.0.1"]}
    code, signed = api.ask("POST", "/netplane.io/v1/node-certificate", asked)
    assert code == 201, signed
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / "agent.pem").write_bytes(signed["certificate"].encode() + private)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(directory / "agent.pem")
    return context


@contextlib.asynccontextmanager
async def running(api: Client, directory: Path, *, busy: tuple[str, str] | None = None) -> AsyncIterator[int]:
    """Run the agent on loopback and yield its port; its summary tells of one `busy` pod, which uses a processor."""
    app = web.Application()
    app[_BUSY] = busy
    app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", _logs)
    app.router.add_get("/exec/{namespace}/{pod}/{container}", _exec)
    app.router.add_get("/portForward/{namespace}/{pod}", _port_forward)
    app.router.add_get("/tunnel/{namespace}/{pod}/{port}", _tunnel)
    app.router.add_get("/stats/summary", _summary)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=_identity(api, directory)).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def register(api: Client, node: str, port: int) -> None:
    """Make a Node whose agent listens on a port of loopback."""
    assert api.ask("POST", "/api/v1/nodes", {"metadata": {"name": node}})[0] == 201
    shown = {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        "allocatable": {"cpu": "2", "memory": "1Gi"},
    }
    merge = {"Content-Type": "application/merge-patch+json"}
    assert api.ask("PATCH", f"/api/v1/nodes/{node}/status", {"status": shown}, headers=merge)[0] == 200
