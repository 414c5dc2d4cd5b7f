"""Keep clients (`ingress_load`) going at a door while something happens to it, and tell which engines are there."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support import ingress


@contextlib.contextmanager
def loaded(host: str, *, rate: int, clients: int, sockets: int, downloads: int) -> Iterator[list[str]]:
    """Run the clients for as long as the block lasts; what they say in the end is in the list."""
    numbers = [str(each) for each in (rate, clients, sockets, downloads)]
    command = [sys.executable, "-m", "tests.support.ingress_load", ingress.DOOR, host, *numbers]
    said: list[str] = []
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as going:
        assert going.stdout is not None
        try:
            assert going.stdout.readline() == "going\n"
            yield said
            said.append(going.communicate(timeout=60)[0])
        finally:
            going.kill()


def engines(door: ingress.Door) -> set[int]:
    """Return the process ids of this door's HAProxy."""
    found = set()
    for pid in (int(each) for each in os.listdir("/proc") if each.isdigit()):
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            if line.split(b"\0")[0].endswith(b"haproxy") and str(door.folder).encode() in line:
                found.add(pid)
    return found
