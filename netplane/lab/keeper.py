"""Keep a lab's daemons running: what systemd is to a machine, in one small process.

The keeper starts each unit in its namespaces, restarts it when it dies and adopts it when the keeper itself was
killed: daemons outlive their keeper, and the next one finds them by pid and start time. `protocol` is how it is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from netplane.kernel import cgroup
from netplane.lab import protocol
from netplane.lab.host import NETNS
from netplane.lab.units import Unit
from netplane.lib import log
from netplane.lib.clock import SYSTEM, Clock

LOG = log.get("keeper")
FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0  # seconds between restarts of a unit that dies young
YOUNG = 10.0  # seconds: a unit that lived longer restarts at once
STOP_LIMIT = 5.0  # seconds from SIGTERM to SIGKILL
LISTEN_FD = 3  # sd_listen_fds(3): inherited sockets start here
LOG_LIMIT = 10 << 20  # bytes: a longer log is put aside when its unit starts


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

    async def run(self) -> None:
        """Serve the control socket and keep the units, until told to shut down."""
        for name in ("log", "units", "notify"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        path = self._folder / "keeper.sock"
        path.unlink(missing_ok=True)
        async with asyncio.TaskGroup() as group:
            server = await asyncio.start_unix_server(self._serve(group), path)
            try:
                self._sync(group)
                await self._over.wait()
            finally:
                server.close()
            await self._stop(set(self._running))

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
                        await _first(running.stop.wait(), _exited(running.pid))
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
        record = self._folder / "units" / f"{_file_name(running.unit)}.json"
        with _notify_socket(self._folder / "notify" / _file_name(running.unit), running):
            child = None
            adopted = _adoptable(record)
            running.started = self._clock.monotonic()
            if adopted:
                running.pid, running.state, running.status = adopted, "ready", "adopted"
            else:
                running.state, running.status = "starting", ""
                child = _start(running.unit, self._folder)
                running.pid = child.pid
                _put_into_cgroup(running.unit, child.pid)
                record.write_text(json.dumps({"pid": child.pid, "starttime": _start_time(child.pid)}))
            try:
                yield
            finally:
                if running.stop.is_set():
                    await _end(running.pid)
                    record.unlink(missing_ok=True)
                if child is not None:
                    child.poll()

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
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._running[name].pid, signal.SIGKILL)
        elif verb == "hold":
            self._held |= names
            await self._stop(names)
        elif verb == "release":
            self._held -= names
            self._sync(group)
        elif verb == "shutdown":
            await self._stop(set(self._running))
            self._over.set()

    def _report(self) -> list[protocol.UnitStatus]:
        now = self._clock.monotonic()
        shown = [
            protocol.UnitStatus(name, r.state, r.pid, r.restarts, round(now - r.started, 1), r.status)  # type: ignore[arg-type]
            for name, r in self._running.items()
        ]
        shown += [protocol.UnitStatus(name, "held", 0, 0, 0.0, "") for name in self._held]
        return sorted(shown, key=lambda status: status.name)


def reserve_listen_fd(unit: Unit) -> None:
    """Put the unit's inherited socket at file descriptor 3 of this process, before anything else takes the number.

    While an older process of the unit still holds the address, /dev/null keeps the place.
    Raises OSError(EADDRINUSE) only from `_bind` at the unit's start.
    """
    placeholder = os.open(os.devnull, os.O_RDONLY)
    if placeholder != LISTEN_FD:
        os.dup2(placeholder, LISTEN_FD, inheritable=False)
        os.close(placeholder)
    with contextlib.suppress(OSError):
        _bind(unit)


def _bind(unit: Unit) -> None:
    (address,) = unit.listen
    with contextlib.suppress(OSError):
        probe = socket.socket(fileno=os.dup(LISTEN_FD))
        with probe:
            if probe.getsockname() == address:
                return
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(1024)
        os.dup2(sock.fileno(), LISTEN_FD, inheritable=False)


def _start(unit: Unit, folder: Path) -> subprocess.Popen[bytes]:
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "NOTIFY_SOCKET": str(folder / "notify" / _file_name(unit)),
        **unit.environment,
    }
    descriptors: tuple[int, ...] = ()
    if unit.listen:
        _bind(unit)
        environment["LISTEN_FDS"] = str(len(unit.listen))
        descriptors = (LISTEN_FD,)
    enter = ["nsenter", f"--net={NETNS / unit.netns}", *([f"--mount={unit.mounts}"] if unit.mounts else []), "--"]
    with _log_file(folder / "log" / f"{_file_name(unit)}.log") as output:
        return subprocess.Popen(
            [*enter, *unit.argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd="/",
            pass_fds=descriptors,
            start_new_session=True,
        )


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
                    elif name == "STATUS":
                        running.status = value

        loop.add_reader(sock, readable)
        try:
            yield
        finally:
            loop.remove_reader(sock)
            path.unlink(missing_ok=True)


async def _exited(pid: int) -> None:
    """Wait until the process is gone or a zombie of ours."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, over.set)
    try:
        await over.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def _end(pid: int) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(_exited(pid), STOP_LIMIT)
            return


async def _first(*waits) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(wait) for wait in waits]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()


def _put_into_cgroup(unit: Unit, pid: int) -> None:
    try:
        cgroup.ensure(unit.cgroup)
        cgroup.add(unit.cgroup, pid)
    except OSError as error:
        LOG.warning("unit runs outside its cgroup", unit=unit.name, error=str(error))


def survivor(folder: Path, unit: Unit) -> int:
    """Return the pid of a unit's process that runs, whether its keeper does or not; 0 when there is none."""
    return _adoptable(folder / "units" / f"{_file_name(unit)}.json")


def _adoptable(record: Path) -> int:
    """Return the pid of a unit that an earlier keeper started and that still runs, or 0."""
    try:
        known = json.loads(record.read_text())
        return int(known["pid"]) if _start_time(known["pid"]) == known["starttime"] else 0
    except (OSError, ValueError, KeyError):
        return 0


def _start_time(pid: int) -> int:
    """Return when the process started, in clock ticks since boot: pid and this never occur twice (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if fields[0] == "Z":
        raise ProcessLookupError(pid)
    return int(fields[19])


def _log_file(path: Path):  # type: ignore[no-untyped-def]
    if path.exists() and path.stat().st_size > LOG_LIMIT:
        path.replace(path.with_suffix(".log.1"))
    return path.open("ab")


def _file_name(unit: Unit) -> str:
    return unit.name.replace("/", ".")
