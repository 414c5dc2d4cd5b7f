"""What labs share on the machine, and what is each lab's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from netplane.lab import host
from netplane.lab.spec import Folders, LabSpec


@pytest.fixture
def mount_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(host, "NODE_MOUNTS", (str(tmp_path / "etc" / "cni" / "net.d"),))
    return tmp_path / "etc" / "cni" / "net.d"


def up(tmp_path: Path, name: str) -> Folders:
    folders = Folders(tmp_path / "lib" / name, tmp_path / "run" / name)
    folders.run.mkdir(parents=True)
    host.ensure_mount_points(folders)
    return folders


def test_mount_points_stay_until_the_last_lab_goes(tmp_path: Path, mount_point: Path) -> None:
    first, second = up(tmp_path, "a"), up(tmp_path, "b")
    first.run.rmdir()
    host.remove_mount_points(first)
    assert mount_point.is_dir()
    second.run.rmdir()
    host.remove_mount_points(second)
    assert not (tmp_path / "etc").exists()


def test_a_folder_that_was_there_before_stays(tmp_path: Path, mount_point: Path) -> None:
    mount_point.parent.mkdir(parents=True)
    lab = up(tmp_path, "a")
    lab.run.rmdir()
    host.remove_mount_points(lab)
    assert mount_point.parent.is_dir()
    assert not mount_point.exists()


def test_a_folder_that_somebody_uses_stays(tmp_path: Path, mount_point: Path) -> None:
    lab = up(tmp_path, "a")
    (mount_point / "theirs.conflist").touch()
    lab.run.rmdir()
    host.remove_mount_points(lab)
    assert (mount_point / "theirs.conflist").exists()


def test_a_lab_whose_name_begins_with_anothers_keeps_its_namespaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "NETNS", tmp_path)
    for name in ("ci-client", "ci-node-1", "ci-other-node-1", "ci-other-client", "ci-node-1-client"):
        (tmp_path / name).touch()
    assert host.namespaces(LabSpec(name="ci")) == {"ci-client", "ci-node-1"}
    assert host.namespaces(LabSpec(name="ci-other")) == {"ci-other-client", "ci-other-node-1"}
