"""A failure is one line on standard error and an exit code; a signal is a clean end."""

import asyncio
import os
import signal

import pytest

from netplane.lib import cli


def outcome(main: object, capsys: pytest.CaptureFixture[str], **options: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stopped:
        cli.run_async(main, **options)  # type: ignore[arg-type]  # the tests' coroutines
    return int(str(stopped.value.code)), capsys.readouterr().err


async def raising(error: Exception) -> None:
    raise error


async def raising_in_groups(error: Exception) -> None:
    async with asyncio.TaskGroup() as outer:
        outer.create_task(raising(error))
        outer.create_task(asyncio.sleep(60))


def test_a_user_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = outcome(raising(cli.UserError("port 80 is taken;\n choose another")), capsys)
    assert (code, text) == (1, "netplane: port 80 is taken; choose another\n")


def test_a_user_error_is_found_inside_task_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(raising_in_groups(cli.UserError("no")), capsys) == (1, "netplane: no\n")


def test_expected_errors_are_shown_like_the_users(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(raising(KeyError("k")), capsys, expected=(KeyError,)) == (1, "netplane: 'k'\n")


def test_a_fault_of_ours_names_the_place_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = outcome(raising(ZeroDivisionError("oops")), capsys)
    assert code == 1
    assert text.startswith("netplane: internal error: ZeroDivisionError: oops (at ")
    assert text.count("\n") == 1


def test_sigterm_cancels_and_ends_well() -> None:
    cleaned = []

    async def daemon() -> None:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
        try:
            await asyncio.sleep(30)
        finally:
            cleaned.append(True)

    cli.run_async(daemon())
    assert cleaned == [True]
