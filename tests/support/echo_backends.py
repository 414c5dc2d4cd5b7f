"""Answer HTTP as many pods at once: every address of the namespace is one, and each answer says which was asked.

Run inside a network namespace: python -m tests.support.echo_backends CERTIFICATE. It prints `ready` when it listens
on 8080 (HTTP) and 8443 (HTTPS). `start ADDRESS PORT` and `stop ADDRESS PORT` on standard input open and close further
pods, each answered by `ok`; a stopped pod ends as a good server does: no new connections, what is under way goes on.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator

from aiohttp import WSMsgType, web

HTTP, HTTPS = 8080, 8443
_PIECE = b"x" * 1024
_SEEN: dict[str, tuple[int, dict[str, object]]] = {}


def said(request: web.Request, body: bytes) -> dict[str, object]:
    """Return what came, as the answer's JSON: which pod was asked, and the request as the pod saw it."""
    transport = request.transport
    assert transport is not None
    peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
    headers: dict[str, list[str]] = {}
    for name, value in request.headers.items():
        headers.setdefault(name.lower(), []).append(value)
    return {
        "pod": own[0],
        "port": own[1],
        "client": peer[0],
        "secure": request.secure,
        "method": request.method,
        "path": request.raw_path,
        "host": request.headers.get("Host", ""),
        "proto": f"HTTP/{request.version.major}.{request.version.minor}",
        "headers": headers,
        "body": body.decode("latin-1"),
    }


async def _echo(request: web.Request) -> web.StreamResponse:
    """Answer with what came. `x-echo-status`, `x-echo-delay` and `x-echo-header: NAME=VALUE` change the answer."""
    body = await request.read()
    words = said(request, body)
    count, _ = _SEEN.get(str(words["pod"]), (0, {}))
    _SEEN[str(words["pod"])] = count + 1, words
    headers = [tuple(each.split("=", 1)) for each in request.headers.getall("x-echo-header", [])]
    if "x-echo-delay" in request.headers:
        await asyncio.sleep(min(float(request.headers["x-echo-delay"]), 30.0))
    answer = web.json_response(words, status=int(request.headers.get("x-echo-status", "200")))
    for name, value in headers:
        answer.headers.add(name, value)
    answer.headers.setdefault("Server", "echo")
    return answer


async def _seen(request: web.Request) -> web.StreamResponse:
    """Answer with the last request that this pod echoed, and in `x-seen` how many there were."""
    count, words = _SEEN.get(str(said(request, b"")["pod"]), (0, {}))
    return web.json_response(words or {"pod": ""}, headers={"x-seen": str(count)})


async def _socket(request: web.Request) -> web.StreamResponse:
    """Send every message back, after one that says which pod this is."""
    socket = web.WebSocketResponse(heartbeat=None, autoping=True)
    await socket.prepare(request)
    await socket.send_json(said(request, b""))
    async for message in socket:
        if message.type == WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type == WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket


async def _download(request: web.Request) -> web.StreamResponse:
    """Send `?pieces=N` KiB, one every `?every=` seconds, with a known length."""
    pieces, every = int(request.query.get("pieces", "10")), float(request.query.get("every", "0.1"))
    answer = web.StreamResponse(headers={"Content-Length": str(pieces * len(_PIECE))})
    await answer.prepare(request)
    for _ in range(pieces):
        await answer.write(_PIECE)
        await asyncio.sleep(every)
    return answer


async def _commands() -> AsyncIterator[list[str]]:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield line.decode().split()


async def _serve(certificate: str) -> None:
    application = web.Application()
    application.router.add_get("/-/socket", _socket)
    application.router.add_get("/-/download", _download)
    application.router.add_get("/-/seen", _seen)
    application.router.add_route("*", "/{path:.*}", _echo)
    runner = web.AppRunner(application, access_log=None, keepalive_timeout=3600, shutdown_timeout=1)
    await runner.setup()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    await web.TCPSite(runner, "0.0.0.0", HTTP, backlog=4096).start()
    await web.TCPSite(runner, "0.0.0.0", HTTPS, backlog=4096, ssl_context=context).start()
    open_pods: dict[tuple[str, str], web.TCPSite] = {}
    print("ready", flush=True)
    async for verb, address, port in _commands():
        if verb == "start":
            site = open_pods[address, port] = web.TCPSite(runner, address, int(port), backlog=4096)
            await site.start()
        else:
            # Only the listener closes; connections end when their clients leave, as in a pod's grace period.
            await open_pods.pop((address, port)).stop()
        print("ok", flush=True)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
