"""The loop acts at once, gathers bursts, backs off after failures and looks again now and then."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator

import pytest

from netplane.lib import clock
from netplane.reconcile.loop import Cause, Loop, Pace
from netplane.reconcile.report import Outcome

PACE = Pace(gap=0.01, resync=60, first_backoff=0.1, longest_backoff=10)


class Work:
    """A loop whose acts are written down, and fail while `broken`."""

    def __init__(self, pace: Pace = PACE) -> None:
        self.clock = clock.Fake()
        self.acts: list[tuple[float, Cause]] = []
        self.broken = ""
        self.operations = 1
        self.loop = Loop(self.act, name="test", clock=self.clock, pace=pace, rng=random.Random(1))

    async def act(self, cause: Cause) -> Outcome:
        self.acts.append((round(self.clock.monotonic(), 3), cause))
        if self.broken:
            raise OSError(self.broken)
        return Outcome(self.loop.report.wanted, self.operations, is_verified=cause != "change")

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.loop.run())
            await self.clock.settle()
            yield
            task.cancel()

    def causes(self) -> list[Cause]:
        return [cause for _, cause in self.acts]


async def test_nothing_happens_before_the_first_wish() -> None:
    work = Work()
    async with work.running():
        await work.clock.advance(1000)
        assert work.acts == []


async def test_a_change_is_acted_on_at_once() -> None:
    work = Work()
    async with work.running():
        work.loop.wake("1")
        await work.clock.advance(5)
        work.loop.wake("2")
        await work.clock.settle()
        assert work.acts == [(0, "start"), (5, "change")]
        assert work.loop.report.committed == "2"
        assert work.loop.report.verified == "1"


async def test_a_burst_becomes_few_acts_and_ends_with_the_newest() -> None:
    work = Work()
    async with work.running():
        for number in range(100):
            work.loop.wake(str(number))
            await work.clock.advance(0.0005)
        await work.clock.advance(0.1)
        assert len(work.acts) <= 7
        assert work.loop.report.committed == "99"


async def test_failures_are_retried_ever_more_slowly() -> None:
    work = Work()
    work.broken = "EBUSY"
    async with work.running():
        work.loop.wake("1")
        await work.clock.advance(60)
        moments = [moment for moment, _ in work.acts]
        waits = [after - before for before, after in itertools.pairwise(moments)]
        assert 0.07 < waits[0] <= 0.1
        assert all(wait <= 10 for wait in waits)
        assert 8 < len(moments) < 18
        assert set(work.causes()[1:]) == {"retry"}
        assert (work.loop.report.failure, work.loop.report.is_settled) == ("EBUSY", False)


async def test_success_after_failure_settles_and_forgets_the_backoff() -> None:
    work = Work()
    work.broken = "EBUSY"
    async with work.running():
        work.loop.wake("1")
        await work.clock.advance(30)
        work.broken = ""
        await work.clock.advance(10)
        assert work.loop.report.is_settled
        assert work.loop.report.failures == 0


async def test_news_shorten_a_long_backoff_but_not_the_shortest() -> None:
    work = Work()
    work.broken = "EINVAL"
    async with work.running():
        work.loop.wake("1")
        await work.clock.advance(60)
        before = len(work.acts)
        last = work.acts[-1][0]
        await work.clock.advance(max(0.0, last + 0.2 - work.clock.monotonic()))
        work.broken = ""
        work.loop.wake("2")
        await work.clock.settle()
        assert work.causes()[before:] == ["retry"]
        assert work.loop.report.committed == "2"


async def test_the_world_is_looked_at_again_and_drift_is_counted() -> None:
    work = Work()
    async with work.running():
        work.loop.wake("1")
        await work.clock.settle()
        work.operations = 0
        await work.clock.advance(60)
        assert work.loop.report.repairs == 0
        work.operations = 3
        await work.clock.advance(60)
        assert work.causes() == ["start", "resync", "resync"]
        assert work.loop.report.repairs == 1


async def test_changes_do_not_put_off_the_resync() -> None:
    work = Work()
    async with work.running():
        for number in range(70):
            work.loop.wake(str(number))
            await work.clock.advance(1)
        assert "resync" in work.causes()


async def test_asking_to_verify_looks_at_once() -> None:
    work = Work()
    async with work.running():
        work.loop.wake("1")
        await work.clock.advance(1)
        work.loop.verify()
        await work.clock.settle()
        assert work.acts == [(0, "start"), (1, "resync")]


async def test_waiting_for_a_revision_ends_when_it_is_committed() -> None:
    work = Work()
    async with work.running():
        work.loop.wake("7")
        async with asyncio.timeout(30):
            await work.loop.settled("7")
        assert work.loop.report.committed == "7"


async def test_a_fault_of_the_program_ends_the_loop() -> None:
    async def act(_: Cause) -> Outcome:
        raise TypeError("a fault")

    loop = Loop(act, name="test", clock=clock.Fake())
    loop.wake("1")
    with pytest.raises(TypeError):
        await loop.run()
