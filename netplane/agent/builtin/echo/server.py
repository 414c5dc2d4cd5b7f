"""Answer over HTTP, TCP and UDP with who answered whom, and stop so that no request is lost.

`?delay=ms` waits, `?status=503` fails, `?stream=N&interval=ms` sends N lines; /ws echoes WebSocket messages;
/healthz, /ready (POST /ready?value=false), /exit?code=1. HTTP paths else mean nothing and are told back.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import http1, websocket

_QUIET = ("/healthz", "/ready")
_HOUR = 3_600_000.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Who we are and how we stop. Times are in seconds."""

    identity: Mapping[str, str]
    http_port: int = 8080
    tcp_port: int = 8081
    udp_port: int = 8082
    drain: float = 2.0
    """After SIGTERM connections are still taken for so long, until everybody knows that we leave."""
    grace: float = 25.0
    """Then what is being answered may take so long."""
    logs_requests: bool = True


def settings(environ: Mapping[str, str], hostname: str) -> Settings:
    """Return what the environment says; names are those the downward API is usually given."""
    identity = {
        "pod": environ.get("POD_NAME") or hostname,
        "node": environ.get("NODE_NAME", ""),
        "namespace": environ.get("POD_NAMESPACE", ""),
        "podIP": environ.get("POD_IP", ""),
    }
    return Settings(
        identity=identity,
        http_port=int(environ.get("HTTP_PORT", "8080")),
        tcp_port=int(environ.get("TCP_PORT", "8081")),
        udp_port=int(environ.get("UDP_PORT", "8082")),
        drain=float(environ.get("DRAIN_SECONDS", "2")),
        grace=float(environ.get("GRACE_SECONDS", "25")),
        logs_requests=environ.get("LOG_REQUESTS", "true") != "false",
    )


