"""Ask the process that looks into tables of the legacy variant (walker): starts it, and starts another when it dies."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import subprocess
import sys
from typing import NamedTuple

from netplane.kernel import netns, process
from netplane.kernel.errors import KernelError, from_os


class Jump(NamedTuple):
    """Where one of the kernel's own chains leads to one of ours, and what has gone there."""

    tool: str
    table: str
    chain: str
    position: int
    target: str
    packets: int
    bytes: int


def is_possible() -> bool:
    """Tell whether python-iptables is here (the extra `iptables`)."""
    return importlib.util.find_spec("iptc") is not None


class Walker:
    """A process in a network namespace. For one thread at a time; a look takes as long as the tables are large."""

    def __init__(self, prefix: str, namespace: int | str = netns.OWN) -> None:
        """Take what our chains' names begin with. Nothing is started before the first look."""
        self._argv = (sys.executable, "-m", "netplane.kernel.xtables.walker", prefix)
        self._namespace = namespace
        self._process: subprocess.Popen[str] | None = None

    def look(self) -> tuple[Jump, ...]:
        """Return what is there now. KernelError when the process died of it; the next look starts another."""
        try:
            if self._process is None:
                self._process = self._started()
            asking, answers = self._process.stdin, self._process.stdout
            assert asking is not None
            assert answers is not None
            print("look", file=asking, flush=True)
            found = json.loads(answers.readline())
        except (OSError, ValueError) as error:
            self.close()
            raise KernelError(0, "look into iptables", "the process that does so ended") from error
        return tuple(Jump(**one) for one in found)

    def close(self) -> None:
        """End the process."""
        ending, self._process = self._process, None
        # What was asked and never read makes its end a broken pipe.
        with contextlib.suppress(OSError):
            if ending is not None:
                ending.kill()
                ending.wait()
                ending.communicate()

    def _started(self) -> subprocess.Popen[str]:
        def act() -> subprocess.Popen[str]:
            return subprocess.Popen(
                self._argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=process.environment(),
            )

        try:
            if netns.identity(netns.OWN) == netns.identity(self._namespace):
                return act()
            return netns.run_in(self._namespace, act)
        except OSError as error:
            raise from_os(error, "start what looks into iptables") from error
