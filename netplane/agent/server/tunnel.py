"""Carry one connection into a pod over a WebSocket, bytes as they are: how the API server, which need have no route
to pods, proxies to them and calls the webhooks that run in them."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.websockets import WebSocket, WebSocketState

PATH = "/tunnel/{namespace}/{pod}/{port:int}"
_CHUNK = 65536


async def join(socket: WebSocket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes both ways until one side ends."""
    await socket.accept()
    try:
        parts = (_inward(socket, writer), _outward(socket, reader))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(part) for part in parts]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
    finally:
        writer.close()
        with contextlib.suppress(OSError, RuntimeError):
            if socket.application_state is WebSocketState.CONNECTED:
                await socket.close()


async def _inward(socket: WebSocket, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            writer.write(message.get("bytes") or b"")
            await writer.drain()


async def _outward(socket: WebSocket, reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        while data := await reader.read(_CHUNK):
            await socket.send_bytes(data)
