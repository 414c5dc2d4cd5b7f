"""Run a program to its end, without a shell and never for ever. Long-lived children are the runtime's and the lab's."""

from __future__ import annotations

import asyncio
import errno
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from netplane.kernel.errors import CommandFailed

TIMEOUT = 10.0
OURS_ALONE = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
"""What the service manager addressed to us. crun, for one, waits for its container to answer on NOTIFY_SOCKET."""


@dataclass(frozen=True, slots=True)
class Completed:
    """What a program that ended with 0 printed."""

    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Its standard output as text; bytes that are not UTF-8 are replaced."""
        return self.stdout.decode(errors="replace")


def environment() -> dict[str, str]:
    """Return our environment as a child may have it: without what the service manager addressed to us alone."""
    return {name: value for name, value in os.environ.items() if name not in OURS_ALONE}


async def run(
    argv: Sequence[str],
    *,
    stdin: bytes | str | None = None,
    timeout: float = TIMEOUT,  # noqa: ASYNC109 - the program has a limit also where the caller has none
    env: Mapping[str, str] | None = None,
) -> Completed:
    """Run a program and return what it printed.

    Raises CommandFailed when it is not there, ends with another code than 0, or is not done after `timeout` seconds;
    it is killed then, as it is when the caller is cancelled.
    """
    try:
        child = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment() if env is None else env,
        )
    except OSError as error:
        raise _not_started(argv, error) from error
    try:
        async with asyncio.timeout(timeout):
            out, err = await child.communicate(_bytes(stdin))
    except TimeoutError as error:
        raise _not_done(argv, timeout) from error
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    return _judge(argv, child.returncode or 0, out, err)


def run_sync(
    argv: Sequence[str],
    *,
    stdin: bytes | str | None = None,
    timeout: float = TIMEOUT,
    env: Mapping[str, str] | None = None,
) -> Completed:
    """Do as `run` does, for callers that are not on an event loop."""
    feed = _bytes(stdin) or b""
    try:
        done = subprocess.run(
            argv, input=feed, capture_output=True, timeout=timeout, env=env or environment(), check=False
        )
    except subprocess.TimeoutExpired as error:
        raise _not_done(argv, timeout) from error
    except OSError as error:
        raise _not_started(argv, error) from error
    return _judge(argv, done.returncode, done.stdout, done.stderr)


def _judge(argv: Sequence[str], code: int, out: bytes, err: bytes) -> Completed:
    if code:
        said = " ".join((err.strip() or out.strip()).decode(errors="replace").split())
        how = f"killed by signal {-code}" if code < 0 else f"exit {code}"
        raise CommandFailed(0, _tried(argv), f"{how}: {said}" if said else how, returncode=code)
    return Completed(out, err)


def _not_started(argv: Sequence[str], error: OSError) -> CommandFailed:
    return CommandFailed(error.errno or errno.EIO, _tried(argv))


def _not_done(argv: Sequence[str], timeout: float) -> CommandFailed:
    return CommandFailed(errno.ETIMEDOUT, _tried(argv), f"not done after {timeout:g} s")


def _tried(argv: Sequence[str]) -> str:
    return " ".join(f"run {shlex.join(argv)}".split())


def _bytes(stdin: bytes | str | None) -> bytes | None:
    return stdin.encode() if isinstance(stdin, str) else stdin
