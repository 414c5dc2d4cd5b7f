"""Read container logs in the CRI's format: what to show of a line, and following a file through its rotation."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from netplane.lib.clock import Clock, parse

BLOCK = 1 << 16
POLL = 0.1


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of a log to show. `tail` and `limit` None mean all; `since` cuts earlier lines off."""

    tail: int | None = None
    limit: int | None = None
    since: datetime | None = None
    timestamps: bool = False
    follow: bool = False
    stream: str = "All"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the file; a partial one goes on in the next of its stream."""

    time: str
    stream: str
    is_partial: bool
    content: bytes


def line(raw: bytes) -> Line | None:
    """Read `<time> stdout|stderr F|P <content>`, None when it is no such line."""
    parts = raw.split(b" ", 3)
    if len(parts) < 3 or parts[1] not in (b"stdout", b"stderr"):
        return None
    content = parts[3] if len(parts) > 3 else b""
    return Line(parts[0].decode("ascii", "replace"), parts[1].decode(), parts[2].startswith(b"P"), content)


class Shown:
    """Turns lines into what the user sees; it remembers whether a line is still open."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._open: dict[str, bool] = {}

    def text(self, one: Line) -> bytes:
        """Return the bytes for a line, none when it is not wanted."""
        wanted = self._wanted
        if wanted.stream != "All" and one.stream != wanted.stream.lower():
            return b""
        if wanted.since and parse(one.time) < wanted.since:
            return b""
        goes_on = self._open.get(one.stream, False)
        self._open[one.stream] = one.is_partial
        # conmon writes UTC as an offset, Go as Z: which is what readers of kubectl's output look for.
        start = b"" if goes_on or not wanted.timestamps else one.time.replace("+00:00", "Z").encode() + b" "
        return start + one.content + (b"" if one.is_partial else b"\n")


def tail_offset(path: Path, count: int) -> int:
    """Return where the last `count` whole lines of a file begin; a line cut into parts counts once."""
    if count <= 0:
        return path.stat().st_size
    with path.open("rb") as file:
        end = file.seek(0, 2)
        position, data = end, b""
        while position > 0:
            step = min(BLOCK, position)
            position -= step
            file.seek(position)
            data = file.read(step) + data
            starts = _starts(data, is_whole=position == 0)
            if len(starts) > count:
                return position + starts[-count]
    return 0


def _starts(data: bytes, *, is_whole: bool) -> list[int]:
    """Return where lines begin in `data`: not those that go on from a partial one."""
    found: list[int] = []
    position, was_partial = 0, False
    if not is_whole:
        position = data.find(b"\n") + 1
        if position == 0:
            return []
    while position < len(data):
        end = data.find(b"\n", position)
        end = len(data) if end < 0 else end
        one = line(data[position:end])
        if one is not None:
            if not was_partial:
                found.append(position)
            was_partial = one.is_partial
        position = end + 1
    return found


async def read(path: Path, wanted: Wanted, *, clock: Clock, is_running: Callable[[], bool]) -> AsyncIterator[bytes]:
    """Yield what is wanted of a log; with `follow`, go on until the container has ended and all is read."""
    shown, left = Shown(wanted), wanted.limit
    async for raw in _lines(path, wanted, clock=clock, is_running=is_running):
        one = line(raw)
        if one is None:
            continue
        text = shown.text(one)
        if left is not None:
            text = text[:left]
            left -= len(text)
        if text:
            yield text
        if left == 0:
            return


async def _lines(path: Path, wanted: Wanted, *, clock: Clock, is_running: Callable[[], bool]) -> AsyncIterator[bytes]:
    while not path.exists():
        if not (wanted.follow and is_running()):
            return
        await clock.sleep(POLL)
    offset = 0 if wanted.tail is None else tail_offset(path, wanted.tail)
    file = path.open("rb")
    try:
        file.seek(offset)
        rest = b""
        while True:
            runs = is_running()
            if data := file.read(BLOCK):
                *lines, rest = (rest + data).split(b"\n")
                for one in lines:
                    yield one
                continue
            if not wanted.follow or not runs:
                break
            if _was_rotated(path, file.fileno()):
                file.close()
                file = path.open("rb")
                continue
            await clock.sleep(POLL)
        if rest:
            yield rest
    finally:
        file.close()


def _was_rotated(path: Path, fd: int) -> bool:
    try:
        return path.stat().st_ino != os.fstat(fd).st_ino
    except FileNotFoundError:
        return False
