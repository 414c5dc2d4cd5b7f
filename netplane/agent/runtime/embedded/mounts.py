"""Mount and unmount (mount(2)); the standard library cannot."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence
from pathlib import Path

from netplane.kernel.errors import KernelError

NOSUID = 2
NODEV = 4
NOEXEC = 8
BIND = 4096
DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: Path, kind: str, *, flags: int = 0, options: str = "") -> None:
    """Mount a file system. Raises KernelError."""
    data = os.fsencode(options) if options else None
    if _libc.mount(os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), data):
        raise KernelError(
            ctypes.get_errno(), f"mount {kind} on {target} ({options})" if options else f"mount {kind} on {target}"
        )


def tmpfs(target: Path, *, size: int = 0, mode: int = 0o1777) -> None:
    """Mount memory at `target`, which is made if missing. `size` is in bytes, 0 for the kernel's default."""
    target.mkdir(parents=True, exist_ok=True)
    options = f"mode={mode:o}" + (f",size={size}" if size else "")
    mount("tmpfs", target, "tmpfs", flags=NOSUID | NODEV, options=options)


def overlay(target: Path, layers: Sequence[Path], upper: Path, work: Path) -> None:
    """Mount the layers, the lowest first, with what is written going to `upper`.

    It is volatile: unmounting would otherwise write the whole disk's dirty pages, and an upper folder is never
    mounted twice (kernel documentation, overlayfs, "Volatile mount").
    """
    lower = ":".join(_escape(str(layer)) for layer in reversed(layers))
    options = f"lowerdir={lower},upperdir={_escape(str(upper))},workdir={_escape(str(work))}"
    if len(options) >= os.sysconf("SC_PAGESIZE"):
        raise KernelError(errno.E2BIG, f"mount overlay on {target}", f"the paths of {len(layers)} layers are too long")
    try:
        mount("overlay", target, "overlay", options=options + ",volatile")
    except KernelError as error:
        if error.errno != errno.EINVAL:
            raise
        mount("overlay", target, "overlay", options=options)


def unmount_if_present(target: Path) -> None:
    """Unmount all that is mounted at `target`, even if it is in use."""
    while _libc.umount2(os.fsencode(target), DETACH) == 0:
        continue
    number = ctypes.get_errno()
    if number not in (errno.EINVAL, errno.ENOENT):
        raise KernelError(number, f"unmount {target}")


def points_below(folder: Path) -> list[Path]:
    """Return the mount points below `folder`, the innermost first."""
    prefix = f"{folder}/"
    with open("/proc/self/mountinfo") as file:
        points = [line.split()[4].replace("\\040", " ") for line in file]
    return [Path(p) for p in sorted((p for p in points if p.startswith(prefix)), key=len, reverse=True)]


def _escape(path: str) -> str:
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")
