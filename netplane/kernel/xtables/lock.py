"""Name who holds the lock that every iptables tool of the legacy variant takes (/run/xtables.lock)."""

from __future__ import annotations

import os
from pathlib import Path

DEFAULT = "/run/xtables.lock"


def path() -> str:
    """Return where the lock lies, as the tools do."""
    return os.environ.get("XTABLES_LOCKFILE") or DEFAULT


def holder(where: str | None = None) -> str:
    """Name the process that holds the lock, as `process 812 (iptables)`.

    "" when nobody does, when it is not known, or when it is a child of this process.
    """
    try:
        found = os.stat(where or path())
        listed = Path("/proc/locks").read_text()
    except OSError:
        return ""
    number = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    for line in listed.splitlines():
        # "1: FLOCK  ADVISORY  WRITE 812 00:16:1234 0 EOF"; one that waits has "->" after its number.
        words = line.split()
        if len(words) > 5 and words[1] == "FLOCK" and words[5] == number:
            return _name(words[4])
    return ""


def _name(process: str) -> str:
    if not process.isdigit() or process == "0":
        return "a process of another PID namespace"
    try:
        # "812 (iptables) S 811 ...": the name may hold spaces and brackets.
        name, _, rest = Path(f"/proc/{process}/stat").read_text().partition(" (")[2].rpartition(") ")
    except OSError:
        return f"process {process}"
    return "" if int(rest.split()[1]) == os.getpid() else f"process {process} ({name})"
