"""Start BIRD, the routing daemon, and speak to its control socket. What it is told is the caller's.

It runs on its own: who started it may end, be killed and come back, and routes and sessions stay meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import shutil
from pathlib import Path

from netplane.kernel import process
from netplane.kernel.errors import CommandFailed, KernelError, from_os

PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
ANSWER_TIMEOUT = 5.0
REFUSED = ("8", "9")
"""First digits of the codes of failures: at run time, and of what is asked."""


class Refused(KernelError):
    """BIRD said no; `detail` is what it said."""


def find() -> str:
    """Return where the program is; CommandFailed with ENOENT without it."""
    found = shutil.which("bird", path=PATH)
    if found is None:
        raise CommandFailed(errno.ENOENT, "run bird", "it is not installed: apt-get install bird2")
    return found


async def start(config: Path, control: Path) -> None:
    """Start it, in the caller's namespace, and return once it is in the background.

    It takes over the routes that one before it has left, and asks its peers to keep theirs meanwhile (-R).
    CommandFailed with BIRD's words when it cannot read its configuration.
    """
    program = find()
    await process.run([program, "-p", "-c", str(config)])
    control.unlink(missing_ok=True)
    nothing = asyncio.subprocess.DEVNULL
    # What it prints now it has just said to us; a pipe to us would stay open in the one that goes to the background.
    child = await asyncio.create_subprocess_exec(
        *(program, "-R", "-c", str(config), "-s", str(control)),
        stdin=nothing,
        stdout=nothing,
        stderr=nothing,
        env=process.environment(),
        start_new_session=True,
    )
    async with asyncio.timeout(process.TIMEOUT):
        code = await child.wait()
    if code:
        raise CommandFailed(0, f"run {program}", f"exit {code}", returncode=code)


class Control:
    """A connection to a BIRD that runs. `ended` returns when it does not any more."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, command: str) -> list[str]:
        """Give one command and return the lines of the answer without their codes; Refused when it said no."""
        tried = f"tell BIRD: {command}"
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                self._writer.write(f"{command}\n".encode())
                return await self._answer(tried)
        except TimeoutError as error:
            raise KernelError(errno.ETIMEDOUT, tried) from error
        except OSError as error:
            raise error if isinstance(error, KernelError) else from_os(error, tried) from error

    async def ended(self) -> None:
        """Wait until BIRD is gone."""
        with contextlib.suppress(OSError):
            while await self._reader.read(4096):
                continue

    def close(self) -> None:
        """Let go. BIRD runs on."""
        self._writer.close()

    async def _answer(self, tried: str) -> list[str]:
        lines: list[str] = []
        while True:
            line = (await self._reader.readline()).decode(errors="replace").rstrip("\n")
            if not line:
                raise KernelError(errno.ECONNRESET, tried)
            code = "" if line.startswith(" ") else line[:4]
            lines.append(line[1:] if not code else line[5:])
            if code.startswith(REFUSED):
                raise Refused(0, tried, lines[-1])
            if code and line[4:5] == " ":
                return lines


async def connect(control: Path) -> Control | None:
    """Return a connection to the BIRD behind the socket, None when there is none.

    KernelError with ETIMEDOUT when it does not answer: it runs, and a second one beside it would be the end of both.
    """
    made = None
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT):
            made = Control(*await asyncio.open_unix_connection(str(control)))
            await made._answer("greet BIRD")
    except OSError as error:
        if made is not None:
            made.close()
        if isinstance(error, TimeoutError):
            raise KernelError(errno.ETIMEDOUT, "greet BIRD") from error
        return None
    return made
