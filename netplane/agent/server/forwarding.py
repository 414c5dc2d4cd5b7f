"""Forward ports over WebSocket: SPDY/3.1 inside it (kubectl 1.31 on), or the older channels of two numbers a port."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from starlette.websockets import WebSocket

from netplane.agent.runtime.protocol import RuntimeFailure
from netplane.kube import spdy
from netplane.kube.spdy import Closed, Data, Opened, Reset

TUNNEL = "SPDY/3.1+portforward.k8s.io"
CHUNK = 32768

Connect = Callable[[int], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


async def serve(socket: WebSocket, connect: Connect) -> None:
    """Forward until the client leaves; `connect` opens a connection to a port of the pod."""
    if TUNNEL not in (socket.scope.get("subprotocols") or []):
        await socket.close(code=1002, reason=f"speak {TUNNEL}")
        return
    await socket.accept(subprotocol=TUNNEL)
    with contextlib.suppress(*_GONE):
        async with asyncio.TaskGroup() as group:
            await _Tunnel(socket, connect, group).run()


class _Ended(Exception):
    """The client has gone: everything that was forwarded for it ends."""


_GONE = (ExceptionGroup, _Ended)


class _Tunnel:
    """One client. Its streams come in pairs of a request: one for data, one on which failures are told."""

    def __init__(self, socket: WebSocket, connect: Connect, group: asyncio.TaskGroup) -> None:
        self._socket = socket
        self._connect = connect
        self._group = group
        self._session = spdy.Session()
        self._errors: dict[str, int] = {}
        self._inputs: dict[int, asyncio.Queue[bytes | None]] = {}

    async def run(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                raise _Ended
            for event in self._session.receive(message.get("bytes") or b""):
                self._take(event)
            await self._flush()

    def _take(self, event: spdy.Event) -> None:
        match event:
            case Opened():
                self._open(event)
            case Data():
                if (queue := self._inputs.get(event.stream)) is not None:
                    queue.put_nowait(event.content)
            case Closed() | Reset():
                if (queue := self._inputs.get(event.stream)) is not None:
                    queue.put_nowait(None)

    def _open(self, event: Opened) -> None:
        self._session.reply(event.stream)
        request = event.headers.get("requestid", "")
        if event.headers.get("streamtype") == "error":
            self._errors[request] = event.stream
            return
        self._inputs[event.stream] = asyncio.Queue()
        port = event.headers.get("port", "")
        self._group.create_task(self._forward(event.stream, int(port) if port.isdigit() else 0, request))

    async def _forward(self, stream: int, port: int, request: str) -> None:
        try:
            reader, writer = await self._connect(port)
        except (RuntimeFailure, OSError) as error:
            self._tell(request, f"an error occurred forwarding {port}: {error}")
            self._session.reset(stream)
        else:
            try:
                async with asyncio.TaskGroup() as group:
                    sending = group.create_task(self._to_pod(stream, writer))
                    await self._to_client(stream, reader)
                    sending.cancel()
            finally:
                writer.close()
        finally:
            self._inputs.pop(stream, None)
        self._tell(request, "")
        await self._flush()

    async def _to_pod(self, stream: int, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while (data := await self._inputs[stream].get()) is not None:
                writer.write(data)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()

    async def _to_client(self, stream: int, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(CHUNK):
                self._session.send(stream, data)
                await self._flush()
        self._session.send(stream, b"", fin=True)
        await self._flush()

    def _tell(self, request: str, failure: str) -> None:
        if (stream := self._errors.pop(request, None)) is not None:
            self._session.send(stream, failure.encode(), fin=True)

    async def _flush(self) -> None:
        if data := self._session.take():
            await self._socket.send_bytes(data)
