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
        self._reading: set[_Question] = set()
        self._answering: set[asyncio.Task[None]] = set()
        self._log = log.get("cni")

    async def run(self) -> None:
        """Serve until cancelled, then let the calls that run come to their end."""
        loop = asyncio.get_running_loop()
        failed: asyncio.Future[None] = loop.create_future()
        # Callbacks and no streams: of what a call costs, tasks and timers that mostly wait for nothing were a fifth.
        loop.add_reader(self._listening.fileno(), self._accept, failed)
        try:
            await failed
        finally:
            loop.remove_reader(self._listening.fileno())
            self._listening.close()
            for question in list(self._reading):
                question.drop()
            await _finished(self._answering)

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

    def _accept(self, failed: asyncio.Future[None]) -> None:
        try:
            connection, _ = self._listening.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if not failed.done():
                failed.set_exception(error)
            return
        question = _Question(connection, self._asked)
        self._reading.add(question)
        question.read()

    def _asked(self, question: _Question, why: str) -> None:
        """Answer what was read to its end; or say why it was not."""
        self._reading.discard(question)
        if why:
            self._log.warning("a call was not answered", why=why)
            question.close()
            return
        task = asyncio.get_running_loop().create_task(self._answer(question))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, question: _Question) -> None:
        try:
            environment, stdin = _split(question.data)
            code, answer = await self._call(environment, stdin, question.opened[0] if question.opened else None)
            await _send(question.connection, bytes([code]) + answer)
        except (OSError, TimeoutError) as error:
            self._log.warning("a call was not answered", why=str(error) or type(error).__name__)
        finally:
            question.close()


class _Question:
    """A connection until its shim has said everything. `asked` is told once, with what went wrong or nothing."""

    def __init__(self, connection: socket.socket, asked: Callable[[_Question, str], None]) -> None:
        self.connection = connection
        self.data = b""
        self.opened: list[int] = []
        self._asked = asked
        self._limit: asyncio.TimerHandle | None = None

    def read(self) -> None:
        """Take what is there, and wait for the rest if there is more to come; mostly it came with the connection."""
        try:
            while self._take():
                if len(self.data) > LARGEST:
                    self._end(f"a request of more than {LARGEST} bytes")
                    return
        except BlockingIOError:
            self._wait()
        except OSError as error:
            self._end(str(error))
        else:
            self._end("")

    def drop(self) -> None:
        """Wait no longer."""
        self._end("the daemon ends")

    def close(self) -> None:
        """Let go of the connection and of the files that came by it."""
        self.connection.close()
        for fd in self.opened:
            os.close(fd)

    def _take(self) -> bool:
        space = socket.CMSG_SPACE(FD_SIZE)
        part, control, _, _ = self.connection.recvmsg(1 << 16, space, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
        for level, kind, payload in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self.opened.extend(array.array("i", payload[: len(payload) // FD_SIZE * FD_SIZE]))
        self.data += part
        return bool(part)

    def _wait(self) -> None:
        if self._limit is None:
            loop = asyncio.get_running_loop()
            self._limit = loop.call_later(READ_LIMIT, self._end, f"no whole request within {READ_LIMIT:g} s")
            loop.add_reader(self.connection.fileno(), self.read)

    def _end(self, why: str) -> None:
        if self._limit is not None:
            self._limit.cancel()
            asyncio.get_running_loop().remove_reader(self.connection.fileno())
        self._asked(self, why)


async def _send(connection: socket.socket, answer: bytes) -> None:
    # Most answers fit into the socket's buffer: nothing to wait for.
    sent = connection.send(answer, socket.MSG_DONTWAIT)
    if sent < len(answer):
        connection.setblocking(False)
        async with asyncio.timeout(READ_LIMIT):
            await asyncio.get_running_loop().sock_sendall(connection, answer[sent:])


async def _finished(tasks: set[asyncio.Task[None]]) -> None:
    """Wait for the work although we are asked to stop: half an ADD helps nobody."""
    stopping: asyncio.CancelledError | None = None
    while tasks:
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError as error:
            stopping = error
    if stopping is not None:
        raise stopping


def _split(data: bytes) -> tuple[dict[str, str], bytes]:
    head, _, stdin = data.partition(b"\0\0") if not data.startswith(b"\0") else (b"", b"", data[1:])
    pairs = (entry.decode(errors="replace").partition("=") for entry in head.split(b"\0") if entry)
    return {key: value for key, _, value in pairs}, stdin
