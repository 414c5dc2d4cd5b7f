"""The queue of keys."""

from __future__ import annotations

import asyncio

import pytest

from netplane.controlplane.controllers.workqueue import Queue


async def test_a_key_waits_once_however_often_it_is_added() -> None:
    queue = Queue[str]("once")
    for _ in range(3):
        queue.add("a")
    queue.add("b")
    assert [await queue.get(), await queue.get(), len(queue)] == ["a", "b", 0]


async def test_a_key_added_during_its_work_comes_again_after_it() -> None:
    queue = Queue[str]("again")
    queue.add("a")
    key = await queue.get()
    queue.add("a")
    assert len(queue) == 0
    queue.done(key)
    assert await queue.get() == "a"


async def test_a_waiting_taker_gets_the_next_key() -> None:
    queue = Queue[str]("taker")
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        taken = group.create_task(queue.get())
        await asyncio.sleep(0)
        queue.add("a")
    assert taken.result() == "a"


async def test_a_cancelled_taker_loses_no_key() -> None:
    queue = Queue[str]("cancelled")
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        first, second = group.create_task(queue.get()), group.create_task(queue.get())
        await asyncio.sleep(0)
        queue.add("a")
        first.cancel()
    assert second.result() == "a"


async def test_of_two_timers_the_earlier_rings() -> None:
    queue = Queue[str]("timers")
    queue.add_after("a", 30)
    queue.add_after("a", 0.001)
    queue.add_after("a", 20)
    async with asyncio.timeout(20):
        assert await queue.get() == "a"
    queue.close()


async def test_failures_in_a_row_wait_longer_until_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    queue = Queue[str]("failures")
    monkeypatch.setattr(queue, "add_after", lambda _key, seconds: waits.append(seconds))
    for _ in range(3):
        queue.add_limited("a")
    queue.forget("a")
    queue.add_limited("a")
    assert waits == [0.005, 0.01, 0.02, 0.005]
