"""Speak to crun and conmon: create, start, exec, delete. What a container is made of is bundle's.

conmon stays with each container when the agent goes: it holds the pipes, writes the log in the CRI's format, and puts
the exit code into a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from netplane.agent.runtime.embedded import streams
from netplane.agent.runtime.protocol import RuntimeFailure
from netplane.kernel import process
from netplane.kernel.errors import CommandFailed, KernelError

CREATE_LIMIT = 60.0


@dataclass(frozen=True, slots=True)
class Programs:
    """Where the two programs are, and crun's state folder."""

    crun: str
    conmon: str
    root: Path

    def argv(self, *words: str) -> list[str]:
        """Return a command line of crun."""
        return [self.crun, f"--root={self.root}", "--cgroup-manager=cgroupfs", *words]


@dataclass(frozen=True, slots=True)
class Monitored:
    """The processes of a container that was made: its own first one, and its monitor."""

    pid: int
    monitor: int


async def create(
    programs: Programs,
    container_id: str,
    *,
    bundle: Path,
    exits: Path,
    log: Path,
    terminal: bool,
    stdin: bool,
    keep_stdin: bool,
) -> Monitored:
    """Make a container with its monitor; its program waits for `start`. Raises RuntimeFailure with crun's words."""
    argv = [
        programs.conmon,
        "--api-version=1",
        f"--cid={container_id}",
        f"--cuuid={container_id}",
        f"--name={container_id}",
        f"--runtime={programs.crun}",
        f"--bundle={bundle}",
        f"--container-pidfile={bundle}/pid",
        f"--conmon-pidfile={bundle}/conmon.pid",
        f"--persist-dir={bundle}",
        f"--log-path=k8s-file:{log}",
        f"--exit-dir={exits}",
        "--full-attach",
        "--no-sync-log",
        "--log-level=error",
        f"--runtime-arg=--root={programs.root}",
        "--runtime-arg=--cgroup-manager=cgroupfs",
        *(["--terminal"] if terminal else []),
        *(["--stdin"] if stdin else []),
        *(["--leave-stdin-open"] if keep_stdin else []),
    ]
    answer = await supervised(argv)
    if answer.get("data", -1) <= 0:
        raise RuntimeFailure(_plain(str(answer.get("message") or "conmon gave no reason")))
    return Monitored(int(answer["data"]), int((bundle / "conmon.pid").read_text()))


async def supervised(argv: Sequence[str]) -> dict[str, int]:
    """Start conmon and read its first word, a line of JSON on the pipe that _OCI_SYNCPIPE names."""
    reading, writing = os.pipe()
    try:
        child = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            pass_fds=[writing],
            env={"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "_OCI_SYNCPIPE": str(writing)},
        )
    except OSError as error:
        os.close(reading)
        raise RuntimeFailure(f"start {argv[0]}: {error.strerror}") from error
    finally:
        os.close(writing)
    try:
        async with asyncio.timeout(CREATE_LIMIT):
            line = await _line(reading)
            await child.wait()
    except TimeoutError as error:
        raise RuntimeFailure(f"the container was not made within {CREATE_LIMIT:g} s") from error
    finally:
        os.close(reading)
    try:
        answer: dict[str, int] = json.loads(line)
    except ValueError:
        return {}
    return answer


async def _line(pipe: int) -> bytes:
    # Not connect_read_pipe: uvloop closes its descriptor twice, the second time perhaps somebody else's (uvloop #763).
    os.set_blocking(pipe, False)
    line = b""
    while not line.endswith(b"\n"):
        await streams.readable(pipe)
        with contextlib.suppress(BlockingIOError):
            if not (data := os.read(pipe, 1 << 16)):
                break
            line += data
    return line


async def start(programs: Programs, container_id: str) -> None:
    """Let the container's program run."""
    await _do(programs.argv("start", container_id))


async def update(programs: Programs, container_id: str, resources: Path) -> None:
    """Change the limits of a container to those in a file, an OCI `resources` object."""
    await _do(programs.argv("update", f"--resources={resources}", container_id))


async def run_detached(programs: Programs, container_id: str, bundle: Path) -> int:
    """Make and start a container without a monitor, and return its pid: for a pause process."""
    # Its output goes nowhere: a pipe would be held open by the process for ever.
    argv = programs.argv("run", "--detach", f"--bundle={bundle}", f"--pid-file={bundle}/pid", container_id)
    child = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=(errors := (bundle / "stderr").open("wb")),
        env=process.environment(),
    )
    with errors:
        try:
            code = await child.wait()
        except asyncio.CancelledError:
            # It is done in milliseconds, and only a whole container can be deleted.
            await child.wait()
            raise
    if code:
        raise RuntimeFailure(_plain((bundle / "stderr").read_text(errors="replace")))
    return int((bundle / "pid").read_text())


async def delete_if_present(programs: Programs, container_id: str) -> None:
    """Remove what crun knows of a container, and its cgroup, killing what is left in it."""
    if not (programs.root / container_id).exists():
        return
    with contextlib.suppress(RuntimeFailure):
        await _do(programs.argv("delete", "--force", container_id))


async def _do(argv: Sequence[str]) -> None:
    try:
        await process.run(argv, timeout=CREATE_LIMIT)
    except CommandFailed as error:
        raise RuntimeFailure(_plain(error.detail or str(error))) from error
    except KernelError as error:
        raise RuntimeFailure(str(error)) from error


def _plain(text: str) -> str:
    """Take away crun's timestamps and exit words: users read this in `kubectl describe`."""
    lines = [line.strip() for line in text.replace("exit 1: ", "").splitlines() if line.strip()]
    return "; ".join(lines) or "crun gave no reason"
