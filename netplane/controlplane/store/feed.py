"""Wake those who wait for news of one resource type: at once as long as that costs little, else gathered, in slices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Protocol

_GATHER = 0.01
_GATHER_EACH = 0.00004
_SHARE = 0.1
_SAVED = 0.002
_SLICE = 50


class Follower(Protocol):
    """Who is told of every ring until it is taken off; it must not raise."""

    def tell(self) -> None:
        """Look what is new."""


class Feed:
    """A doorbell with many listeners: some wait for one ring, others follow.

    A ring is heard at once while rounds have taken less than a tenth of the time; 2 ms of it can be saved up, which is
    some forty rounds of one listener. Then rings are gathered until the tenth is kept again, but no longer than 10 ms
    after the last round's end. A round begins no sooner than 40 µs for each listener after the last one's beginning, as
    what a thousand of them are told takes half of that time to send, and told more often they would be told later and
    later. Long rows are told 50 at a time so that other requests get their turn.
    """

    __slots__ = ("_armed", "_began", "_ended", "_followers", "_loop", "_rang", "_saved", "_telling", "_waiters")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiters: list[asyncio.Future[None]] = []
        self._followers: dict[Follower, None] = {}
        self._armed = False
        self._telling = False
        self._rang = False
        self._began = self._ended = time.monotonic() - 1.0  # the loop's own clock counts milliseconds
        self._saved = _SAVED

    def ring(self) -> None:
        """Say that something changed."""
        if self._telling:
            self._rang = True
            return
        listeners = len(self._waiters) + len(self._followers)
        if self._armed or not listeners:
            return
        self._armed = True
        wait = self._due(listeners) - time.monotonic()
        if wait <= 0:
            self._loop.call_soon(self._flush)
        else:
            self._loop.call_later(wait, self._flush)

    def _due(self, listeners: int) -> float:
        """Return when the next round may begin."""
        return max(self._ended + max(-self._saved / _SHARE, 0.0), self._began + _GATHER_EACH * listeners)

    def wait(self) -> asyncio.Future[None]:
        """Return a future that the next ring completes. One per listener, never shared: cancelling ends it."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append(future)
        if len(self._waiters) > 64 and len(self._waiters) % 64 == 0:
            self._waiters = [waiter for waiter in self._waiters if not waiter.done()]
        return future

    def follow(self, follower: Follower) -> None:
        """Tell a follower of every ring from now on."""
        self._followers[follower] = None

    def unfollow(self, follower: Follower) -> None:
        """Tell a follower no more."""
        self._followers.pop(follower, None)

    def _flush(self) -> None:
        self._armed, self._telling, self._rang = False, True, False
        self._began = time.monotonic()
        self._saved = min(self._saved + _SHARE * (self._began - self._ended), _SAVED)
        waiters, self._waiters = self._waiters, []
        self._wake([*waiters, *self._followers], 0)

    def _wake(self, listeners: Sequence[asyncio.Future[None] | Follower], start: int) -> None:
        for each in listeners[start : start + _SLICE]:
            if not isinstance(each, asyncio.Future):
                if each in self._followers:
                    each.tell()
            elif not each.done():
                each.set_result(None)
        if start + _SLICE < len(listeners):
            self._loop.call_soon(self._wake, listeners, start + _SLICE)
            return
        self._telling = False
        self._ended = time.monotonic()
        self._saved = max(self._saved - (self._ended - self._began), -_SHARE * _GATHER)
        if self._rang:
            self.ring()
