"""Take calls from shims on a unix socket. What a call says is spec's, what is done for it verbs'."""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

from netplane.lib import log
from netplane.lib.cli import UserError

Answer = tuple[int, bytes]
Call = Callable[[dict[str, str], bytes, int | None], Awaitable[Answer]]
"""(CNI_* variables, standard input, the container's namespace as an open file) to (exit code, standard output)."""

LARGEST = 8 << 20
READ_LIMIT = 30.0
FD_SIZE = array.array("i").itemsize


class Server:
    """The socket at `path`. A request that has begun is finished even when its shim is gone, and at shutdown."""

    def __init__(self, path: str, call: Call) -> None:
        self._path = path
        self._call = call
        self._log = log.get("cni")

    async def run(self) -> None:
        """Serve until cancelled, then let the calls that run come to their end."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    connection, _ = await loop.sock_accept(self._listening)
                    group.create_task(self._serve(connection))
        finally:
            self._listening.close()

    def listen(self) -> None:
        """Take the socket's path; from now on shims wait for an answer instead of being refused."""
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        # Bound beside and renamed: there is no moment in which a shim finds a dead socket where ours will be.
        beside = f"{self._path}.{os.getpid()}"
        try:
            listening.bind(beside)
            os.chmod(beside, 0o600)
            listening.listen(1024)
            os.rename(beside, self._path)
        except OSError as error:
            listening.close()
            raise UserError(f"cannot listen on {self._path}: {error.strerror}; choose another --run-dir") from error
        self._listening = listening

    async def _serve(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        opened: list[int] = []
        try:
            async with asyncio.timeout(READ_LIMIT):
                environment, stdin = await _receive(connection, opened)
            work = asyncio.get_running_loop().create_task(  # Awaited below, shielded.
                self._answered(environment, stdin, opened[0] if opened else None)
            )
            code, answer = await _finished(work)
            async with asyncio.timeout(READ_LIMIT):
                await asyncio.get_running_loop().sock_sendall(connection, bytes([code]) + answer)
        except (OSError, ValueError, TimeoutError) as error:
            self._log.warning("a call was not answered", why=str(error) or type(error).__name__)
        finally:
            connection.close()
            for fd in opened:
                os.close(fd)

    async def _answered(self, environment: dict[str, str], stdin: bytes, namespace: int | None) -> Answer:
        return await self._call(environment, stdin, namespace)


async def _finished(work: asyncio.Task[Answer]) -> Answer:
    """Wait for the work although we are asked to stop: half an ADD helps nobody."""
    while True:
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            if work.done():
                raise


async def _receive(connection: socket.socket, opened: list[int]) -> tuple[dict[str, str], bytes]:
    data = b""
    while True:
        await _readable(connection)
        part, control, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(FD_SIZE))
        for level, kind, payload in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                opened.extend(array.array("i", payload[: len(payload) // FD_SIZE * FD_SIZE]))
        if not part:
            break
        data += part
        if len(data) > LARGEST:
            raise ValueError(f"a request of more than {LARGEST} bytes")
    head, _, stdin = data.partition(b"\0\0") if not data.startswith(b"\0") else (b"", b"", data[1:])
    pairs = (entry.decode(errors="replace").partition("=") for entry in head.split(b"\0") if entry)
    return {key: value for key, _, value in pairs}, stdin


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(connection.fileno(), wake)
    try:
        await ready
    finally:
        loop.remove_reader(connection.fileno())
