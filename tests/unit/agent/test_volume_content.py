"""Which files volumes hold, and that they change all at once."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netplane.agent.pods.fields import Surroundings
from netplane.agent.volumes import atomic, content, run
from netplane.agent.volumes.content import File, Sources, VolumeError
from netplane.kube.types import CONFIGMAPS, SECRETS
from tests.support.agent_pods import pod

AROUND = Surroundings("node-1", ("172.30.0.11",))
OBJECTS: dict[Any, Any] = {
    (CONFIGMAPS, "cm"): {"data": {"a": "1", "b": "2"}, "binaryData": {"c": base64.b64encode(b"\x00").decode()}},
    (SECRETS, "s"): {"data": {"pw": base64.b64encode(b"x").decode()}},
}


def files(volume: dict[str, Any]) -> content.Files:
    return content.files(pod(), volume, Sources(OBJECTS, {("", 3607): "token"}, AROUND))


def test_a_config_map_shows_all_its_keys_or_the_chosen_ones() -> None:
    assert files({"configMap": {"name": "cm"}}) == {
        "a": File(b"1", 0o644),
        "b": File(b"2", 0o644),
        "c": File(b"\x00", 0o644),
    }
    chosen = {
        "name": "cm",
        "defaultMode": 0o600,
        "items": [{"key": "a", "path": "x/y"}, {"key": "b", "path": "z", "mode": 0o400}],
    }
    assert files({"configMap": chosen}) == {"x/y": File(b"1", 0o600), "z": File(b"2", 0o400)}


def test_what_is_missing_is_named_unless_optional() -> None:
    with pytest.raises(VolumeError, match='configmap "no" not found'):
        files({"configMap": {"name": "no"}})
    with pytest.raises(VolumeError, match="secret references non-existent secret key: k"):
        files({"secret": {"secretName": "s", "items": [{"key": "k", "path": "k"}]}})
    assert files({"configMap": {"name": "no", "optional": True}}) == {}


def test_the_service_account_volume_is_projected() -> None:
    sources = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
        {"configMap": {"name": "cm", "items": [{"key": "a", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]
    volume = {"projected": {"sources": sources, "defaultMode": 0o644}}
    assert {path: file.content for path, file in files(volume).items()} == {
        "token": b"token",
        "ca.crt": b"1",
        "namespace": b"default",
    }
    assert content.tokens(volume) == {("", 3607)}
    assert content.holds_secrets(volume)


NAMES = st.sampled_from(["a", "b", "c/d", "c/e", "f"])
CONTENTS = st.dictionaries(NAMES, st.binary(max_size=4), max_size=5)


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(CONTENTS, min_size=1, max_size=4))
def test_a_folder_holds_just_the_files_written_last(tmp_path_factory: Any, steps: list[dict[str, bytes]]) -> None:
    folder = tmp_path_factory.mktemp("volume")
    for step in steps:
        atomic.write(folder, {name: File(data, 0o644) for name, data in step.items()})
    shown = {str(p.relative_to(folder)): p.read_bytes() for p in _walk(folder)}
    assert shown == steps[-1]


def _walk(folder: Path) -> list[Path]:
    tops = [path for path in folder.iterdir() if not path.name.startswith("..")]
    return [f for top in tops for f in ([top] if top.is_file() else [p for p in top.rglob("*") if p.is_file()])]


def test_the_same_files_change_nothing(tmp_path: Path) -> None:
    assert atomic.write(tmp_path, {"a": File(b"1", 0o400)})
    before = os.readlink(tmp_path / "..data")
    assert not atomic.write(tmp_path, {"a": File(b"1", 0o400)})
    assert os.readlink(tmp_path / "..data") == before
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o400


def test_a_reader_that_opened_the_old_data_keeps_it(tmp_path: Path) -> None:
    atomic.write(tmp_path, {"a": File(b"old", 0o644)})
    with (tmp_path / "a").open("rb") as file:
        atomic.write(tmp_path, {"a": File(b"new", 0o644)})
        assert file.read() == b"old"
    assert (tmp_path / "a").read_bytes() == b"new"


def test_a_sub_path_must_stay_inside_its_volume(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "out").symlink_to("/etc")
    for bad in ("../x", "out/x", "/abs"):
        with pytest.raises(VolumeError, match="leads out"):
            run.within(tmp_path / "v", bad)
    assert run.within(tmp_path / "v", "new/sub").is_dir()
