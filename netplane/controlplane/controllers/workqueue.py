"""Queue keys to be looked at: each at most once at a time, again later when asked, more and more slowly on failure."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

from netplane.lib import clock as clocks
from netplane.lib import metrics

K = TypeVar("K", bound=Hashable)

FIRST_BACKOFF = 0.005
LONGEST_BACKOFF = 30.0

_DEPTH = metrics.gauge("workqueue_depth", "Keys waiting.", ["name"])
_ADDS = metrics.counter("workqueue_adds_total", "Keys queued.", ["name"])
_RETRIES = metrics.counter("workqueue_retries_total", "Keys queued again after a failure.", ["name"])
_WAITED = metrics.histogram("workqueue_queue_duration_seconds", "How long keys waited.", ["name"])
_WORKED = metrics.histogram("workqueue_work_duration_seconds", "How long keys were worked on.", ["name"])


class Queue(Generic[K]):
    """Keys in order of arrival. A key added while it is worked on comes again when that work is done."""

    def __init__(self, name: str, *, clock: clocks.Clock = clocks.SYSTEM) -> None:
        self.name = name
        self._clock = clock
        self._ready: deque[K] = deque()
        self._waiting: dict[K, float] = {}
        self._working: dict[K, float] = {}
        self._again: set[K] = set()
        self._failures: dict[K, int] = {}
        self._timers: dict[K, tuple[float, asyncio.TimerHandle]] = {}
        self._takers: deque[asyncio.Future[None]] = deque()
        self._depth = _DEPTH.labels(name)
        self._adds = _ADDS.labels(name)
        self._retries = _RETRIES.labels(name)
        self._waited = _WAITED.labels(name)
        self._worked = _WORKED.labels(name)

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is worked on; timers do not count."""
        return not (self._ready or self._working)

    def add(self, key: K) -> None:
        """Queue a key, unless it waits already."""
        if key in self._waiting or key in self._again:
            return
        self._adds.inc()
        if key in self._working:
            self._again.add(key)
            return
        self._put(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Queue a key later; of several such wishes the earliest counts."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        held = self._timers.get(key)
        if held is not None:
            if held[0] <= due:
                return
            held[1].cancel()
        self._timers[key] = (due, loop.call_at(due, self._ring, key))

    def add_limited(self, key: K) -> None:
        """Queue a key after a failure, each time in a row twice as much later."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        self._retries.inc()
        self.add_after(key, min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** min(failures, 20)))

    def forget(self, key: K) -> None:
        """Count no earlier failures of a key any more."""
        self._failures.pop(key, None)

    async def get(self) -> K:
        """Wait for a key, and take it into work until `done`."""
        while not self._ready:
            taker = asyncio.get_running_loop().create_future()
            self._takers.append(taker)
            try:
                await taker
            except asyncio.CancelledError:
                self._wake()
                raise
        key = self._ready.popleft()
        moment = self._clock.monotonic()
        self._waited.observe(moment - self._waiting.pop(key))
        self._working[key] = moment
        self._depth.set(len(self._ready))
        return key

    def done(self, key: K) -> None:
        """End the work on a key."""
        self._worked.observe(self._clock.monotonic() - self._working.pop(key))
        if key in self._again:
            self._again.discard(key)
            self._put(key)

    def close(self) -> None:
        """Stop all timers."""
        for _, timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _ring(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _put(self, key: K) -> None:
        self._waiting[key] = self._clock.monotonic()
        self._ready.append(key)
        self._depth.set(len(self._ready))
        self._wake()

    def _wake(self) -> None:
        while self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(None)
                return
