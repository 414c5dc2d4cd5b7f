"""One command at a time changes a lab, and none leaves its lock behind."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from netplane.lab import state
from netplane.lab.spec import Folders, LabSpec
from netplane.lib.cli import UserError


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path / "lib" / "x", tmp_path / "run" / "x")


def lock_of(folders: Folders) -> Path:
    return folders.run.parent / "x.lock"


def test_a_second_command_is_told_to_wait(folders: Folders) -> None:
    told = pytest.raises(UserError, match="another command is changing the lab 'x'")
    with state.locked(folders), told, state.locked(folders):
        pass


def test_the_lock_goes_with_a_command_that_fails(folders: Folders) -> None:
    with pytest.raises(ValueError, match="boom"), state.locked(folders):
        raise ValueError("boom")
    assert not folders.run.parent.exists()


def test_the_lock_of_a_killed_command_is_free(folders: Folders) -> None:
    lock_of(folders).parent.mkdir(parents=True)
    lock_of(folders).touch()
    with state.locked(folders):
        assert lock_of(folders).exists()


def test_a_lock_on_a_removed_file_is_no_lock(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder removes its file between our open and our flock."""
    real = fcntl.flock
    opened: list[int] = []

    def flock(descriptor: int, how: int) -> None:
        if not opened:
            lock_of(folders).unlink()
        opened.append(descriptor)
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with state.locked(folders):
        assert len(opened) == 2
        assert lock_of(folders).exists()


def test_a_damaged_spec_says_what_to_do(folders: Folders) -> None:
    state.save(LabSpec(name="x"), folders)
    folders.spec_file.write_text("{")
    with pytest.raises(UserError, match="netplane lab down removes the lab"):
        state.load(folders)
