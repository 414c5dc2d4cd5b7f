"""Start CNI daemons quickly: a process that has loaded all of `netplane cni daemon` already, and forks one on request.

Run as `python -m tests.support.cni_nursery`. Each line of its input is a JSON object: with `place` (the network
namespace), `log` (the file for what is said), `words` (after `netplane`) and `module` (whose `main` is called with the
words instead, if any) it answers with a new process id, with `ended` (a process id) with that one's exit code, negative
for a signal's.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from netplane.kernel import netns

ROOT = Path(__file__).resolve().parents[2]


class Nursery:
    """The test's end of it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def start(self, place: str, log: Path, words: Sequence[str], *, module: str = "") -> Forked:
        """Start `netplane` with these words, or what is called `main` in a module."""
        return Forked(self, self.ask({"place": place, "log": str(log), "words": list(words), "module": module}))

    def ask(self, question: Mapping[str, object]) -> int:
        """Ask, and return the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(question), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())


class Forked:
    """A process that the nursery has started, to be used like a `subprocess.Popen`."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._nursery = nursery
        self._opened = os.pidfd_open(pid)

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it is known to have ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it without a word."""
        self.send_signal(signal.SIGKILL)

    def poll(self) -> int | None:
        """Return its exit code; None while it runs."""
        return self._ended(0)

    def wait(self, timeout: float = 10.0) -> int:
        """Wait until it has ended, and return its exit code."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("netplane", timeout)
        return code

    def _ended(self, seconds: float) -> int | None:
        if self.returncode is None and select.select([self._opened], [], [], seconds)[0]:
            self.returncode = self._nursery.ask({"ended": self.pid})
            os.close(self._opened)
        return self.returncode


@contextlib.contextmanager
def nursery(environment: Mapping[str, str] | None = None) -> Iterator[Nursery]:
    """Run one, with these changes to the environment."""
    argv = (sys.executable, "-m", "tests.support.cni_nursery")
    with subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
    ) as made:
        assert made.stdout is not None
        assert made.stdout.readline() == "ready\n"
        yield Nursery(made)


def main() -> None:
    """Serve until the input ends."""
    import uvloop  # noqa: F401  # what the daemon loads when it runs

    from netplane import cli
    from netplane.kube import client  # noqa: F401
    from netplane_cni.run import daemon  # noqa: F401

    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if "ended" in asked:
            print(os.waitstatus_to_exitcode(os.waitpid(asked["ended"], 0)[1]), flush=True)
            continue
        pid = os.fork()
        if not pid:
            said = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            for number in (1, 2):
                os.dup2(said, number)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            sys.argv = ["netplane", *asked["words"]]
            with netns.inside(asked["place"]):
                if asked["module"]:
                    sys.exit(importlib.import_module(asked["module"]).main(*asked["words"]))
                sys.exit(cli.main())
        print(pid, flush=True)


if __name__ == "__main__":
    main()
