"""Keep a lab's daemons running: what systemd is to a machine, in one small process.

The keeper starts each unit in its namespaces, restarts it when it dies and adopts it when the keeper itself was
killed: daemons outlive their keeper, and the next one finds them by pid and start time. `protocol` is how it is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from netplane.lab import launch, protocol
from netplane.lab.units import Unit
from netplane.lib import log
from netplane.lib.cli import UserError
from netplane.lib.clock import SYSTEM, Clock

LOG = log.get("keeper")
FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0  # seconds between restarts of a unit that dies young
YOUNG = 10.0  # seconds: a unit that lived longer restarts at once
START_LIMIT = 10.0  # seconds after which a unit that is not ready yet makes room for others to start
PREDECESSOR_LIMIT = 15.0  # seconds that an earlier keeper has to end its units


@dataclass(slots=True)
class Running:
    """What the keeper holds of one unit."""

    unit: Unit
    state: str = "starting"
    pid: int = 0
    restarts: int = 0
    started: float = 0.0
    status: str = ""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    ready: asyncio.Event = field(default_factory=asyncio.Event)


class Keeper:
    """Runs the units that `wanted` returns. `run` lasts until `shutdown` is asked; a signal ends the keeper alone."""

    def __init__(self, folder: Path, wanted: Callable[[], tuple[Unit, ...]], *, clock: Clock = SYSTEM) -> None:
        self._folder = folder
        self._wanted = wanted
        self._clock = clock
        self._running: dict[str, Running] = {}
        self._held: set[str] = set()
        self._over = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        # All at once, the daemons of fifty nodes would starve each other beyond every time limit of theirs.
        self._starts = asyncio.Semaphore(max(4, 2 * (os.cpu_count() or 1)))

    async def run(self) -> None:
        """Serve the control socket and keep the units, until told to shut down.

        Raises UserError when another keeper of this lab does not end.
        """
        for name in ("log", "units", "notify"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        async with self._only_one(), asyncio.TaskGroup() as group:
            launch.end_strays(self._wanted(), self._folder)
            path = self._folder / "keeper.sock"
            path.unlink(missing_ok=True)
            server = await asyncio.start_unix_server(self._serve(group), path)
            try:
                self._sync(group)
                await self._over.wait()
            finally:
                # From here on nobody can ask for more: the next keeper waits for this one's end.
                path.unlink(missing_ok=True)
                server.close()
            await self._stop(set(self._running))

    @contextlib.asynccontextmanager
    async def _only_one(self) -> AsyncIterator[None]:
        deadline = self._clock.monotonic() + PREDECESSOR_LIMIT
        with (self._folder / "keeper.lock").open("w") as handle:
            while not _try_lock(handle.fileno()):
                if self._clock.monotonic() > deadline:
                    raise UserError(f"another keeper works in {self._folder} and does not end")
                await self._clock.sleep(0.05)
            yield

    def _sync(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        wanted = {unit.name: unit for unit in self._wanted()}
        gone = [self._tasks[name] for name in self._running if name not in wanted]
        for name in set(self._running) - set(wanted):
            self._running[name].stop.set()
        for name, unit in wanted.items():
            if name not in self._running and name not in self._held:
                running = self._running[name] = Running(unit)
                self._tasks[name] = group.create_task(self._keep(running), name=name)
        return gone

    async def _stop(self, names: set[str]) -> None:
        tasks = [self._tasks[name] for name in names if name in self._tasks]
        for name in names & set(self._running):
            self._running[name].stop.set()
        if tasks:
            await asyncio.wait(tasks)

    async def _keep(self, running: Running) -> None:
        delay = 0.0
        try:
            while not running.stop.is_set():
                lived = 0.0
                try:
                    async with self._process(running):
                        await _first(running.stop.wait(), launch.exited(running.pid))
                        lived = self._clock.monotonic() - running.started
                except OSError as error:
                    LOG.error("unit does not start", unit=running.unit.name, error=str(error))
                if running.stop.is_set():
                    break
                delay = 0.0 if lived > YOUNG else min(LONGEST_DELAY, max(FIRST_DELAY, delay * 2))
                running.restarts += 1
                running.state = "waiting"
                LOG.warning("unit died", unit=running.unit.name, lived=round(lived, 1), restart_in=delay)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(running.stop.wait(), delay)
        finally:
            self._running.pop(running.unit.name, None)
            self._tasks.pop(running.unit.name, None)

    @contextlib.asynccontextmanager
    async def _process(self, running: Running) -> AsyncIterator[None]:
        """Adopt or start the unit's process; on the way out end it if it was told to stop."""
        record = self._folder / "units" / f"{launch.file_name(running.unit)}.json"
        with _notify_socket(self._folder / "notify" / launch.file_name(running.unit), running):
            child = None
            adopted = launch.adoptable(record)
            running.started = self._clock.monotonic()
            if adopted:
                running.pid, running.state, running.status = adopted, "ready", "adopted"
            else:
                child = await self._started(running, record)
            try:
                yield
            finally:
                if running.stop.is_set():
                    await launch.end(running.pid)
                    record.unlink(missing_ok=True)
                if child is not None:
                    child.poll()

    async def _started(self, running: Running, record: Path) -> subprocess.Popen[bytes] | None:
        """Start the unit; the place among those that start is free again when it is ready, gone, or late."""
        running.state, running.status, running.pid = "starting", "", 0
        running.ready.clear()
        await self._starts.acquire()
        try:
            if running.stop.is_set():
                return None
            child = launch.start(running.unit, self._folder)
            running.pid, running.started = child.pid, self._clock.monotonic()
            launch.put_into_cgroup(running.unit, child.pid)
            record.write_text(json.dumps({"pid": child.pid, "starttime": launch.start_time(child.pid)}))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(START_LIMIT):
                    await _first(running.stop.wait(), running.ready.wait(), launch.exited(child.pid))
        finally:
            self._starts.release()
        return child

    def _serve(
        self, group: asyncio.TaskGroup
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], asyncio.Future[None] | None]:
        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            group.create_task(self._answer(group, reader, writer))

        return accepted

    async def _answer(
        self, group: asyncio.TaskGroup, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError, ValueError):
            async with asyncio.timeout(60):
                request = json.loads(await reader.readline())
                await self._do(group, request["verb"], set(request["units"]))
                writer.write(protocol.encode(self._report()))
                await writer.drain()
        with contextlib.suppress(OSError):
            writer.close()
            await writer.wait_closed()

    async def _do(self, group: asyncio.TaskGroup, verb: protocol.Verb, names: set[str]) -> None:
        if verb == "sync":
            if gone := self._sync(group):
                await asyncio.wait(gone)
        elif verb == "kill":
            for name in names & set(self._running):
                if pid := self._running[name].pid:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        elif verb == "hold":
            self._held |= names
            await self._stop(names)
        elif verb == "release":
            self._held -= names
            self._sync(group)
        elif verb == "shutdown":
            self._over.set()
            await self._stop(set(self._running))

    def _report(self) -> list[protocol.UnitStatus]:
        now = self._clock.monotonic()
        shown = [
            protocol.UnitStatus(name, r.state, r.pid, r.restarts, round(now - r.started, 1), r.status)  # type: ignore[arg-type]
            for name, r in self._running.items()
        ]
        shown += [protocol.UnitStatus(name, "held", 0, 0, 0.0, "") for name in self._held]
        return sorted(shown, key=lambda status: status.name)


@contextlib.contextmanager
def _notify_socket(path: Path, running: Running):  # type: ignore[no-untyped-def]
    path.unlink(missing_ok=True)
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind(str(path))

        def readable() -> None:
            with contextlib.suppress(BlockingIOError):
                for line in sock.recv(4096).decode(errors="replace").splitlines():
                    name, _, value = line.partition("=")
                    if name == "READY" and value == "1":
                        running.state = "ready"
                        running.ready.set()
                    elif name == "STATUS":
                        running.status = value

        loop.add_reader(sock, readable)
        try:
            yield
        finally:
            loop.remove_reader(sock)
            path.unlink(missing_ok=True)


async def _first(*waits) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(wait) for wait in waits]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
