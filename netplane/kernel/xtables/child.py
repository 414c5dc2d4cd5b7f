"""Keep a process of ours that speaks python-iptables, and ask it. It may die of what it reads; then another starts."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import Any

from netplane.kernel import netns, process
from netplane.kernel.errors import KernelError, from_os


class Child:
    """A module run as a process in a network namespace, one JSON line for each that it is sent. For one thread."""

    def __init__(self, module: str, words: tuple[str, ...], namespace: int | str, does: str) -> None:
        """Take what it is for, as errors say it. Nothing is started before the first question."""
        self._argv = (sys.executable, "-m", f"netplane.kernel.xtables.{module}", *words)
        self._namespace = namespace
        self._does = does
        self._process: subprocess.Popen[str] | None = None

    def ask(self, question: object) -> Any:
        """Return the answer. KernelError when the process died of the question; the next one starts another."""
        try:
            if self._process is None:
                self._process = self._started()
            asking, answers = self._process.stdin, self._process.stdout
            assert asking is not None
            assert answers is not None
            print(json.dumps(question), file=asking, flush=True)
            return json.loads(answers.readline())
        except (OSError, ValueError) as error:
            self.close()
            raise KernelError(0, self._does, "the process that does so ended") from error

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
            raise from_os(error, f"start what shall {self._does}") from error
