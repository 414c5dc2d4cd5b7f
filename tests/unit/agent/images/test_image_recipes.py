"""Recipes give the same image from the same inputs, and the built-in ones run."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from netplane.agent.builtin import build as builtin
from netplane.agent.image_cli import image
from netplane.agent.images import ImageError, Store, recipe


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("builtin"))
    builtin.build(store.root)
    return store


def folder(tmp_path: Path, text: str) -> Path:
    made = tmp_path / "app"
    (made / "bin").mkdir(parents=True)
    (made / "bin" / "run").write_text("#!/bin/sh\n")
    (made / "bin" / "run").chmod(0o755)
    (made / "image.yaml").write_text(text)
    return made


APP = """
reference: example.com/app:1
copy: {bin: /usr/bin}
folders: {/tmp: 1777}
links: {/run.sh: usr/bin/run}
entrypoint: [/run.sh]
env: {A: b}
user: nobody
"""


def test_a_folder_becomes_an_image(store: Store, tmp_path: Path) -> None:
    made, was_built = recipe.build(store, recipe.from_folder(folder(tmp_path, APP)))
    (top,) = made.layers
    assert was_built
    assert (top / "usr" / "bin" / "run").stat().st_mode & 0o777 == 0o755
    assert (top / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert (top / "run.sh").readlink() == Path("usr/bin/run")
    assert made.config == {"Entrypoint": ["/run.sh"], "Env": [recipe.PATH, "A=b"], "User": "nobody"}


def test_the_same_inputs_are_not_built_again_and_others_are(store: Store, tmp_path: Path) -> None:
    made = folder(tmp_path, APP)
    first, _ = recipe.build(store, recipe.from_folder(made))
    assert recipe.build(store, recipe.from_folder(made)) == (first, False)
    (made / "bin" / "run").write_text("#!/bin/sh\nexit 1\n")
    second, was_built = recipe.build(store, recipe.from_folder(made))
    assert was_built
    assert second.digest != first.digest


def test_an_image_stands_on_its_base(built: Store, tmp_path: Path) -> None:
    made, _ = recipe.build(built, recipe.from_folder(folder(tmp_path, APP + "base: netplane.local/busybox:1\n")))
    busybox = built.find(builtin.BUSYBOX)
    assert busybox is not None
    assert made.layers[:-1] == busybox.layers


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[", "cannot read"),
        ("x: 1", "give a mapping with at least `reference"),
        ("reference: a\nentrypiont: [x]", "unknown key 'entrypiont'"),
        ("reference: a\ncopy: {../x: /y}", "reaches outside"),
        ("reference: a\ncopy: {nothing: /y}", "'nothing' is not in"),
        ("reference: a\nentrypoint: run", "entrypoint must be a list"),
        ("reference: a\nfolders: {/x: rwx}", "invalid literal"),
        ("reference: A B", "image reference 'A B'"),
        ("reference: a\nbase: missing", "base image missing is not in the store"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said(store: Store, tmp_path: Path, text: str, told: str) -> None:
    path = folder(tmp_path, text)
    with pytest.raises(ImageError, match=told):
        recipe.build(store, recipe.from_folder(path))


def test_the_builtin_images_are_built_once(built: Store) -> None:
    before = [(path.name, path.stat().st_ino) for path in (built.root / "layers" / "sha256").iterdir()]
    builtin.build(built.root)
    assert [(path.name, path.stat().st_ino) for path in (built.root / "layers" / "sha256").iterdir()] == before


def test_busybox_has_its_applets_and_users(built: Store) -> None:
    found = built.find("netplane.local/busybox:1")
    assert found is not None
    (root,) = found.layers
    assert (root / "bin" / "sh").readlink() == Path("/bin/busybox")
    assert (root / "usr" / "bin" / "wget").is_symlink()
    assert "nobody:x:65534" in (root / "etc" / "passwd").read_text()
    assert os.stat(root / "tmp").st_mode & 0o7777 == 0o1777


def test_the_echo_image_carries_the_server_compiled(built: Store) -> None:
    found = built.find("netplane.local/echo:1")
    assert found is not None
    program = Path(str(found.config["Entrypoint"][0]))  # type: ignore[index]  # a list of words
    library = found.layers[-1] / "usr" / "lib" / program.name
    assert (library / "echo" / "server.py").exists()
    assert list((library / "__pycache__").glob("selectors.*.pyc"))
    assert not (library / "test").exists()


def test_the_command_builds_lists_and_removes(tmp_path: Path) -> None:
    made, store = folder(tmp_path, APP), str(tmp_path / "store")

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(image, ["--image-dir", store, *arguments])
        assert result.exit_code == 0, result.output
        return result.output

    assert "example.com/app:2" in run("build", str(made), "--tag", "example.com/app:2")
    (listed,) = json.loads(run("list", "-o", "json"))
    assert listed["reference"] == "example.com/app:2"
    assert run("list", "-o", "wide").splitlines()[1].endswith("/run.sh")
    assert run("remove", "example.com/app:2") == "example.com/app:2 removed\n"
    assert run("remove", "example.com/app:2") == "example.com/app:2 was not there\n"


def test_building_what_is_no_folder_is_a_usage_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(image, ["--image-dir", str(tmp_path), "build", "nothing"])
    assert result.exit_code == 2
    assert "neither `builtin` nor a folder" in result.output
