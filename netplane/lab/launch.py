"""One daemon of a lab as a process: start it in its namespaces, know it again, end it. When to is `keeper`'s."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from netplane.kernel import cgroup
from netplane.lab.host import NETNS
from netplane.lab.units import Unit
from netplane.lib import log

LOG = log.get("keeper")
STOP_LIMIT = 5.0  # seconds from SIGTERM to SIGKILL
LISTEN_FD = 3  # sd_listen_fds(3): inherited sockets start here
LOG_LIMIT = 10 << 20  # bytes: a longer log is put aside when its unit starts


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


def start(unit: Unit, folder: Path) -> subprocess.Popen[bytes]:
    """Start the unit in its namespaces, with its sockets, its output at the end of its log."""
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "NOTIFY_SOCKET": str(folder / "notify" / file_name(unit)),
        **unit.environment,
    }
    descriptors: tuple[int, ...] = ()
    if unit.listen:
        _bind(unit)
        environment["LISTEN_FDS"] = str(len(unit.listen))
        descriptors = (LISTEN_FD,)
    enter = ["nsenter", f"--net={NETNS / unit.netns}", *([f"--mount={unit.mounts}"] if unit.mounts else []), "--"]
    with _log_file(folder / "log" / f"{file_name(unit)}.log") as output:
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


async def exited(pid: int) -> None:
    """Wait until the process is gone or a zombie of ours; 0 is none."""
    if not pid:
        return
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


async def end(pid: int) -> None:
    """End the process: SIGTERM first, SIGKILL when it takes too long; 0 is none."""
    if not pid:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(exited(pid), STOP_LIMIT)
            return


def join_cgroup(path: str) -> None:
    """Move this process into a cgroup of the lab."""
    cgroup.ensure(path)
    cgroup.add(path, os.getpid())


def put_into_cgroup(unit: Unit, pid: int) -> None:
    """Move the process into the unit's cgroup; it runs on outside when that cannot be."""
    try:
        cgroup.ensure(unit.cgroup)
        cgroup.add(unit.cgroup, pid)
    except OSError as error:
        LOG.warning("unit runs outside its cgroup", unit=unit.name, error=str(error))


def end_strays(wanted: Iterable[Unit], folder: Path) -> None:
    """Kill what an earlier keeper started and died before it had written down."""
    known = {adoptable(folder / "units" / f"{file_name(unit)}.json") for unit in wanted}
    lines = {unit.argv for unit in wanted}
    for pid, argv in _command_lines():
        if pid not in known and any(argv[-len(line) :] == line for line in lines):
            LOG.warning("ending a stray process", pid=pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def end_children(*, but: Collection[int] = ()) -> None:
    """Kill what this process itself began, and wait for its end.

    A signal whose handler raises while a program starts makes subprocess forget the child (CPython 3.11: more than a
    third of such signals), which would go on unwatched and make what is removed meanwhile.
    """
    for pid in set(children()).difference(but):
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def children() -> list[int]:
    """Return the pids of what this process began, also of what it has lost sight of."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(path.parent.name))
    return found


def end_keepers(name: str) -> None:
    """Kill the lab's keepers and wait for their end."""
    for pid in keepers(name):
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            try:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                select.select([descriptor], [], [], STOP_LIMIT)
            finally:
                os.close(descriptor)


def keepers(name: str) -> tuple[int, ...]:
    """Return the pids of the lab's keepers, also of one so young that it is in no cgroup yet."""
    line = keeper_line(name)
    return tuple(pid for pid, argv in _command_lines() if argv[-len(line) :] == line)


def keeper_line(name: str) -> tuple[str, ...]:
    """Return the arguments that make netplane the keeper of this lab."""
    return ("lab", "keeper", f"--name={name}")


def _command_lines() -> Iterator[tuple[int, tuple[str, ...]]]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield int(path.parent.name), tuple(path.read_bytes().decode(errors="replace").split("\0")[:-1])


def survivor(folder: Path, unit: Unit) -> int:
    """Return the pid of a unit's process that runs, whether its keeper does or not; 0 when there is none."""
    return adoptable(folder / "units" / f"{file_name(unit)}.json")


def adoptable(record: Path) -> int:
    """Return the pid of a unit that an earlier keeper started and that still runs, or 0."""
    try:
        known = json.loads(record.read_text())
        return int(known["pid"]) if start_time(known["pid"]) == known["starttime"] else 0
    except (OSError, ValueError, KeyError):
        return 0


def start_time(pid: int) -> int:
    """Return when the process started, in clock ticks since boot: pid and this never occur twice (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if fields[0] == "Z":
        raise ProcessLookupError(pid)
    return int(fields[19])


def _log_file(path: Path):  # type: ignore[no-untyped-def]
    if path.exists() and path.stat().st_size > LOG_LIMIT:
        path.replace(path.with_suffix(".log.1"))
    return path.open("ab")


def file_name(unit: Unit) -> str:
    """Return the name of the unit's files: its record, its log, its notify socket."""
    return unit.name.replace("/", ".")
