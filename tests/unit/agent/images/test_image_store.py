"""Archives become folders to stand on, or nothing at all."""

import gzip
import json
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from netplane.agent.images import ImageError, Store
from tests.support import image_archives as archives
from tests.support.image_archives import Member, docker, file, layer, oci, special

NAME = "example.com/hello:1"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def layers_in(store: Store) -> list[str]:
    return sorted(path.name for path in (store.root / "layers" / "sha256").glob("*") if path.is_dir())


def test_an_oci_archive_is_unpacked_in_order(store: Store, tmp_path: Path) -> None:
    low, high = layer(file("hello", b"low"), file("bin/run", mode=0o4755)), layer(file("hello", b"high"))
    assert store.import_archive(oci(tmp_path / "a.tar", low, high)) == (NAME,)
    image = store.find(NAME)
    assert image is not None
    assert [(folder / "hello").read_bytes() for folder in image.layers] == [b"low", b"high"]
    assert stat.S_IMODE((image.layers[0] / "bin" / "run").stat().st_mode) == 0o4755
    assert image.config == {"Cmd": ["/hello"], "Env": ["A=1"]}
    assert image.size == 8


def test_what_docker_saves_is_understood(store: Store, tmp_path: Path) -> None:
    archive = docker(tmp_path / "a.tar", layer(file("hello")), tags=["hello:1", "user/hello"])
    assert store.import_archive(archive) == ("docker.io/library/hello:1", "docker.io/user/hello:latest")
    found = store.find("hello:1")
    assert found is not None
    assert found.digest == archives.sha(json.dumps(archives.config([layer(file("hello"))])).encode())


def test_a_compressed_archive_is_understood(store: Store, tmp_path: Path) -> None:
    plain = oci(tmp_path / "a.tar", layer(file("hello")))
    packed = tmp_path / "a.tar.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert store.import_archive(packed) == (NAME,)


def test_an_archive_without_a_name_needs_one(store: Store, tmp_path: Path) -> None:
    archive = oci(tmp_path / "a.tar", layer(file("hello")), name="")
    with pytest.raises(ImageError, match="does not say the image's name; give one with --name"):
        store.import_archive(archive)
    assert store.import_archive(archive, name="mine") == ("docker.io/library/mine:latest",)


def test_an_image_is_found_by_name_and_by_digest(store: Store, tmp_path: Path) -> None:
    store.import_archive(oci(tmp_path / "a.tar", layer(file("hello"))))
    image = store.find(NAME)
    assert image is not None
    assert store.find(f"example.com/hello@{image.digest}") == image
    assert store.find(f"example.com/other@{image.digest}") is None
    assert store.find("example.com/hello:2") is None
    assert store.find("Not A Reference") is None


def test_importing_again_changes_nothing(store: Store, tmp_path: Path) -> None:
    archive = oci(tmp_path / "a.tar", layer(file("hello")))
    store.import_archive(archive)
    before = store.list()
    store.import_archive(archive)
    assert store.list() == before


def test_shared_layers_are_kept_once_and_as_long_as_needed(store: Store, tmp_path: Path) -> None:
    base, own = layer(file("base")), layer(file("own"))
    store.import_archive(oci(tmp_path / "a.tar", base, name="example.com/a:1"))
    store.import_archive(oci(tmp_path / "b.tar", base, own, name="example.com/b:1"))
    assert len(layers_in(store)) == 2
    assert store.remove("example.com/a:1")
    assert len(layers_in(store)) == 2
    assert store.remove("example.com/b:1")
    assert layers_in(store) == []
    assert not store.remove("example.com/b:1")


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ([file("../evil")], "reaches outside"),
        ([file("a/../../evil")], "reaches outside"),
        ([special("out", tarfile.SYMTYPE, "/tmp"), file("out/evil")], "goes through the link 'out'"),
        ([special("hard", tarfile.LNKTYPE, "../../etc/passwd")], "reaches outside"),
        ([special("hard", tarfile.LNKTYPE, "/etc/passwd")], "no file of this layer"),
        (
            [special("soft", tarfile.SYMTYPE, "/etc/passwd"), special("hard", tarfile.LNKTYPE, "soft")],
            "no file of this layer",
        ),
        ([file("a/b"), file("a")], "would replace a folder"),
    ],
)
def test_a_layer_that_reaches_outside_is_refused_whole(
    store: Store, tmp_path: Path, members: list[Member], told: str
) -> None:
    with pytest.raises(ImageError, match=told):
        store.import_archive(oci(tmp_path / "a.tar", layer(file("good")), layer(*members)))
    assert store.list() == ()
    assert not list((store.root / "work").iterdir())
    assert not (tmp_path / "evil").exists()


