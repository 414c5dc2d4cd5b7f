"""The keeper starts, restarts, adopts and ends real processes in a real namespace."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from netplane.kernel import cgroup, process
from netplane.lab import keeper, protocol
from netplane.lab.units import Unit

NETNS = "keeper-test"
DAEMON = """
import os, socket, time
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
    s.sendto(b"READY=1\\nSTATUS=at work", os.environ["NOTIFY_SOCKET"])
time.sleep(60)
"""


@pytest.fixture
def unit() -> Iterator[Unit]:
    process.run_sync(["ip", "netns", "add", NETNS])
    yield Unit("node-1/daemon", ("/usr/bin/python3", "-ISc", DAEMON), NETNS, None, "netplane-keeper-test")
    cgroup.kill("netplane-keeper-test")
    cgroup.remove_if_present("netplane-keeper-test")
    process.run_sync(["ip", "netns", "delete", NETNS])


async def ask(folder: Path, verb: protocol.Verb, *units: str) -> dict[str, protocol.UnitStatus]:
    shown = await asyncio.to_thread(protocol.ask, folder / "keeper.sock", verb, units=units)
    return {unit.name: unit for unit in shown}


async def until_ready(folder: Path, name: str, *, other_than: int = 0) -> protocol.UnitStatus:
    async with asyncio.timeout(10):
        while True:
            unit = (await ask(folder, "status")).get(name)
            if unit and unit.state == "ready" and unit.pid != other_than:
                return unit
            await asyncio.sleep(0.01)


async def until_asked(folder: Path) -> None:
    async with asyncio.timeout(10):
        while not (folder / "keeper.sock").exists():  # noqa: ASYNC110 - a file tells nobody of its coming
            await asyncio.sleep(0.01)


@asynccontextmanager
async def kept(folder: Path, *units: Unit) -> AsyncIterator[asyncio.Task[None]]:
    """A keeper whose end, as by kill -9, leaves the daemons alone."""
    (folder / "keeper.sock").unlink(missing_ok=True)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(keeper.Keeper(folder, lambda: units).run())
        await until_asked(folder)
        await ask(folder, "sync")
        yield task
        task.cancel()


async def test_a_unit_is_ready_when_it_says_so_and_runs_in_its_cgroup(tmp_path: Path, unit: Unit) -> None:
    async with kept(tmp_path, unit):
        shown = await until_ready(tmp_path, unit.name)
        assert shown.status == "at work"
        assert shown.pid in cgroup.processes(unit.cgroup)
        await ask(tmp_path, "shutdown")


async def test_a_killed_unit_comes_back(tmp_path: Path, unit: Unit) -> None:
    async with kept(tmp_path, unit):
        first = await until_ready(tmp_path, unit.name)
        await ask(tmp_path, "kill", unit.name)
        second = await until_ready(tmp_path, unit.name, other_than=first.pid)
        assert second.restarts == 1
        await ask(tmp_path, "shutdown")


async def test_the_next_keeper_adopts_what_the_last_one_left(tmp_path: Path, unit: Unit) -> None:
    async with kept(tmp_path, unit):
        before = await until_ready(tmp_path, unit.name)
    assert alive(before.pid)
    async with kept(tmp_path, unit):
        after = await until_ready(tmp_path, unit.name)
        assert (after.pid, after.status) == (before.pid, "adopted")
        await ask(tmp_path, "shutdown")
    assert not alive(before.pid)


async def test_shutdown_ends_every_unit_and_the_keeper(tmp_path: Path, unit: Unit) -> None:
    async with kept(tmp_path, unit) as task:
        shown = await until_ready(tmp_path, unit.name)
        await ask(tmp_path, "shutdown")
        await asyncio.wait_for(asyncio.shield(task), 20)
        assert not alive(shown.pid)


async def test_a_held_unit_stays_down_until_it_is_released(tmp_path: Path, unit: Unit) -> None:
    async with kept(tmp_path, unit):
        await until_ready(tmp_path, unit.name)
        assert (await ask(tmp_path, "hold", unit.name))[unit.name].state == "held"
        assert not cgroup.processes(unit.cgroup)
        await ask(tmp_path, "release", unit.name)
        await until_ready(tmp_path, unit.name)
        await ask(tmp_path, "shutdown")


async def test_a_process_that_no_record_knows_is_ended_before_its_unit_starts(tmp_path: Path, unit: Unit) -> None:
    stray = await asyncio.create_subprocess_exec(*unit.argv, env={"NOTIFY_SOCKET": "/nowhere"}, stderr=-3)
    async with kept(tmp_path, unit):
        await until_ready(tmp_path, unit.name)
        assert await asyncio.wait_for(stray.wait(), 20)
        await ask(tmp_path, "shutdown")


async def test_a_second_keeper_waits_until_the_first_has_ended_its_units(tmp_path: Path, unit: Unit) -> None:
    async with kept(tmp_path, unit):
        before = await until_ready(tmp_path, unit.name)
        async with asyncio.TaskGroup() as group:
            second = group.create_task(keeper.Keeper(tmp_path, lambda: (unit,)).run())
            await asyncio.sleep(0.2)
            assert (await ask(tmp_path, "status"))[unit.name].pid == before.pid
            await ask(tmp_path, "shutdown")
            await until_asked(tmp_path)
            after = await until_ready(tmp_path, unit.name)
            assert after.pid != before.pid
            assert not alive(before.pid)
            await ask(tmp_path, "shutdown")
            await second


async def test_daemons_start_a_few_at_a_time_and_all_in_the_end(tmp_path: Path, unit: Unit) -> None:
    many = tuple(dataclasses.replace(unit, name=f"node-{n}/daemon") for n in range(20))
    async with kept(tmp_path, *many):
        shown = await ask(tmp_path, "status")
        assert sum(bool(status.pid) for status in shown.values()) < len(many)
        for one in many:
            await until_ready(tmp_path, one.name)
        await ask(tmp_path, "shutdown")


async def test_a_shutdown_in_the_midst_of_starting_ends_soon(tmp_path: Path, unit: Unit) -> None:
    mute = ("/usr/bin/python3", "-ISc", "import time; time.sleep(60)")
    many = tuple(dataclasses.replace(unit, name=f"node-{n}/daemon", argv=mute) for n in range(20))
    async with kept(tmp_path, *many) as task:
        await ask(tmp_path, "shutdown")
        await asyncio.wait_for(asyncio.shield(task), 4)
        assert not cgroup.processes(unit.cgroup)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"
