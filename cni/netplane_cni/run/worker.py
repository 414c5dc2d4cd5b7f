"""Do blocking work in order on one thread, beside the event loop. What is done is others'.

A ThreadPoolExecutor's future has locks for any number of threads that wait, and tells the loop in three steps: for
work of a tenth of a millisecond that was as much again.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

_Job = Callable[[], None]


class Worker:
    """One thread, which begins with the first work and ends with `close`."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._is_started = False

    def do(self, action: Callable[[], T]) -> asyncio.Future[T]:
        """Begin `action` when all before it are done. Who is cancelled gets away; it is done to its end."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def act() -> None:
            try:
                result = action()
            except BaseException as error:
                _tell(loop, _fail, done, error)
            else:
                _tell(loop, _succeed, done, result)

        if not self._is_started:
            self._is_started = True
            self._thread.start()
        self._jobs.put(act)
        return done

    def close(self) -> None:
        """Wait for what was begun, and end the thread."""
        if self._is_started:
            self._jobs.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


async def outcome(doing: Awaitable[object]) -> BaseException | None:
    """Wait for the end of work, and return how it failed; None when it did not."""
    try:
        await doing
    except BaseException as error:
        return error
    return None


def _tell(loop: asyncio.AbstractEventLoop, settle: Callable[..., None], *facts: object) -> None:
    try:
        loop.call_soon_threadsafe(settle, *facts)
    except RuntimeError:
        return  # The loop was closed: nobody waits any more.


def _succeed(done: asyncio.Future[T], result: T) -> None:
    if not done.done():
        done.set_result(result)


def _fail(done: asyncio.Future[T], error: BaseException) -> None:
    if not done.done():
        done.set_exception(error)
