"""Attach to processes: those that exec starts, and the container's own through conmon's socket."""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import struct
import termios
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from netplane.agent.runtime.embedded import processes
from netplane.agent.runtime.protocol import Pipe, RuntimeFailure, Sink
from netplane.kernel import process

CHUNK = 32768


class Piped:
    """A process with its output on two pipes."""

    def __init__(self, child: asyncio.subprocess.Process, spec: Path) -> None:
        self._child = child
        self._spec = spec

    async def forward(self, sink: Sink) -> None:
        """Hand on what it prints, as it comes, until both pipes are closed."""
        async with asyncio.TaskGroup() as group:
            group.create_task(_pump("stdout", self._child.stdout, sink))
            group.create_task(_pump("stderr", self._child.stderr, sink))

    async def write(self, data: bytes) -> None:
        """Give it input."""
        if self._child.stdin is not None:
            with contextlib.suppress(ConnectionError):
                self._child.stdin.write(data)
                await self._child.stdin.drain()

    async def close_input(self) -> None:
        """End its input."""
        if self._child.stdin is not None:
            self._child.stdin.close()

    def resize(self, width: int, height: int) -> None:
        """It has no terminal."""

    async def wait(self) -> int | None:
        """Return its exit code."""
        return await self._child.wait()

    async def close(self) -> None:
        """Kill it if it still runs."""
        await _end(self._child, self._spec)


class Terminal:
    """A process on a pseudo-terminal, whose master end is `fd`."""

    def __init__(self, child: asyncio.subprocess.Process, fd: int, spec: Path) -> None:
        self._child = child
        self._fd = fd
        self._spec = spec
        os.set_blocking(fd, False)

    async def forward(self, sink: Sink) -> None:
        """Hand on what appears on the terminal, until its last process has gone."""
        while True:
            await readable(self._fd)
            try:
                data = os.read(self._fd, CHUNK)
            except BlockingIOError:
                continue
            except OSError:  # EIO: the last process has closed its end
                return
            if not data:
                return
            await sink("stdout", data)

    async def write(self, data: bytes) -> None:
        """Type on it."""
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                await _writable(self._fd)
            except OSError:
                return

    async def close_input(self) -> None:
        """Type end-of-file, which a shell understands."""
        await self.write(b"\x04")

    def resize(self, width: int, height: int) -> None:
        """Set its size; the kernel tells the programs (SIGWINCH)."""
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    async def wait(self) -> int | None:
        """Return its exit code."""
        return await self._child.wait()

    async def close(self) -> None:
        """Hang up, and kill it if that is not enough."""
        self._spec.unlink(missing_ok=True)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._child.kill()
            await self._child.wait()


async def _end(child: asyncio.subprocess.Process, spec: Path) -> None:
    """Kill `crun exec` and, as that alone would leave it running, what it started; then its files go."""
    written = spec.with_suffix(".pid")
    if child.returncode is None:
        with contextlib.suppress(OSError, ValueError):
            processes.send(processes.identify(int(written.read_text())), signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()
    spec.unlink(missing_ok=True)
    written.unlink(missing_ok=True)


class Attached:
    """The container's own process, through conmon: each packet from it begins with the number of the pipe."""

    def __init__(self, sock: socket.socket, control: Path, *, tty: bool) -> None:
        self._socket = sock
        self._control = control
        self._tty = tty

    async def forward(self, sink: Sink) -> None:
        """Hand on what it prints from now on."""
        loop = asyncio.get_running_loop()
        while packet := await loop.sock_recv(self._socket, CHUNK + 1):
            await sink("stderr" if packet[0] == 3 else "stdout", packet[1:])

    async def write(self, data: bytes) -> None:
        """Give it input."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            for start in range(0, len(data), 8192):  # conmon reads so much of a packet and drops the rest
                await loop.sock_sendall(self._socket, data[start : start + 8192])

    async def close_input(self) -> None:
        """End its input."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def resize(self, width: int, height: int) -> None:
        """Set its terminal's size, by conmon's control pipe: `1 HEIGHT WIDTH`."""
        if self._tty:
            command(self._control, f"1 {height} {width}\n")

    async def wait(self) -> int | None:
        """Its exit code is in the pod's status."""
        return None

    async def close(self) -> None:
        """Leave it running."""
        self._socket.close()


def command(control: Path, line: str) -> None:
    """Write a line to conmon's control pipe; nobody reads it when the container is gone."""
    with contextlib.suppress(OSError):
        fd = os.open(control, os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(fd, line.encode())
        finally:
            os.close(fd)


async def spawn(argv: Sequence[str], spec: Path, *, stdin: bool) -> Piped:
    """Start `crun exec`, with pipes; the file `spec` goes with it."""
    child = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=process.environment(),
    )
    return Piped(child, spec)


async def spawn_on_terminal(argv: Sequence[str], folder: Path, spec: Path, limit: float = 10.0) -> Terminal:
    """Start `crun exec --tty`, which sends the terminal's master end over the socket that --console-socket names."""
    path = folder / f"tty-{os.urandom(4).hex()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        with _short(path) as short:
            listener.bind(short)
        try:
            listener.listen(1)
            listener.setblocking(False)
            child = await asyncio.create_subprocess_exec(
                *(word.replace("{console}", str(path)) for word in argv),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                env=process.environment(),
            )
            return Terminal(child, await _receive_terminal(listener, child, limit), spec)
        finally:
            path.unlink(missing_ok=True)


async def connect(bundle: Path, *, tty: bool) -> Attached:
    """Connect to conmon's attach socket. Raises RuntimeFailure when the container is gone."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.setblocking(False)
    try:
        with _short(bundle / "attach") as short:
            await asyncio.get_running_loop().sock_connect(sock, short)
    except OSError as error:
        sock.close()
        raise RuntimeFailure(f"cannot attach to the container: {error.strerror}") from error
    return Attached(sock, bundle / "ctl", tty=tty)


async def _pump(name: Pipe, reader: asyncio.StreamReader | None, sink: Sink) -> None:
    while reader is not None and (data := await reader.read(CHUNK)):
        await sink(name, data)


async def _receive_terminal(listener: socket.socket, child: asyncio.subprocess.Process, limit: float) -> int:
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        accepting = group.create_task(loop.sock_accept(listener))
        ending = group.create_task(child.wait())
        await asyncio.wait((accepting, ending), timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        accepting.cancel() if not accepting.done() else None
        ending.cancel()
    if accepting.cancelled():
        said = await child.stderr.read() if child.stderr and child.returncode is not None else b""
        raise RuntimeFailure(said.decode(errors="replace").strip() or "no terminal came from crun")
    connection, _ = accepting.result()
    with connection:
        connection.setblocking(True)
        fds = array.array("i")
        _, control, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(fds.itemsize))
        for level, kind, data in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(data[: fds.itemsize])
    if not fds:
        raise RuntimeFailure("no terminal came from crun")
    return fds[0]


async def readable(fd: int) -> None:
    """Wait until there is something to read, or the other end is closed."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, _once(future))
    try:
        await future
    finally:
        loop.remove_reader(fd)


async def _writable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    loop.add_writer(fd, _once(future))
    try:
        await future
    finally:
        loop.remove_writer(fd)


def _once(future: asyncio.Future[None]) -> Callable[[], None]:
    return lambda: None if future.done() else future.set_result(None)


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    # A socket's path has at most 107 bytes (unix(7)); through the open folder it always fits.
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
