"""Keep images on disk: one JSON file for each reference, and layers unpacked once for all images that share them.

    images/<reference, quoted>.json    layers/sha256/<diff id>/    work/ (what is being made)    lock

Everything appears by rename, so a reader, of which each node's agent is one, never sees half an image.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
import urllib.parse
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from netplane.agent.images import archive, layer, reference
from netplane.lib import cli


class ImageError(cli.UserError):
    """An image cannot be had; says which, why, and what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Image:
    """One image, ready to run."""

    reference: str
    digest: str
    """Of the manifest, or of the config where there is no manifest: what `imageID` shows."""
    config: dict[str, object]
    """The `config` part of the OCI config: Env, Entrypoint, Cmd, WorkingDir, User, Labels, StopSignal."""
    layers: tuple[Path, ...]
    """Folders for overlayfs, the top layer last."""
    size: int
    inputs: str = ""
    """Fingerprint of what it was built from, "" for imported ones."""


class Store:
    """The image store in a folder. Reading takes no lock; writers take turns."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self._images = self.root / "images"
        self._layers = self.root / "layers" / "sha256"

    def find(self, name: str) -> Image | None:
        """Return the image a reference means, also `name@sha256:...` of an image here; None when it is not here."""
        try:
            full = reference.normalize(name)
        except reference.BadReference:
            return None
        path, at, digest = full.partition("@")
        if at:
            return next(
                (image for image in self.list() if image.digest == digest and _path_of(image.reference) == path), None
            )
        return self._read(self._file(full))

    def list(self) -> tuple[Image, ...]:
        """Return all images in the order of their references."""
        images = (self._read(path) for path in sorted(self._images.glob("*.json")))
        return tuple(image for image in images if image is not None)

    def import_archive(self, path: Path, *, name: str = "") -> tuple[str, ...]:
        """Take in every image of an archive for this machine; return their references. All of it or nothing.

        `name` is for an archive that does not name its image. Raises ImageError.
        """
        try:
            with archive.Archive(path) as opened, self._writing():
                found = opened.images()
                names = [_names(image, name, path) for image in found]
                if not found:
                    raise ImageError(f"cannot import {path}: it holds no image for this machine")
                for image in found:
                    for blob in image.layers:
                        self._unpack(blob.diff_id, opened.layer(blob))
                for image, references in zip(found, names, strict=True):
                    for full in references:
                        self._write(full, image.digest, image.config, tuple(blob.diff_id for blob in image.layers))
        except OSError as error:
            raise ImageError(f"cannot import {path}: {_reason(error, self.root)}") from error
        except (ValueError, EOFError) as error:
            raise ImageError(f"cannot import {path}: {error}") from error
        except (LookupError, TypeError, AttributeError, tarfile.TarError, zlib.error) as error:
            raise ImageError(f"cannot import {path}: it is damaged ({type(error).__name__}: {error})") from error
        return tuple(full for references in names for full in references)

    def put(
        self,
        name: str,
        config: Mapping[str, Any],
        layer_tar: io.BytesIO,
        *,
        base: Image | None = None,
        inputs: str = "",
    ) -> Image:
        """Make an image of one layer, an uncompressed tar, on top of the layers of `base`. Raises ImageError."""
        full = reference.normalize(name)
        diff_id = f"sha256:{hashlib.file_digest(layer_tar, 'sha256').hexdigest()}"
        layer_tar.seek(0)
        diff_ids = [*(f"sha256:{folder.name}" for folder in (base.layers if base else ())), diff_id]
        document = {"config": dict(config), "rootfs": {"type": "layers", "diff_ids": diff_ids}}
        digest = f"sha256:{hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()}"
        try:
            with self._writing():
                self._unpack(diff_id, archive.Reader(layer_tar, archive.LayerBlob(full, "", diff_id)))
                return self._write(full, digest, document, diff_ids, inputs=inputs)
        except OSError as error:
            raise ImageError(f"cannot build {full}: {_reason(error, self.root)}") from error

    def remove(self, name: str) -> bool:
        """Forget a reference, and the layers that no image and no running container needs. Returns whether it was."""
        with self._writing():
            path = self._file(reference.normalize(name))
            was_there = path.exists()
            path.unlink(missing_ok=True)
            self._sweep()
        return was_there

    def _unpack(self, diff_id: str, reader: archive.Reader) -> None:
        if (self._layers / _hex(diff_id)).exists():
            return
        with self._work() as folder:
            with tarfile.open(fileobj=cast(Any, reader), mode="r|") as tar:
                size = layer.unpack(tar, folder)
            reader.verify()
            self._keep(folder, diff_id, size)

    def _keep(self, folder: Path, diff_id: str, size: int) -> None:
        target = self._layers / _hex(diff_id)
        if target.exists():
            return
        _write_text(target.with_suffix(".size"), str(size))
        folder.rename(target)

    def _write(
        self, full: str, digest: str, document: Mapping[str, Any], layers: Sequence[str], *, inputs: str = ""
    ) -> Image:
        config = document.get("config") or {}
        size = sum(int((self._layers / f"{_hex(diff_id)}.size").read_text()) for diff_id in layers)
        content = {"reference": full, "digest": digest, "config": config, "layers": layers, "size": size}
        _write_text(self._file(full), json.dumps({**content, "inputs": inputs}, indent=1))
        return Image(full, digest, config, tuple(self._layers / _hex(diff_id) for diff_id in layers), size, inputs)

    def _read(self, path: Path) -> Image | None:
        try:
            content = json.loads(path.read_text())
            layers = tuple(self._layers / _hex(diff_id) for diff_id in content["layers"])
            image = Image(**{**content, "layers": layers})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ImageError(f"image store: {path} is damaged ({error}); remove it and import again") from error
        return image if all(folder.is_dir() for folder in layers) else None

    def _sweep(self) -> None:
        needed = {folder.name for image in self.list() for folder in image.layers}
        unneeded = [folder for folder in self._layers.glob("*") if folder.is_dir() and folder.name not in needed]
        mounted = _mounted() if unneeded else ""
        for folder in unneeded:
            if folder.name not in mounted:
                folder.with_suffix(".size").unlink(missing_ok=True)
                shutil.rmtree(folder, ignore_errors=True)

    def _file(self, full: str) -> Path:
        return self._images / f"{urllib.parse.quote(full, safe='')}.json"

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        for folder in (self._images, self._layers, self.root / "work"):
            folder.mkdir(parents=True, exist_ok=True)
        with (self.root / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for leftover in (self.root / "work").iterdir():  # Of a writer that was killed: we hold the lock.
                shutil.rmtree(leftover, ignore_errors=True)
            yield

    @contextlib.contextmanager
    def _work(self) -> Iterator[Path]:
        folder = Path(tempfile.mkdtemp(dir=self.root / "work"))
        folder.chmod(0o755)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _names(image: archive.Found, given: str, path: Path) -> tuple[str, ...]:
    names = (given,) if given else image.names
    if not names:
        raise ImageError(f"cannot import {path}: it does not say the image's name; give one with --name")
    return tuple(dict.fromkeys(reference.normalize(name) for name in names))


def _hex(diff_id: str) -> str:
    algorithm, _, hexadecimal = diff_id.partition(":")
    if algorithm != "sha256" or len(hexadecimal) != 64 or not hexadecimal.isalnum():
        raise ValueError(f"digest {diff_id!r} is not sha256: and 64 hex digits")
    return hexadecimal


def _path_of(full: str) -> str:
    return full.rpartition(":")[0]


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def _mounted() -> str:
    """Return the mount tables of all processes: each node of a lab has mounts of its own."""
    tables = set()
    for path in Path("/proc").glob("[0-9]*/mountinfo"):
        with contextlib.suppress(OSError):
            tables.add(path.read_text())
    return "".join(tables)


def _reason(error: OSError, root: Path) -> str:
    hint = f"; make room below {root}" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return f"{error.strerror or error}{hint}"
