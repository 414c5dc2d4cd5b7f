"""Speak to a runtime's streaming server: SPDY/3.1 behind an HTTP upgrade, with the streams of `v4.channel.k8s.io`.

SPDY and not WebSocket: only there can the input of a process be ended before `v5`, which containerd lacks.
Source: k8s.io/kubelet/pkg/cri/streaming/remotecommand.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.parse
from collections.abc import Mapping
from typing import Any

from netplane.agent.runtime.protocol import Pipe, RuntimeFailure, Sink
from netplane.kube import spdy
from netplane.kube.spdy import Closed, Data, Reset

PROTOCOL = "v4.channel.k8s.io"
LIMIT = 30.0
CHUNK = 32768


class Remote:
    """A process in a container that a runtime streams to us: an exec'd one, or the container's own."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        stdin: bool,
        tty: bool,
        is_attached: bool,
    ) -> None:
        self._reader, self._writer = reader, writer
        self._session = spdy.Session()
        self._is_attached = is_attached
        self._errors = bytearray()
        self._names: dict[int, Pipe] = {}
        self._error = self._open("error")
        self._stdin = self._open("stdin") if stdin else 0
        self._names[self._open("stdout")] = "stdout"
        if not tty:
            self._names[self._open("stderr")] = "stderr"
        self._resize = self._open("resize") if tty else 0

    def _open(self, kind: str) -> int:
        return self._session.open({"streamtype": kind})

    async def begin(self) -> None:
        """Open the streams on the wire."""
        await self._flush()

    async def forward(self, sink: Sink) -> None:
        """Hand on what it prints until the runtime says how it ended, or leaves."""
        left = {*self._names, self._error}
        while left and (data := await self._read()):
            for event in self._session.receive(data):
                match event:
                    case Data() if event.stream == self._error:
                        self._errors += event.content
                    case Data() if event.stream in self._names:
                        await sink(self._names[event.stream], event.content)
                    case Closed() | Reset():
                        left.discard(event.stream)
            await self._flush()

    async def write(self, data: bytes) -> None:
        """Give it input."""
        if self._stdin:
            for start in range(0, len(data), CHUNK):
                self._session.send(self._stdin, data[start : start + CHUNK])
                await self._flush()

    async def close_input(self) -> None:
        """End its input."""
        if self._stdin:
            self._session.send(self._stdin, b"", fin=True)
            await self._flush()
            self._stdin = 0

    def resize(self, width: int, height: int) -> None:
        """Set its terminal's size."""
        if self._resize:
            self._session.send(self._resize, json.dumps({"Width": width, "Height": height}).encode() + b"\n")
            if not self._writer.is_closing():
                self._writer.write(self._session.take())

    async def wait(self) -> int | None:
        """Return its exit code, once `forward` has returned; None for the container's own process."""
        if self._is_attached:
            return None
        return exit_code(bytes(self._errors))

    async def close(self) -> None:
        """Leave: the runtime closes the process's input."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _read(self) -> bytes:
        try:
            return await self._reader.read(CHUNK)
        except ConnectionError:
            return b""

    async def _flush(self) -> None:
        data = self._session.take()
        if data and not self._writer.is_closing():
            with contextlib.suppress(ConnectionError):
                self._writer.write(data)
                await self._writer.drain()


def exit_code(error: bytes) -> int:
    """Read the error stream: a Status, whose cause ExitCode says how the process ended. Raises RuntimeFailure."""
    try:
        status: Mapping[str, Any] = json.loads(error) if error else {}
    except ValueError as failure:
        raise RuntimeFailure(error.decode(errors="replace")) from failure
    if status.get("status") == "Success":
        return 0
    for cause in (status.get("details") or {}).get("causes") or ():
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    raise RuntimeFailure(str(status.get("message") or "the runtime left without saying how the process ended"))


async def connect(url: str, *, stdin: bool, tty: bool, is_attached: bool) -> Remote:
    """Open what the runtime's answer to Exec or Attach points to. Raises RuntimeFailure."""
    parts = urllib.parse.urlsplit(url)
    try:
        async with asyncio.timeout(LIMIT):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
            await _upgrade(reader, writer, parts)
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        raise RuntimeFailure(f"the runtime's streaming server does not answer at {parts.netloc}: {error}") from error
    remote = Remote(reader, writer, stdin=stdin, tty=tty, is_attached=is_attached)
    await remote.begin()
    return remote


async def _upgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, parts: urllib.parse.SplitResult) -> None:
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    lines = (
        f"POST {path} HTTP/1.1",
        f"Host: {parts.netloc}",
        "Connection: Upgrade",
        "Upgrade: SPDY/3.1",
        f"X-Stream-Protocol-Version: {PROTOCOL}",
        "Content-Length: 0",
    )
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode(errors="replace")
    if head.split(" ", 2)[1:2] != ["101"]:
        body = await reader.read(4096)
        writer.close()
        raise RuntimeFailure(body.decode(errors="replace").strip() or head.splitlines()[0])
