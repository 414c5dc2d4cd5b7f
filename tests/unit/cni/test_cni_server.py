"""The socket that shims speak to: whole questions, slow ones, and what happens when the daemon or a shim ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from netplane_cni.run import server, worker


class Calls:
    """Answers with what it was asked; holds a call up while `gate` is closed."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun: list[str] = []
        self.files: list[str] = []
        self.ended: list[str] = []

    async def __call__(self, environment: dict[str, str], stdin: bytes, namespace: int | None) -> tuple[int, bytes]:
        command = environment.get("CNI_COMMAND", "")
        self.begun.append(command)
        if namespace is not None:
            self.files.append(os.readlink(f"/proc/self/fd/{namespace}"))
        await self.gate.wait()
        self.ended.append(command)
        return 0, stdin


class Place:
    """A server that runs."""

    def __init__(self, path: Path) -> None:
        self.calls = Calls()
        self.path = str(path / "run" / "cni.sock")
        self.server = server.Server(self.path, self.calls)
        self.server.listen()
        self.running = asyncio.create_task(self.server.run())

    def connect(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        try:
            made.connect(self.path)
        except OSError:
            made.close()
            raise
        made.setblocking(False)
        return made

    async def answer(self, asking: socket.socket) -> bytes:
        whole = b""
        async with asyncio.timeout(20):
            while part := await asyncio.get_running_loop().sock_recv(asking, 65536):
                whole += part
        asking.close()
        return whole

    async def stop(self) -> None:
        self.running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.running


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path)
    yield made
    await made.stop()


async def _until(claim: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not claim():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0)


async def test_a_question_that_comes_in_pieces_is_answered_when_it_is_whole(place: Place, tmp_path: Path) -> None:
    asking = place.connect()
    opened = os.open(tmp_path, os.O_RDONLY)
    socket.send_fds(asking, [b"CNI_COMMAND=ADD\0CNI_IF"], [opened])
    os.close(opened)
    for _ in range(5):
        await asyncio.sleep(0)
    asking.send(b"NAME=eth0\0\0{}")
    for _ in range(5):
        await asyncio.sleep(0)
    assert place.calls.begun == []
    asking.shutdown(socket.SHUT_WR)
    assert await place.answer(asking) == b"\0{}"
    assert place.calls.files == [str(tmp_path)]


async def test_large_questions_and_answers_arrive_whole(place: Place) -> None:
    asking, large = place.connect(), b"x" * 3_000_000
    await asyncio.get_running_loop().sock_sendall(asking, b"CNI_COMMAND=ADD\0\0" + large)
    asking.shutdown(socket.SHUT_WR)
    assert await place.answer(asking) == b"\0" + large


async def test_a_question_without_end_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LARGEST", 1000)
    asking = place.connect()
    with contextlib.suppress(OSError):
        await asyncio.get_running_loop().sock_sendall(asking, b"x" * 200_000)
    with contextlib.suppress(ConnectionResetError):
        assert await place.answer(asking) == b""
    assert place.calls.begun == []


async def test_files_that_came_with_a_question_are_closed(place: Place, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        asking = place.connect()
        opened = os.open(tmp_path, os.O_RDONLY)
        socket.send_fds(asking, [b"CNI_COMMAND=ADD\0\0"], [opened])
        os.close(opened)
        asking.shutdown(socket.SHUT_WR)
        await place.answer(asking)
    await _until(lambda: len(os.listdir("/proc/self/fd")) <= before)


async def test_a_call_that_has_begun_is_finished_at_the_daemons_end_and_one_half_asked_is_not_waited_for(
    place: Place,
) -> None:
    place.calls.gate.clear()
    asking, half = place.connect(), place.connect()
    asking.send(b"CNI_COMMAND=ADD\0\0")
    asking.shutdown(socket.SHUT_WR)
    half.send(b"CNI_COMMAND=DEL")
    await _until(lambda: place.calls.begun)
    place.running.cancel()
    assert await place.answer(half) == b""
    assert not place.running.done()
    place.running.cancel()
    place.calls.gate.set()
    assert await place.answer(asking) == b"\0"
    await place.stop()
    assert place.calls.ended == ["ADD"]
    with pytest.raises(ConnectionRefusedError):
        place.connect()


async def test_a_shim_that_went_away_ends_nothing(place: Place) -> None:
    place.calls.gate.clear()
    asking = place.connect()
    asking.send(b"CNI_COMMAND=ADD\0\0")
    asking.shutdown(socket.SHUT_WR)
    await _until(lambda: place.calls.begun)
    asking.close()
    place.calls.gate.set()
    await _until(lambda: place.calls.ended)
    other = place.connect()
    other.shutdown(socket.SHUT_WR)
    assert await place.answer(other) == b"\0"


async def test_a_worker_does_things_in_order_and_hands_results_and_failures_back() -> None:
    one, done = worker.Worker("test"), []

    def fail() -> None:
        raise OSError("no")

    first, failing, last = one.do(lambda: done.append(1)), one.do(fail), one.do(lambda: threading.current_thread().name)
    assert str(await worker.outcome(failing)) == "no"
    assert (await last, first.done(), done) == ("test", True, [1])
    one.close()


async def test_what_a_worker_has_begun_is_done_although_nobody_waits() -> None:
    one, gate, done = worker.Worker("test"), threading.Event(), []
    blocked, given_up = one.do(lambda: gate.wait(20)), one.do(lambda: done.append(1))
    given_up.cancel()
    gate.set()
    assert await blocked
    one.close()
    assert done == [1]
    await asyncio.sleep(0)
