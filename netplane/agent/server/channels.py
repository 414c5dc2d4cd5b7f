"""Speak the channel protocol of exec and attach over WebSocket: v4.channel.k8s.io and v5.channel.k8s.io (KEP-4006)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

import orjson
from starlette.websockets import WebSocket, WebSocketDisconnect

from netplane.agent.runtime.protocol import Pipe, Stream
from netplane.kube.types import Object

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255


class _Left(Exception):
    """The client has gone."""


def chosen(offered: list[str]) -> str | None:
    """Return the newest protocol that both sides speak."""
    return next((protocol for protocol in PROTOCOLS if protocol in offered), None)


def truth(query: Mapping[str, str], *names: str) -> bool:
    """Whether one of the query's parameters says yes: kubectl writes `true`, the kubelet's own API `1`."""
    return any(query.get(name, "").lower() in ("true", "1") for name in names)


def outcome(code: int | None) -> Object:
    """Return the Status that ends a session: success, or the exit code as a cause."""
    if not code:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


def internal_error(why: str) -> Object:
    """Return the Status of a session that could not be."""
    return {"metadata": {}, "status": "Failure", "message": why, "reason": "InternalError", "code": 500}


async def join(socket: WebSocket, stream: Stream) -> None:
    """Carry bytes between the client and the process until one of them ends. The socket is accepted already."""
    try:
        # An empty frame tells the client that the streams stand.
        await socket.send_bytes(bytes([STDOUT]))
        async with asyncio.TaskGroup() as group:
            receiving = group.create_task(_receive(socket, stream))
            await stream.forward(lambda pipe, data: _send(socket, pipe, data))
            code = await stream.wait()
            receiving.cancel()
        await finish(socket, outcome(code))
    except BaseExceptionGroup as failures:
        if failures.split(_Left)[1] is not None:
            raise
    finally:
        await stream.close()


async def finish(socket: WebSocket, status: Object) -> None:
    """Send the Status and close."""
    with contextlib.suppress(RuntimeError, WebSocketDisconnect, OSError):
        await socket.send_bytes(bytes([ERROR]) + orjson.dumps(status))
        await socket.close()


async def _send(socket: WebSocket, pipe: Pipe, data: bytes) -> None:
    try:
        await socket.send_bytes(bytes([STDOUT if pipe == "stdout" else STDERR]) + data)
    except (RuntimeError, WebSocketDisconnect, OSError) as error:
        raise _Left from error


async def _receive(socket: WebSocket, stream: Stream) -> None:
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            raise _Left
        data = message.get("bytes") or (message.get("text") or "").encode()
        if not data:
            continue
        if data[0] == STDIN:
            await stream.write(data[1:])
        elif data[0] == RESIZE:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                size = orjson.loads(data[1:])
                stream.resize(int(size["Width"]), int(size["Height"]))
        elif data[0] == CLOSE and data[1:2] == bytes([STDIN]):
            await stream.close_input()