class Server:
    """The three listeners and what they share."""

    def __init__(self, chosen: Settings) -> None:
        self.ports: dict[str, int] = {}
        self._settings = chosen
        self._is_ready = True
        self._is_leaving = False
        self._busy = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._open: set[asyncio.StreamWriter] = set()
        self._sockets: set[asyncio.StreamWriter] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop`, then drain: see Settings."""
        loop = asyncio.get_running_loop()
        http = await asyncio.start_server(
            self._http, sock=_listener(self._settings.http_port), limit=http1.HEAD_LIMIT, backlog=1024
        )
        tcp = await asyncio.start_server(self._tcp, sock=_listener(self._settings.tcp_port), backlog=1024)
        udp, _ = await loop.create_datagram_endpoint(
            lambda: _Datagrams(self), sock=_bound(self._settings.udp_port, socket.SOCK_DGRAM)
        )
        self.ports = {
            "http": http.sockets[0].getsockname()[1],
            "tcp": tcp.sockets[0].getsockname()[1],
            "udp": udp.get_extra_info("sockname")[1],
        }
        say(f"echo listens on {self.ports['http']} (HTTP), {self.ports['tcp']} (TCP), {self.ports['udp']} (UDP)")
        await stop.wait()
        await self._drain()
        http.close()
        tcp.close()
        udp.close()
        await self._finish()
        say("echo ends")

    async def _drain(self) -> None:
        self._is_leaving = True
        say(f"echo stops: takes connections for {self._settings.drain} s more")
        for writer in self._sockets:
            writer.write(websocket.going_away())
        await asyncio.sleep(self._settings.drain)

    async def _finish(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.grace):
                await self._idle.wait()
        for writer in list(self._open):
            writer.close()
        await asyncio.sleep(0)

    async def _http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while await self._one(reader, writer):
                continue
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # The client left; there is nobody to tell.
        finally:
            self._open.discard(writer)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether another may follow."""
        try:
            request = await http1.read(reader, writer)
        except http1.Malformed as error:
            writer.write(http1.answer(error.status, _json({"error": str(error)}), close=True))
            await writer.drain()
            return False
        if request is None:
            return False
        self._busy += 1
        self._idle.clear()
        try:
            status = await self._answer(request, reader, writer)
            await writer.drain()
        finally:
            self._busy -= 1
            if not self._busy:
                self._idle.set()
        if self._settings.logs_requests and request.path not in _QUIET:
            say(f"{request.method} {request.path} {status} {_text(writer.get_extra_info('peername'))}")
        return status != 101 and not (request.wants_close or self._is_leaving)

    async def _answer(self, request: http1.Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        try:
            if request.path == "/ws" and "sec-websocket-key" in request.headers:
                return await self._upgrade(request, reader, writer)
            await asyncio.sleep(request.number("delay", 0, _HOUR) / 1000)
            status, told = self._route(request, writer)
            if "stream" in request.query:
                await self._stream(request, writer, status, told)
                return status
        except http1.Malformed as error:
            status, told = error.status, {"error": str(error)}
        close = request.wants_close or self._is_leaving
        writer.write(http1.answer(status, _json(told), close=close, with_body=request.method != "HEAD"))
        if request.path == "/exit" and status == 200:
            await writer.drain()
            asyncio.get_running_loop().call_later(0.05, os._exit, int(told["exit"]))
        return status

    def _route(self, request: http1.Request, writer: asyncio.StreamWriter) -> tuple[int, dict[str, Any]]:
        if request.path == "/healthz":
            return 200, {"healthy": True}
        if request.path == "/ready":
            if request.method in ("POST", "PUT"):
                self._is_ready = request.query.get("value", "true") != "false"
                return 200, {"ready": self._is_ready}
            is_ready = self._is_ready and not self._is_leaving
            return (200 if is_ready else 503), {"ready": is_ready}
        if request.path == "/exit":
            return 200, {**self._settings.identity, "exit": int(request.number("code", 0, 255))}
        status = int(request.number("status", 200, 599))
        if status < 200:
            raise http1.Malformed(400, "status must be from 200 to 599")
        return status, self._told(request, writer)

    def _told(self, request: http1.Request, writer: asyncio.StreamWriter) -> dict[str, Any]:
        about = self.facts(writer.get_extra_info("sockname"), writer.get_extra_info("peername"))
        body = {"length": request.length, "start": request.start.decode("utf-8", "replace")}
        asked = {"method": request.method, "path": request.path, "query": request.query, "headers": request.headers}
        return {**about, "protocol": "http", **asked, "body": body}

    async def _stream(
        self, request: http1.Request, writer: asyncio.StreamWriter, status: int, told: dict[str, Any]
    ) -> None:
        lines, interval = int(request.number("stream", 1, 1e6)), request.number("interval", 1000, _HOUR) / 1000
        close = request.wants_close or self._is_leaving
        chunked = "Transfer-Encoding: chunked\r\n"
        writer.write(http1.head(status, chunked, close=close, content_type="application/x-ndjson"))
        for number in range(lines if request.method != "HEAD" else 0):
            line = _json({**told, "line": number})
            writer.write(b"%x\r\n%b\r\n" % (len(line), line))
            await writer.drain()
            if number + 1 < lines:
                await asyncio.sleep(interval)
        writer.write(b"0\r\n\r\n")

    async def _upgrade(self, request: http1.Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        writer.write(websocket.accept(request.headers["sec-websocket-key"]))
        await writer.drain()
        self._sockets.add(writer)
        try:
            await websocket.echo(reader, writer)
        finally:
            self._sockets.discard(writer)
        return 101

    async def _tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        about = self.facts(writer.get_extra_info("sockname"), writer.get_extra_info("peername"))
        try:
            while data := await reader.read(65536):
                writer.write(_json({**about, "protocol": "tcp", "data": data.decode("utf-8", "replace")}))
                await writer.drain()
        except ConnectionError:
            pass  # As above.
        finally:
            self._open.discard(writer)
            writer.close()

    def datagram(self, data: bytes, own: Any, peer: Any) -> bytes:
        """Return the answer to a datagram."""
        return _json({**self.facts(own, peer), "protocol": "udp", "data": data[:1024].decode("utf-8", "replace")})

    def facts(self, own: Any, peer: Any) -> dict[str, Any]:
        """Return who answers whom."""
        identity = dict(self._settings.identity)
        identity["podIP"] = identity["podIP"] or _address(own[0])
        return {
            **identity,
            "client": {"address": _address(peer[0]), "port": peer[1]},
            "server": {"address": _address(own[0]), "port": own[1]},
        }


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: Server) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        own = self._transport.get_extra_info("sockname")
        self._transport.sendto(self._server.datagram(data, own, addr), addr)


def _listener(port: int) -> socket.socket:
    listening = _bound(port, socket.SOCK_STREAM)
    listening.listen(1024)
    return listening


def _bound(port: int, kind: socket.SocketKind) -> socket.socket:
    """Return a socket bound to every address of both families, or of IPv4 where the kernel has no IPv6."""
    try:
        made = socket.socket(socket.AF_INET6, kind)
    except OSError:
        made = socket.socket(socket.AF_INET, kind)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if made.family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind(("::" if made.family == socket.AF_INET6 else "0.0.0.0", port))
    except OSError:
        made.close()
        raise
    return made


def _address(text: str) -> str:
    return text.removeprefix("::ffff:").partition("%")[0]


def _text(peer: Any) -> str:
    if not peer:
        return "?"
    address = _address(peer[0])
    return f"[{address}]:{peer[1]}" if ":" in address else f"{address}:{peer[1]}"


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode() + b"\n"


def say(line: str) -> None:
    """Write one line for `kubectl logs`."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
