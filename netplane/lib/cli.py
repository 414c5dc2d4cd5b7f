"""Run a daemon or a command: signals become cancellation, and failures become one clear line."""

from __future__ import annotations

import asyncio
import signal
import sys
import traceback
from collections.abc import Coroutine, Iterator
from typing import NoReturn

from netplane.lib import log

SUCCESS, FAILURE, USAGE = 0, 1, 2


class UserError(Exception):
    """What the user can mend. Its text says what, why, and what to do; it is shown as `netplane: <text>`."""


def run_async(main: Coroutine[object, object, object], *, expected: tuple[type[Exception], ...] = ()) -> None:
    """Run the coroutine on uvloop until it ends; SIGTERM and SIGINT cancel it, which counts as success.

    Exits 1 with one line on standard error after a `UserError`, an `OSError` or one of `expected`, also when a
    TaskGroup wrapped it. Any other exception exits 1 with one line naming the place; debug logging adds the traceback.
    """
    import uvloop  # 30 ms that commands which never come here need not spend

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_until_signalled(main))
        except Exception as error:
            fail(error, expected=expected)


async def _until_signalled(main: Coroutine[object, object, object]) -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(_cancellable(main))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)


async def _cancellable(main: Coroutine[object, object, object]) -> None:
    await main


def fail(error: Exception, *, expected: tuple[type[Exception], ...] = ()) -> NoReturn:
    """Print why, in one line, and exit 1."""
    known: tuple[type[Exception], ...] = (UserError, OSError, *expected)
    causes = list(_leaves(error))
    named = [cause for cause in causes if isinstance(cause, known)]
    if len(named) < len(causes):
        cause = next(cause for cause in causes if not isinstance(cause, known))
        log.get("cli").debug("internal error", traceback="".join(traceback.format_exception(error)))
        complain(f"internal error: {type(cause).__name__}: {cause} (at {_place(cause)}); see --log-level debug")
    else:
        for text in dict.fromkeys(str(cause) for cause in named):
            complain(text)
    raise SystemExit(FAILURE)


def complain(text: str) -> None:
    """Print one line `netplane: <text>` on standard error."""
    sys.stderr.write("netplane: " + " ".join(text.split()) + "\n")


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for child in error.exceptions:
            yield from _leaves(child)
    else:
        yield error


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown place"