def test_an_absolute_name_stays_inside(store: Store, tmp_path: Path) -> None:
    store.import_archive(oci(tmp_path / "a.tar", layer(file("/etc/here"))))
    image = store.find(NAME)
    assert image is not None
    assert (image.layers[0] / "etc" / "here").read_bytes() == b"x"


def test_whiteouts_become_what_overlayfs_means_by_them(store: Store, tmp_path: Path) -> None:
    upper = layer(file("etc/.wh.gone", b""), file("var/.wh..wh..opq", b""), file("var/new"))
    store.import_archive(oci(tmp_path / "a.tar", layer(file("etc/gone")), upper))
    image = store.find(NAME)
    assert image is not None
    gone = (image.layers[1] / "etc" / "gone").lstat()
    assert stat.S_ISCHR(gone.st_mode)
    assert gone.st_rdev == 0
    assert os.getxattr(image.layers[1] / "var", "trusted.overlay.opaque") == b"y"
    assert (image.layers[1] / "var" / "new").exists()


def test_devices_are_left_out_and_links_kept(store: Store, tmp_path: Path) -> None:
    members = [special("dev/sda", tarfile.BLKTYPE), special("lib", tarfile.SYMTYPE, "/usr/lib"), file("one")]
    members.append(special("two", tarfile.LNKTYPE, "one"))
    store.import_archive(oci(tmp_path / "a.tar", layer(*members)))
    image = store.find(NAME)
    assert image is not None
    assert sorted(path.name for path in image.layers[0].iterdir()) == ["dev", "lib", "one", "two"]
    assert list((image.layers[0] / "dev").iterdir()) == []
    assert (image.layers[0] / "lib").readlink() == Path("/usr/lib")
    assert (image.layers[0] / "one").stat().st_nlink == 2


def _other_layer(blobs: dict[str, bytes]) -> None:
    name = next(name for name, blob in blobs.items() if blob.startswith(b"\x1f\x8b"))
    blobs[name] = gzip.compress(layer(file("evil")))


def _truncated_layer(blobs: dict[str, bytes]) -> None:
    name = next(name for name, blob in blobs.items() if blob.startswith(b"\x1f\x8b"))
    blobs[name] = blobs[name][:-20]


def _other_config(blobs: dict[str, bytes]) -> None:
    name = next(name for name, blob in blobs.items() if b"diff_ids" in blob)
    blobs[name] = blobs[name].replace(b"/hello", b"/evil!")


def _zstd_layer(blobs: dict[str, bytes]) -> None:
    name = next(name for name, blob in blobs.items() if blob.startswith(b"\x1f\x8b"))
    blobs[name] = b"\x28\xb5\x2f\xfd rest"


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_other_layer, "is damaged: it is not sha256:"),
        (_truncated_layer, "Compressed file ended|damaged"),
        (_other_config, "is damaged: its content has another digest"),
        (_zstd_layer, "compressed with zstd"),
        (lambda blobs: blobs.pop("index.json"), "neither an OCI layout nor"),
        (lambda blobs: blobs.update({"index.json": b"{"}), "index.json is not JSON"),
        (lambda blobs: blobs.update({"index.json": b'{"manifests": [{}]}'}), "is not sha256:"),
        (lambda blobs: blobs.update({"index.json": b'{"manifests": 7}'}), "it is damaged"),
    ],
)
def test_a_damaged_archive_is_refused_whole(
    store: Store, tmp_path: Path, spoil: Callable[[dict[str, bytes]], None], told: str
) -> None:
    with pytest.raises(ImageError, match=told):
        store.import_archive(oci(tmp_path / "a.tar", layer(file("hello")), spoil=spoil))
    assert store.list() == ()
    assert layers_in(store) == []


def test_what_is_no_archive_is_refused(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"not a tar" * 100)
    with pytest.raises(ImageError, match="not a tar archive"):
        store.import_archive(path)


def test_an_image_for_another_processor_is_not_taken(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="holds no image for this machine"):
        store.import_archive(oci(tmp_path / "a.tar", layer(file("hello")), architecture="s390x"))


def test_what_a_killed_writer_left_is_cleared_away(store: Store, tmp_path: Path) -> None:
    (store.root / "work" / "leftover").mkdir(parents=True)
    store.import_archive(oci(tmp_path / "a.tar", layer(file("hello"))))
    assert not list((store.root / "work").iterdir())
