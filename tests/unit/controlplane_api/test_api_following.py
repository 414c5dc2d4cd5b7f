"""Many watches told at once: the same bytes, in order, once; and what wakes a watch's own task."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import cast

from netplane.controlplane.api import following, transport
from netplane.controlplane.store import feed, history


class _Line:
    def __init__(self) -> None:
        self.told: list[bytes] = []
        self.is_clear = True

    def write(self, body: bytes) -> None:
        self.told.append(body)


class _Heard(_Line):
    """A line that costs some time and notes when it was written."""

    def __init__(self, *, seconds: float) -> None:
        super().__init__()
        self.at: list[float] = []
        self._seconds = seconds

    def write(self, body: bytes) -> None:
        super().write(body)
        until = time.monotonic() + self._seconds
        while time.monotonic() < until:
            pass
        self.at.append(time.monotonic())


class _World:
    """One type's window and feed, and those who follow it."""

    def __init__(self, *, limit: int = 100) -> None:
        self.window = history.Window(floor=0, limit=limit)
        self.feed = feed.Feed(asyncio.get_running_loop())
        self.is_due = False
        self._revision = 0

    def happen(self, name: str) -> None:
        self._revision += 1
        one = history.Record(("default", name), self._revision, b'{"n":"%b"}' % name.encode(), history.Index({}, {}))
        self.window.append(history.Event(revision=self._revision, old=None, new=one, last=one))
        self.feed.ring()

    def follower(self, line: _Line, *, group: object = "", make: following.Make | None = None) -> following.Follower:
        return following.Follower(
            self.window,
            cast(transport.Line, line),
            position=self.window.end,
            group=group,
            make=make,
            is_due=lambda: self.is_due,
        )

    def join(self, follower: following.Follower) -> asyncio.Task[None]:
        return asyncio.ensure_future(follower.wait(self.feed))


async def _settled(wanted: asyncio.Task[None] | None = None) -> None:
    """Let what is due happen: rounds are some milliseconds apart."""
    for _ in range(200):
        await asyncio.sleep(0.005 if wanted is not None else 0)
        if wanted is not None and wanted.done():
            return


async def test_news_reach_all_followers_as_the_same_bytes_without_their_tasks() -> None:
    world = _World()
    lines = [_Line() for _ in range(120)]
    followers = [world.follower(line) for line in lines]
    tasks = [world.join(each) for each in followers]
    await asyncio.sleep(0)
    world.happen("a")
    world.happen("b")
    await _settled()
    assert all(len(line.told) == 1 and line.told[0] is lines[0].told[0] for line in lines)
    assert lines[0].told[0].count(b"\n") == 2
    assert {each.position for each in followers} == {2}
    assert not any(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    world.happen("c")
    await _settled()
    assert sum(len(line.told) for line in lines) == 120


async def test_groups_are_told_what_is_theirs() -> None:
    world = _World()

    def only(name: bytes) -> following.Make:
        def make(events: Sequence[history.Event]) -> bytes:
            return b"".join(event.line for event in events if name in event.last.value)

        return make

    one, other = _Line(), _Line()
    tasks = [
        world.join(world.follower(one, group="1", make=only(b'"a"'))),
        world.join(world.follower(other, group="2", make=only(b'"b"'))),
    ]
    await asyncio.sleep(0)
    world.happen("a")
    await _settled()
    assert (len(one.told), other.told) == (1, [])
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_client_that_reads_slowly_wakes_its_task_alone() -> None:
    world, slow, quick = _World(), _Line(), _Line()
    slow.is_clear = False
    lagging, going = world.follower(slow), world.follower(quick)
    woken, other = world.join(lagging), world.join(going)
    await asyncio.sleep(0)
    world.happen("a")
    await _settled(woken)
    assert woken.done()
    assert (slow.told, lagging.position, len(quick.told), other.done()) == ([], 0, 1, False)
    other.cancel()
    await asyncio.gather(other, return_exceptions=True)


async def test_who_has_fallen_out_of_the_window_or_fails_is_woken_where_it_stood() -> None:
    world, late, broken, well = _World(limit=8), _Line(), _Line(), _Line()

    def fail(events: Sequence[history.Event]) -> bytes:
        raise ValueError(len(events))

    failing, going = world.follower(broken, group="x", make=fail), world.follower(well)
    behind = world.follower(late)
    for number in range(20):
        world.happen(str(number))
    failing.position = going.position = world.window.end
    tasks = [world.join(each) for each in (behind, failing, going)]
    await asyncio.sleep(0)
    world.happen("last")
    await _settled(tasks[1])
    assert [task.done() for task in tasks] == [True, True, False]
    assert (behind.position, failing.position, late.told, broken.told) == (0, 20, [], [])
    assert len(well.told) == 1
    tasks[2].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_is_due_wakes_the_task_at_the_next_ring() -> None:
    world, line = _World(), _Line()
    woken = world.join(world.follower(line))
    await asyncio.sleep(0)
    world.is_due = True
    world.feed.ring()
    await _settled(woken)
    assert woken.done()


async def test_news_during_a_round_are_told_after_it() -> None:
    world, lines = _World(), [_Line() for _ in range(120)]
    tasks = [world.join(world.follower(line)) for line in lines]
    await asyncio.sleep(0)
    world.happen("a")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    world.happen("b")  # the first have been told, the last not yet
    for _ in range(1000):
        if all(b"".join(line.told).count(b"\n") == 2 for line in lines):
            break
        await asyncio.sleep(0.005)
    assert all(b"".join(line.told).count(b"\n") == 2 for line in lines)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _two_writes(line: _Line) -> bool:
    """Write twice; return whether the second was told well within the time for which news are gathered."""
    world = _World()
    task = world.join(world.follower(line))
    await asyncio.sleep(0)
    for name in "ab":
        world.happen(name)
        until = time.monotonic() + 0.002
        while time.monotonic() < until:  # noqa: ASYNC110 - turns of the loop are what is to pass
            await asyncio.sleep(0)
    was_told = len(line.told) == 2
    await _settled()
    for _ in range(1000):
        if len(line.told) == 2:
            break
        await asyncio.sleep(0.02)
    assert len(line.told) == 2
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return was_told


async def test_a_second_write_is_told_at_once_while_that_costs_little() -> None:
    # On a busy machine a round may take long by the clock: of many tries one does not.
    tries = [await _two_writes(_Line()) for _ in range(50)]
    assert any(tries)


async def test_what_costs_much_is_gathered() -> None:
    line = _Heard(seconds=0.004)
    await _two_writes(line)
    assert line.at[1] - line.at[0] >= 0.009
