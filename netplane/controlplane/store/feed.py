"""Wake those who wait for news of one resource type: at once, then at most every few milliseconds, in slices."""

from __future__ import annotations

import asyncio

_GATHER = 0.01
_GATHER_EACH = 0.00004
_SLICE = 50


class Feed:
    """A doorbell with many listeners.

    The first ring after a pause is heard at once. The next ones are gathered for 10 ms, or 40 µs for each listener
    where they are many: what a thousand of them are told takes most of that time to send, and told more often they
    would be told later and later. Long queues are woken 50 at a time so that other requests get their turn.
    """

    __slots__ = ("_armed", "_last", "_loop", "_waiters")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiters: list[asyncio.Future[None]] = []
        self._armed = False
        self._last = -1.0

    def ring(self) -> None:
        """Say that something changed."""
        if self._armed or not self._waiters:
            return
        self._armed = True
        wait = self._last + max(_GATHER, _GATHER_EACH * len(self._waiters)) - self._loop.time()
        if wait <= 0:
            self._loop.call_soon(self._flush)
        else:
            self._loop.call_later(wait, self._flush)

    def wait(self) -> asyncio.Future[None]:
        """Return a future that the next ring completes. One per listener, never shared: cancelling ends it."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append(future)
        if len(self._waiters) > 64 and len(self._waiters) % 64 == 0:
            self._waiters = [waiter for waiter in self._waiters if not waiter.done()]
        return future

    def _flush(self) -> None:
        self._armed = False
        self._last = self._loop.time()
        waiters, self._waiters = self._waiters, []
        self._wake(waiters, 0)

    def _wake(self, waiters: list[asyncio.Future[None]], start: int) -> None:
        for waiter in waiters[start : start + _SLICE]:
            if not waiter.done():
                waiter.set_result(None)
        if start + _SLICE < len(waiters):
            self._loop.call_soon(self._wake, waiters, start + _SLICE)
