"""Read from /proc and the file system what the node's status tells."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from netplane.agent.node.objects import Machine, Pressure

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def machine(disk: Path) -> Machine:
    """Return what this machine is; `disk` is a folder on the disk that pods write to."""
    space = os.statvfs(disk)
    return Machine(
        machine_id=_first_line("/etc/machine-id"),
        boot_id=_first_line("/proc/sys/kernel/random/boot_id"),
        kernel=platform.release(),
        os_image=_os_image(),
        architecture=ARCHITECTURES.get(platform.machine(), platform.machine()),
        cpus=len(os.sched_getaffinity(0)),
        memory=_meminfo("MemTotal"),
        disk=space.f_blocks * space.f_frsize,
    )


def pressure(disk: Path) -> Pressure:
    """Return what is left of memory, disk and process numbers."""
    space = os.statvfs(disk)
    most = int(_first_line("/proc/sys/kernel/pid_max") or "32768")
    running = _first_line("/proc/loadavg").split()[3].partition("/")[2]
    return Pressure(
        memory_free=_meminfo("MemAvailable"),
        disk_share=space.f_bavail / max(space.f_blocks, 1),
        pids_share=1 - int(running or 0) / most,
    )


def _meminfo(name: str) -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) << 10
    return 0


def _os_image() -> str:
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except OSError:
        return "Linux"
    named = [line.partition("=")[2].strip('"') for line in lines if line.startswith("PRETTY_NAME=")]
    return named[0] if named else "Linux"


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text().partition("\n")[0]
    except OSError:
        return ""
