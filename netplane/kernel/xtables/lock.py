"""Name who holds the lock that every iptables tool of the legacy variant takes (/run/xtables.lock), and hear of it."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

DEFAULT = "/run/xtables.lock"
_IN_CLOSE = 0x18
"""IN_CLOSE_WRITE | IN_CLOSE_NOWRITE (linux/inotify.h)."""
_EVENTS = 1 << 16
_libc = ctypes.CDLL(None, use_errno=True)


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


class Ear:
    """Hears that somebody let go of the lock, and costs nothing while nobody does (inotify).

    The kernel itself tells of no change in x_tables. Deaf where there is no lock yet, or no inotify to be had.
    """

    def __init__(self) -> None:
        """Listen to the lock as far as it is there."""
        self._events: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._find()

    def heard(self) -> bool:
        """Tell whether the lock was let go of since the last call."""
        if self._events < 0:
            return False
        self._find()
        is_heard = False
        try:
            while os.read(self._events, _EVENTS):
                is_heard = True
        except BlockingIOError:
            return is_heard
        return is_heard

    def close(self) -> None:
        """Stop listening."""
        if self._events >= 0:
            os.close(self._events)
            self._events = -1

    def _find(self) -> None:
        """Listen to the file that is there now: it may have been made since, or exchanged. Again is no harm."""
        if self._events >= 0:
            _libc.inotify_add_watch(self._events, path().encode(), _IN_CLOSE)


def _name(process: str) -> str:
    if not process.isdigit() or process == "0":
        return "a process of another PID namespace"
    try:
        # "812 (iptables) S 811 ...": the name may hold spaces and brackets.
        name, _, rest = Path(f"/proc/{process}/stat").read_text().partition(" (")[2].rpartition(") ")
    except OSError:
        return f"process {process}"
    return "" if int(rest.split()[1]) == os.getpid() else f"process {process} ({name})"
