"""Build images from recipes: entries with content from this machine, and how to run them. Keeping is `store`'s.

A recipe gives the same layer, byte for byte, whenever its inputs are the same; then it is not even built again.
"""

from __future__ import annotations

import hashlib
import io
import json
import posixpath
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from netplane.agent.images import reference
from netplane.agent.images.store import Image, ImageError, Store

RECIPE_FILE = "image.yaml"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_VERSION = "1"
"""Raised when the same recipe comes to mean other bytes."""

_FIELDS = {"entrypoint": "Entrypoint", "cmd": "Cmd", "env": "Env", "workdir": "WorkingDir", "user": "User",
           "labels": "Labels", "stopSignal": "StopSignal"}  # fmt: skip
_LISTS = ("entrypoint", "cmd", "env")


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One file, folder or link of an image; the path is absolute inside it. Files have a source or their content."""

    path: str
    kind: Literal["file", "folder", "link"] = "file"
    mode: int = 0o644
    source: Path | None = None
    content: bytes = b""
    target: str = ""


@dataclass(frozen=True, slots=True)
class Recipe:
    """An image to build. `config` has the OCI config's field names; `base` is an image of the store to stand on."""

    reference: str
    entries: tuple[Entry, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    base: str = ""


def build(store: Store, recipe: Recipe) -> tuple[Image, bool]:
    """Return the image, and whether it had to be built. Raises ImageError."""
    try:
        name = reference.normalize(recipe.reference)
        base = store.find(recipe.base) if recipe.base else None
        if recipe.base and base is None:
            raise ImageError(f"cannot build {name}: base image {recipe.base} is not in the store; import it first")
        inputs = _fingerprint(recipe, base)
        there = store.find(name)
        if there is not None and there.inputs == inputs:
            return there, False
        return store.put(name, recipe.config, _tar(recipe.entries), base=base, inputs=inputs), True
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot build {recipe.reference}: {error}") from error


def from_folder(folder: Path, *, name: str = "") -> Recipe:
    """Return the recipe that a folder's image.yaml tells. Raises ImageError.

    Its keys: reference, base, copy (path in the folder: path in the image), folders (path: mode), links (path:
    target), entrypoint, cmd, env (a mapping or NAME=value lines), workdir, user, labels, stopSignal.
    """
    path = folder / RECIPE_FILE
    try:
        told = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ImageError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    if not isinstance(told, dict) or not (name or told.get("reference")):
        raise ImageError(f"{path}: give a mapping with at least `reference: name:tag`")
    unknown = sorted(set(told) - {"reference", "base", "copy", "folders", "links", *_FIELDS})
    if unknown:
        raise ImageError(f"{path}: unknown key {unknown[0]!r}")
    try:
        entries = (*_copied(folder, told.get("copy") or {}), *_made(told))
        return Recipe(name or told["reference"], entries, _config(told), str(told.get("base") or ""))
    except (TypeError, ValueError, AttributeError) as error:
        raise ImageError(f"{path}: {error}") from error


def _config(told: Mapping[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {_FIELDS[key]: told[key] for key in _FIELDS if told.get(key) is not None}
    environment = told.get("env") or []
    if isinstance(environment, dict):
        environment = [f"{key}={value}" for key, value in environment.items()]
    for key in _LISTS:
        if not isinstance(told.get(key) or [], list | dict) or (isinstance(told.get(key), dict) and key != "env"):
            raise ValueError(f"{key} must be a list")
    return {**config, "Env": environment if any(e.startswith("PATH=") for e in environment) else [PATH, *environment]}


def _copied(folder: Path, copies: Mapping[str, str]) -> Iterator[Entry]:
    root = folder.resolve()
    for origin, target in copies.items():
        source = folder / origin
        if not source.resolve().is_relative_to(root):
            raise ValueError(f"copy {origin!r} reaches outside {folder}")
        if not source.exists():
            raise ValueError(f"copy {origin!r} is not in {folder}")
        yield from tree(source, target)


def _made(told: Mapping[str, Any]) -> Iterator[Entry]:
    for path, mode in (told.get("folders") or {}).items():
        yield Entry(path, "folder", int(str(mode), 8))
    for path, target in (told.get("links") or {}).items():
        yield Entry(path, "link", 0o777, target=str(target))


def tree(source: Path, target: str) -> Iterator[Entry]:
    """Yield the entries that copy a file or a whole folder, links as links, modes as they are."""
    if source.is_symlink():
        yield Entry(target, "link", 0o777, target=str(source.readlink()))
    elif source.is_dir():
        yield Entry(target, "folder", source.stat().st_mode & 0o7777)
        for child in sorted(source.iterdir()):
            yield from tree(child, posixpath.join(target, child.name))
    else:
        yield Entry(target, "file", source.stat().st_mode & 0o7777, source=source)


def _fingerprint(recipe: Recipe, base: Image | None) -> str:
    """Return a digest of everything the image depends on; files by size and time, not by content."""
    seen = hashlib.sha256(_VERSION.encode())
    seen.update(json.dumps([recipe.config, base.digest if base else ""], sort_keys=True).encode())
    for entry in sorted(recipe.entries):
        state = entry.source.stat() if entry.source else None
        stamp = (state.st_size, state.st_mtime_ns) if state else None
        about = (entry.path, entry.kind, entry.mode, entry.target, str(entry.source), stamp, entry.content)
        seen.update(repr(about).encode())
    return seen.hexdigest()


def _tar(entries: Iterable[Entry]) -> io.BytesIO:
    """Return the layer: sorted, with parents, owned by root; times are those of the sources, else the epoch."""
    by_path = {posixpath.normpath("/" + entry.path).lstrip("/"): entry for entry in entries}
    for path in list(by_path):
        while path := posixpath.dirname(path):
            by_path.setdefault(path, Entry(path, "folder", 0o755))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(by_path):
            _add(tar, path, by_path[path])
    packed.seek(0)
    return packed


def _add(tar: tarfile.TarFile, path: str, entry: Entry) -> None:
    member = tarfile.TarInfo(path)
    member.mode = entry.mode
    if entry.kind == "folder":
        member.type = tarfile.DIRTYPE
        tar.addfile(member)
    elif entry.kind == "link":
        member.type, member.linkname = tarfile.SYMTYPE, entry.target
        tar.addfile(member)
    else:
        content = entry.source.read_bytes() if entry.source else entry.content
        # Whole seconds, as Python compares them with what its compiled files say.
        member.mtime = int(entry.source.stat().st_mtime) if entry.source else 0
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
