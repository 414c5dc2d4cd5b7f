"""What a BIRD that runs is told, and when: a stand-in that keeps what it heard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from netplane.kernel import bird
from netplane.kernel.errors import KernelError
from netplane.lib import clock
from netplane.model import address
from netplane.model.node import Node
from netplane_cni.plan import bgp as plan
from netplane_cni.plan import fabric
from netplane_cni.run import bgp

UNDERLAY = fabric.Underlay(2, 1500, (address.prefix("172.30.0.0/24"),))
ME = Node("node-1", internal_ips=(address.parse("172.30.0.1"),), pod_cidrs=(address.prefix("10.244.1.0/24"),))
ONE, OTHER = plan.Settings(), plan.Settings(peers=(plan.peer("172.30.0.254:64513"),))


def text(settings: plan.Settings) -> str:
    return plan.text(ME, underlay=UNDERLAY, settings=settings)


class Bird:
    """What speaks as BIRD does on its control socket. `heard` are the texts that it was told to read."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.greeting = "0001 BIRD ready.\n"
        self.answer = "0003 Reconfigured\n"
        self.calls: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.calls.put_nowait(writer)
        writer.write(self.greeting.encode())
        while line := await reader.readline():
            self.heard.append(Path(line.decode().split('"')[1]).read_text())
            writer.write(self.answer.encode())
        writer.close()


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Bird]:
    found = Bird()
    async with await asyncio.start_unix_server(found.serve, tmp_path / bgp.CONTROL):
        yield found
        while not found.calls.empty():
            found.calls.get_nowait().close()


async def bring(folder: Path, settings: plan.Settings) -> int:
    """Do what a daemon that has just started does."""
    return await bgp.Bgp(folder, settings, ()).bring(ME, UNDERLAY)


async def test_what_a_daemon_before_has_told_is_not_told_again(tmp_path: Path, running: Bird) -> None:
    assert await bring(tmp_path, ONE) == 1
    assert await bring(tmp_path, ONE) == 0
    assert running.heard == [text(ONE)]


async def test_what_is_new_is_told_once(tmp_path: Path, running: Bird) -> None:
    assert await bring(tmp_path, ONE) == 1
    made = bgp.Bgp(tmp_path, OTHER, ())
    assert [await made.bring(ME, UNDERLAY) for _ in range(3)] == [1, 0, 0]
    assert running.heard == [text(ONE), text(OTHER)]


async def test_after_an_end_in_the_midst_of_telling_it_is_told_again(tmp_path: Path, running: Bird) -> None:
    await bring(tmp_path, ONE)
    (tmp_path / bgp.NEXT).write_text(text(OTHER))
    assert await bring(tmp_path, ONE) == 1
    assert running.heard == [text(ONE)] * 2
    assert not (tmp_path / bgp.NEXT).exists()


async def test_what_it_refuses_is_not_taken_for_told(tmp_path: Path, running: Bird) -> None:
    await bring(tmp_path, ONE)
    running.answer = "8002 syntax error\n"
    with pytest.raises(bird.Refused):
        await bring(tmp_path, OTHER)
    assert (tmp_path / bgp.CONFIG).read_text() == text(ONE)
    running.answer = "0003 Reconfigured\n"
    assert await bring(tmp_path, OTHER) == 1


async def test_one_that_does_not_answer_gets_no_other_beside_it(
    tmp_path: Path, running: Bird, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.greeting = ""
    monkeypatch.setattr(bird, "ANSWER_TIMEOUT", 0.05)
    with pytest.raises(KernelError, match="greet BIRD"):
        await bring(tmp_path, ONE)
    assert not (tmp_path / bgp.CONFIG).exists()


async def test_its_end_is_told_to_who_starts_it_again(tmp_path: Path, running: Bird) -> None:
    made, gone = bgp.Bgp(tmp_path, ONE, ()), asyncio.Event()
    await made.bring(ME, UNDERLAY)
    await running.calls.get()
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        watching = group.create_task(made.watching(gone.set, clock.SYSTEM))
        (await running.calls.get()).close()
        await gone.wait()
        watching.cancel()
    assert await made.bring(ME, UNDERLAY) == 0, "another one runs, and was started with the same text"
    assert not running.calls.empty(), "nobody asked whether one runs"
