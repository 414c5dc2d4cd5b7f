"""Programs are run to their end, and never for ever."""

from __future__ import annotations

import asyncio
import errno

import pytest

from netplane.kernel import process
from netplane.kernel.errors import CommandFailed


async def test_run_returns_what_the_program_printed() -> None:
    assert (await process.run(["cat"], stdin="hello")).text == "hello"


async def test_without_stdin_the_program_reads_nothing() -> None:
    assert (await process.run(["cat"])).stdout == b""


async def test_a_failure_carries_code_and_words_on_one_line() -> None:
    with pytest.raises(CommandFailed, match=r"run sh -c .*: exit 3: a b") as caught:
        await process.run(["sh", "-c", "printf 'a\nb\n' >&2; exit 3"])
    assert caught.value.returncode == 3


async def test_a_missing_program_is_enoent() -> None:
    with pytest.raises(CommandFailed) as caught:
        await process.run(["/does/not/exist"])
    assert caught.value.errno == errno.ENOENT


async def test_a_program_that_does_not_end_is_killed() -> None:
    with pytest.raises(CommandFailed) as caught:
        await process.run(["sleep", "60"], timeout=0.05)
    assert caught.value.errno == errno.ETIMEDOUT


async def test_cancellation_kills_the_program() -> None:
    task = asyncio.create_task(process.run(["sleep", "60"]))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_run_sync_answers_alike() -> None:
    assert process.run_sync(["cat"], stdin=b"x").stdout == b"x"
    with pytest.raises(CommandFailed, match="exit 1"):
        process.run_sync(["false"])
    with pytest.raises(CommandFailed, match="ETIMEDOUT"):
        process.run_sync(["sleep", "60"], timeout=0.05)
    with pytest.raises(CommandFailed, match="ENOENT"):
        process.run_sync(["/does/not/exist"])


def test_run_sync_gives_an_empty_input_unless_told() -> None:
    assert process.run_sync(["cat"]).stdout == b""


def test_children_do_not_inherit_what_the_service_manager_addressed_to_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    monkeypatch.setenv("NETPLANE_KEPT", "yes")
    shown = process.run_sync(["env"]).text.splitlines()
    assert "NETPLANE_KEPT=yes" in shown
    assert not [line for line in shown if line.startswith("NOTIFY_SOCKET=")]
