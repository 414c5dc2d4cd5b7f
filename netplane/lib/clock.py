"""Tell the time and wait for it, as an argument: the system's, or a test's own. Its text forms are in `timestamp`."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

from netplane.lib.timestamp import parse, rfc3339, rfc3339_micro

__all__ = ["SYSTEM", "Clock", "Fake", "System", "parse", "rfc3339", "rfc3339_micro", "wait"]


class Clock(Protocol):
    """Whatever tells the time and lets a task wait."""

    def now(self) -> datetime:
        """Return the moment in UTC, aware."""

    def monotonic(self) -> float:
        """Return seconds that never run backwards; only differences mean something."""

    async def sleep(self, seconds: float, /) -> None:
        """Wait so long; zero or less only lets others run."""


class System:
    """The machine's own clock."""

    def now(self) -> datetime:
        """Return the moment in UTC, aware."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return the seconds since boot."""
        return time.monotonic()

    async def sleep(self, seconds: float, /) -> None:
        """Wait so long."""
        await asyncio.sleep(seconds)


SYSTEM = System()

_SETTLE_TURNS = 20


class Fake:
    """A clock that stands still until a test calls `advance`."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._start = start
        self._elapsed = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        """Return the start plus all that was advanced."""
        return self._start + timedelta(seconds=self._elapsed)

    def monotonic(self) -> float:
        """Return all that was advanced, in seconds."""
        return self._elapsed

    async def sleep(self, seconds: float, /) -> None:
        """Wait until the test has advanced so far."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._elapsed + seconds, next(self._order), future))
        await future

    @property
    def sleeping(self) -> int:
        """How many tasks wait for this clock."""
        return sum(not future.done() for _, _, future in self._sleepers)

    async def advance(self, seconds: float) -> None:
        """Move on, waking each sleeper at its own moment and letting tasks run to their next wait."""
        await self.settle()
        until = self._elapsed + seconds
        while self._sleepers and self._sleepers[0][0] <= until:
            due, _, future = heapq.heappop(self._sleepers)
            if future.done():
                continue
            self._elapsed = max(self._elapsed, due)
            future.set_result(None)
            await self.settle()
        self._elapsed = until

    async def settle(self) -> None:
        """Let the tasks that can run do so; a bounded number of turns of the event loop."""
        for _ in range(_SETTLE_TURNS):
            await asyncio.sleep(0)


async def wait(event: asyncio.Event, seconds: float, clock: Clock) -> bool:
    """Wait for the event, at most so long by this clock. Returns whether the event is set."""
    if event.is_set():
        return True
    if clock is SYSTEM:  # The same without two tasks.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
        return event.is_set()
    async with asyncio.TaskGroup() as group:
        sleeper = group.create_task(clock.sleep(seconds))
        waiter = group.create_task(event.wait())
        await asyncio.wait((sleeper, waiter), return_when=asyncio.FIRST_COMPLETED)
        sleeper.cancel()
        waiter.cancel()
    return event.is_set()
