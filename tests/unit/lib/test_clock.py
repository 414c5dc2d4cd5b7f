"""Time is an argument; a fake clock moves only when told."""

import asyncio
from datetime import UTC, datetime, timedelta, timezone

import pytest

from netplane.lib import clock


def test_rfc3339_has_whole_seconds_in_utc() -> None:
    moment = datetime(2026, 1, 2, 4, 4, 5, 999999, tzinfo=timezone(timedelta(hours=1)))
    assert clock.rfc3339(moment) == "2026-01-02T03:04:05Z"
    assert clock.rfc3339_micro(moment) == "2026-01-02T03:04:05.999999Z"


@pytest.mark.parametrize("text", ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.123456Z", "2026-01-02T05:04:05+02:00"])
def test_parse_understands_what_the_api_writes(text: str) -> None:
    assert clock.parse(text).replace(microsecond=0) == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_parse_refuses_a_time_without_zone() -> None:
    with pytest.raises(ValueError, match="has no zone"):
        clock.parse("2026-01-02T03:04:05")


async def test_sleepers_wake_in_the_order_of_their_moments() -> None:
    fake, woken = clock.Fake(), list[tuple[str, float]]()

    async def sleeper(name: str, seconds: float) -> None:
        await fake.sleep(seconds)
        woken.append((name, fake.monotonic()))

    async with asyncio.TaskGroup() as group:
        for name, seconds in (("late", 3.0), ("early", 1.0), ("middle", 2.0)):
            group.create_task(sleeper(name, seconds))
        await fake.advance(2.5)
        assert woken == [("early", 1.0), ("middle", 2.0)]
        await fake.advance(1)
    assert woken[-1] == ("late", 3.0)
    assert fake.now() == datetime(2026, 1, 1, 0, 0, 3, 500000, tzinfo=UTC)


async def test_wait_ends_with_the_event_or_with_the_time() -> None:
    fake, event = clock.Fake(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        too_late = group.create_task(clock.wait(event, 1, fake))
        await fake.advance(2)
        assert await too_late is False
        in_time = group.create_task(clock.wait(event, 1, fake))
        await fake.settle()
        event.set()
        assert await in_time is True
    assert fake.sleeping == 0


async def test_a_cancelled_wait_leaves_no_sleeper() -> None:
    fake = clock.Fake()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await clock.wait(asyncio.Event(), 1, fake)
    assert fake.sleeping == 0
