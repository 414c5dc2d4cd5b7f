"""Recognise, watch and signal processes that are not our children."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

from netplane.agent.runtime.embedded.records import Process


def identify(pid: int) -> Process:
    """Return the process with its start time, in clock ticks since boot (proc(5), field 22); pid 0 when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return Process()
    fields = stat.rpartition(")")[2].split()
    return Process() if fields[0] in "ZX" else Process(pid, int(fields[19]))


def is_alive(process: Process) -> bool:
    """Tell whether it still runs: a zombie does not."""
    return process.pid > 0 and identify(process.pid) == process


def send(process: Process, number: int) -> bool:
    """Send a signal; tell whether there was somebody to get it."""
    fd = _open(process)
    if fd is None:
        return False
    try:
        signal.pidfd_send_signal(fd, signal.Signals(number) if number < signal.SIGRTMIN else number)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


def on_exit(process: Process, act: Callable[[], None]) -> Callable[[], None]:
    """Call `act` on the event loop, once, when the process has ended; the answer stops the watching."""
    loop = asyncio.get_running_loop()
    fd = _open(process)
    if fd is None:
        return loop.call_soon(act).cancel

    def stop() -> None:
        nonlocal fd
        if fd is not None:
            loop.remove_reader(fd)
            os.close(fd)
            fd = None

    def fire() -> None:
        stop()
        act()

    loop.add_reader(fd, fire)
    return stop


async def gone(process: Process, limit: float) -> bool:
    """Wait until it has ended, at most `limit` seconds; tell whether it has."""
    done = asyncio.Event()
    stop = on_exit(process, done.set)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(limit, 0)):
                await done.wait()
    finally:
        stop()
    return done.is_set()


def _open(process: Process) -> int | None:
    if process.pid <= 0:
        return None
    try:
        fd = os.pidfd_open(process.pid)
    except OSError:
        return None
    # Looking after opening: had the pid been reused before, the start time would differ.
    if identify(process.pid) != process:
        os.close(fd)
        return None
    return fd
