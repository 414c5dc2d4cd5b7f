"""Decide when to act: at once when something changed, together when much did, later when it failed, and now and then.

What an act does is the owner's: a function, or a `target.Reconciler`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Awaitable, Callable
from typing import Literal, Never

from netplane.lib import clock as clocks
from netplane.lib import log
from netplane.reconcile.report import Outcome, Report

Cause = Literal["start", "change", "retry", "resync"]
"""Why to act. After anything but "change" the world may differ from what was last committed: look at it."""

Act = Callable[[Cause], Awaitable[Outcome]]


@dataclasses.dataclass(frozen=True, slots=True)
class Pace:
    """The waits of a loop, in seconds."""

    gap: float = 0.01
    """Between the starts of two acts, so that a burst becomes few acts; the first of a burst does not wait."""
    resync: float = 60.0
    """Between two looks at the whole world; each is shortened by up to a tenth, so that nodes do not march in step."""
    first_backoff: float = 0.1
    longest_backoff: float = 30.0


class Loop:
    """Calls `act` for ever. Nothing happens before the first `wake`."""

    def __init__(
        self,
        act: Act,
        *,
        name: str,
        clock: clocks.Clock = clocks.SYSTEM,
        pace: Pace = Pace(),
        expected: tuple[type[Exception], ...] = (OSError,),
        rng: random.Random | None = None,
    ) -> None:
        """Only `expected` failures are retried; any other ends `run`, for it is a fault of the program."""
        self.report = Report(name)
        self._act = act
        self._clock = clock
        self._pace = pace
        self._expected = expected
        self._rng = rng or random.Random()
        self._log = log.get("reconcile").bind(target=name)
        self._changed = asyncio.Event()
        self._progress = asyncio.Event()
        self._look_again = False

    def wake(self, revision: str) -> None:
        """Say that something newer is wanted."""
        self.report = self.report._replace(wanted=revision)
        self._changed.set()

    def verify(self) -> None:
        """Ask for a look at the whole world, because it may have been changed behind our back."""
        self._look_again = True
        self._changed.set()

    async def settled(self, revision: str) -> None:
        """Wait until this revision, or one wanted later, is committed."""
        while not (self.report.committed == revision or self.report.is_settled):
            await self._progress.wait()

    async def run(self) -> Never:
        """Act for ever: see the module's first line."""
        await self._changed.wait()
        cause: Cause = "start"
        next_resync = 0.0
        while True:
            self._changed.clear()
            self._look_again = False
            began = self._clock.monotonic()
            await self._once(cause)
            if cause != "change" and not self.report.failure:
                next_resync = began + self._pace.resync * self._rng.uniform(0.9, 1.0)
            cause = await self._next(began, next_resync)

    async def _next(self, began: float, next_resync: float) -> Cause:
        if self.report.failure:
            await self._back_off()
            return "retry"
        left = next_resync - self._clock.monotonic()
        if left <= 0 or not await clocks.wait(self._changed, left, self._clock):
            return "resync"
        rest = began + self._pace.gap - self._clock.monotonic()
        if rest > 0:
            await self._clock.sleep(rest)
        return "resync" if self._look_again else "change"

    async def _back_off(self) -> None:
        """Wait longer after each failure; something new to do shortens the wait, for it may be the cure."""
        first, most = self._pace.first_backoff, self._pace.longest_backoff
        whole = min(first * 2 ** min(self.report.failures - 1, 20), most) * self._rng.uniform(0.8, 1.0)
        await self._clock.sleep(min(first, whole))
        if whole > first:
            await clocks.wait(self._changed, whole - first, self._clock)

    async def _once(self, cause: Cause) -> None:
        began = self._clock.monotonic()
        try:
            outcome = await self._act(cause)
        except self._expected as error:
            self._failed(error, self._clock.monotonic() - began)
        else:
            self._succeeded(cause, outcome, self._clock.monotonic() - began)
        progress, self._progress = self._progress, asyncio.Event()
        progress.set()

    def _failed(self, error: Exception, seconds: float) -> None:
        report = self.report
        if str(error) != report.failure:
            self._log.warning("act failed, will retry", reason=str(error), wanted=report.wanted)
        self.report = report._replace(
            failure=str(error) or type(error).__name__, failures=report.failures + 1, acts=report.acts + 1,
            seconds=seconds,
        )  # fmt: skip

    def _succeeded(self, cause: Cause, outcome: Outcome, seconds: float) -> None:
        report = self.report
        is_repair = cause == "resync" and outcome.operations > 0 and outcome.revision == report.committed
        if report.failure:
            self._log.info("act succeeded again", revision=outcome.revision, failures=report.failures)
        if is_repair:
            self._log.warning("world had drifted, repaired", operations=outcome.operations)
        self.report = report._replace(
            committed=outcome.revision, verified=outcome.revision if outcome.is_verified else report.verified,
            failure="", failures=0, acts=report.acts + 1, repairs=report.repairs + is_repair, seconds=seconds,
        )  # fmt: skip
