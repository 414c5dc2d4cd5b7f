"""Read what a cgroup uses, on cgroup v1 and v2."""

from __future__ import annotations

from pathlib import Path

from netplane.agent.runtime.protocol import Usage
from netplane.kernel import cgroup


def read(path: str) -> Usage:
    """Return the usage of a cgroup; zeros when it is gone. The working set leaves out what can be dropped at once."""
    name = path.lstrip("/")
    if cgroup.is_unified():
        folder = cgroup.MOUNT / name
        memory = _number(folder / "memory.current")
        inactive = _field(folder / "memory.stat", "inactive_file")
        cpu = _field(folder / "cpu.stat", "usage_usec") * 1000
        pids = _number(folder / "pids.current")
    else:
        folder = cgroup.MOUNT / "memory" / name
        memory = _number(folder / "memory.usage_in_bytes")
        inactive = _field(folder / "memory.stat", "total_inactive_file")
        cpu = _number(cgroup.MOUNT / "cpuacct" / name / "cpuacct.usage")
        pids = _number(cgroup.MOUNT / "pids" / name / "pids.current")
    return Usage(cpu_ns=cpu, memory=memory, working_set=max(memory - inactive, 0), pids=pids)


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _field(path: Path, name: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(value) for key, _, value in (line.partition(" ") for line in lines) if key == name), 0)
