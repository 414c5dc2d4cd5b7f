"""Make, fill, empty and remove control groups, on cgroup v2, v1 and the hybrid of both (cgroups(7)).

A path here is relative to the root of every hierarchy: `netplane-lab/lab/node-1/system`. What limits apply is the
runtime's choice.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from netplane.kernel.errors import KernelError, from_os

MOUNT = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "memory", "pids")
"""What netplane limits or counts; of a v1 hierarchy only these are used for processes of our own."""


def is_unified() -> bool:
    """Tell whether the machine has cgroup v2 alone, mounted at /sys/fs/cgroup."""
    return (MOUNT / "cgroup.controllers").exists()


def hierarchies() -> tuple[Path, ...]:
    """Return the mount point of every hierarchy: one on v2, one a controller on v1."""
    if is_unified():
        return (MOUNT,)
    return tuple(sorted(p for p in MOUNT.iterdir() if p.is_dir() and not p.is_symlink() and _is_cgroup(p)))


def ensure(path: str) -> None:
    """Make the cgroup in every hierarchy; on v2 delegate the controllers down to it."""
    for root in hierarchies():
        if is_unified():
            _delegate(root, path)
        elif root.name in CONTROLLERS:
            (root / path).mkdir(parents=True, exist_ok=True)


def add(path: str, pid: int) -> None:
    """Move a process into the cgroup, which exists."""
    for root in hierarchies():
        if is_unified() or root.name in CONTROLLERS:
            try:
                (root / path / "cgroup.procs").write_text(str(pid))
            except OSError as error:
                raise from_os(error, f"move process {pid} into cgroup {root / path}") from error


def processes(path: str) -> frozenset[int]:
    """Return the processes in the cgroup and below it; none when it does not exist."""
    found: set[int] = set()
    for root in hierarchies():
        for folder in _below(root / path):
            try:
                found.update(int(pid) for pid in (folder / "cgroup.procs").read_text().split())
            except OSError:
                continue
    return frozenset(found)


def kill(path: str, *, limit: float = 5.0) -> None:
    """Kill every process in the cgroup and below, and wait until they are gone.

    Raises KernelError(EBUSY) when some are left after `limit` seconds.
    """
    deadline = time.monotonic() + limit
    while pids := processes(path):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > deadline:
            raise KernelError(errno.EBUSY, f"kill the processes of cgroup {path}: {sorted(pids)} are left")
        time.sleep(0.01)  # noqa: TID251 - a kernel wait without an event on v1; callers are not on an event loop


def remove_if_present(path: str) -> None:
    """Remove the cgroup and all below it from every hierarchy; its processes are gone already."""
    for root in hierarchies():
        for folder in sorted(_below(root / path), key=lambda p: len(p.parts), reverse=True):
            try:
                folder.rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise from_os(error, f"remove cgroup {folder}") from error


def _is_cgroup(folder: Path) -> bool:
    return (folder / "cgroup.procs").exists()


def _delegate(root: Path, path: str) -> None:
    folder = root
    for part in Path(path).parts:
        available = (folder / "cgroup.controllers").read_text().split()
        wanted = " ".join(f"+{name}" for name in CONTROLLERS if name in available)
        if wanted:
            (folder / "cgroup.subtree_control").write_text(wanted)
        folder = folder / part
        folder.mkdir(exist_ok=True)


def _below(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        return
    yield folder
    for child in folder.iterdir():
        if child.is_dir():
            yield from _below(child)
