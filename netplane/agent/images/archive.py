"""Read image archives: OCI layouts and what `docker save` writes, as tar files. Where the images go is `store`'s.

Sources: OCI image-spec (image-layout.md, manifest.md, config.md); moby/docker-image-spec for manifest.json.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import platform
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, cast

_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_DOCUMENT_MOST = 8 << 20
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"


class ArchiveError(ValueError):
    """The file is no image archive, or a damaged one; says what about which part."""


@dataclass(frozen=True, slots=True)
class Found:
    """One image of an archive: its names, the digest of its manifest, its config document and its layers."""

    names: tuple[str, ...]
    digest: str
    config: dict[str, Any]
    layers: tuple[LayerBlob, ...]


@dataclass(frozen=True, slots=True)
class LayerBlob:
    """Where a layer is in the archive, and the digests of it as stored ("" when not told) and uncompressed."""

    member: str
    digest: str
    diff_id: str


class Archive:
    """An opened archive. Everything read is compared with its digest."""

    def __init__(self, path: Path) -> None:
        """Raises ArchiveError when the file is no tar."""
        try:
            self._tar = tarfile.open(path, "r:*")  # noqa: SIM115  # closed by `close`
            self._members = {member.name.removeprefix("./"): member for member in self._tar}
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise ArchiveError(f"not a tar archive: {error}") from error

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()

    def images(self) -> list[Found]:
        """Return the images for this machine's kind of processor."""
        if "index.json" in self._members:
            return self._oci()
        if "manifest.json" in self._members:
            return [self._docker(entry) for entry in self._list("manifest.json")]
        raise ArchiveError("neither index.json nor manifest.json is in it: neither an OCI layout nor a `docker save`")

    def layer(self, blob: LayerBlob) -> Reader:
        """Open a layer for reading, uncompressed; close it with `verified` to know that it was whole."""
        return Reader(self._open(blob.member), blob)

    def _oci(self) -> list[Found]:
        tags = self._tags_by_config()
        found = []
        for descriptor in self._manifests(self._object("index.json"), depth=0):
            manifest = self._blob(descriptor)
            config = self._blob(manifest["config"])
            annotations = descriptor.get("annotations") or {}
            names = tuple(dict.fromkeys(annotations[key] for key in _NAMES if _is_name(annotations.get(key))))
            names = tuple(tags.get(manifest["config"]["digest"], ())) or names
            found.append(Found(names, descriptor["digest"], config, _layers(manifest, config)))
        return found

    def _manifests(self, index: Mapping[str, Any], *, depth: int) -> Iterator[dict[str, Any]]:
        """Yield the descriptors of the manifests for this machine, through nested indexes."""
        for descriptor in index.get("manifests") or ():
            if "index" in descriptor.get("mediaType", "") or "manifest.list" in descriptor.get("mediaType", ""):
                if depth < 3:
                    for inner in self._manifests(self._blob(descriptor), depth=depth + 1):
                        outer = descriptor.get("annotations") or {}
                        yield {**inner, "annotations": {**outer, **(inner.get("annotations") or {})}}
            elif _fits(descriptor.get("platform")):
                yield descriptor

    def _tags_by_config(self) -> dict[str, list[str]]:
        """Newer `docker save` writes both layouts, and whole names only in manifest.json."""
        if "manifest.json" not in self._members:
            return {}
        entries = self._list("manifest.json")
        return {f"sha256:{Path(entry['Config']).stem}": list(entry.get("RepoTags") or ()) for entry in entries}

    def _docker(self, entry: Mapping[str, Any]) -> Found:
        raw = self._read(entry["Config"])
        config = _decoded(raw, entry["Config"])
        diff_ids = config.get("rootfs", {}).get("diff_ids") or []
        members = entry.get("Layers") or []
        if len(members) != len(diff_ids):
            raise ArchiveError(f"{entry['Config']} tells {len(diff_ids)} layers, manifest.json {len(members)}")
        layers = tuple(LayerBlob(member, "", diff_id) for member, diff_id in zip(members, diff_ids, strict=True))
        digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
        return Found(tuple(entry.get("RepoTags") or ()), digest, config, layers)

    def _blob(self, descriptor: Mapping[str, Any]) -> dict[str, Any]:
        digest = str(descriptor.get("digest"))
        raw = self._read(_blob_path(digest))
        if f"sha256:{hashlib.sha256(raw).hexdigest()}" != digest:
            raise ArchiveError(f"blob {digest} is damaged: its content has another digest")
        return _decoded(raw, digest)

    def _object(self, name: str) -> dict[str, Any]:
        return _decoded(self._read(name), name)

    def _list(self, name: str) -> list[dict[str, Any]]:
        content = _json(self._read(name), name)
        if not isinstance(content, list):
            raise ArchiveError(f"{name} is not a list")
        return content

    def _read(self, name: str) -> bytes:
        if name in self._members and self._members[name].size > _DOCUMENT_MOST:
            raise ArchiveError(f"{name} is too long for a document")
        with self._open(name) as file:
            return file.read()

    def _open(self, name: str) -> IO[bytes]:
        member = self._members.get(name)
        try:
            file = self._tar.extractfile(member) if member else None
        except KeyError:
            file = None
        if file is None:
            raise ArchiveError(f"{name} is missing")
        return file


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class Reader:
    """A layer's uncompressed bytes; it reckons both digests while it is read."""

    def __init__(self, raw: IO[bytes], blob: LayerBlob) -> None:
        self._blob = blob
        self._stored = _Tee(raw)
        start = self._stored.peek(4)
        if start.startswith(_ZSTD):
            raise ArchiveError(f"layer {blob.member} is compressed with zstd; save the image with gzip layers")
        plain = gzip.GzipFile(fileobj=cast(IO[bytes], self._stored)) if start.startswith(_GZIP) else self._stored
        self._plain = _Tee(plain)

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        return self._plain.read(size)

    def verify(self) -> None:
        """Read to the end; raise ArchiveError when a digest is not the one told."""
        while self._plain.read(1 << 20):
            continue
        while self._stored.read(1 << 20):
            continue
        for told, tee in ((self._blob.digest, self._stored), (self._blob.diff_id, self._plain)):
            if told and told != f"sha256:{tee.hash.hexdigest()}":
                raise ArchiveError(f"layer {self._blob.member} is damaged: it is not {told}")


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class _Tee:
    """Hashes what passes through."""

    def __init__(self, source: _Readable) -> None:
        self.hash: _Hash = hashlib.sha256()
        self._source = source
        self._ahead = b""

    def peek(self, size: int) -> bytes:
        self._ahead = self._source.read(size)
        return self._ahead

    def read(self, size: int = -1) -> bytes:
        if self._ahead:
            data, self._ahead = (self._ahead, b"") if size < 0 else (self._ahead[:size], self._ahead[size:])
            data += self._source.read(size) if size < 0 else b""
        else:
            data = self._source.read(size)
        self.hash.update(data)
        return data


def _layers(manifest: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[LayerBlob, ...]:
    diff_ids = config.get("rootfs", {}).get("diff_ids") or []
    descriptors = manifest.get("layers") or []
    if len(descriptors) != len(diff_ids):
        raise ArchiveError(f"the config tells {len(diff_ids)} layers, the manifest {len(descriptors)}")
    return tuple(
        LayerBlob(_blob_path(descriptor["digest"]), descriptor["digest"], diff_id)
        for descriptor, diff_id in zip(descriptors, diff_ids, strict=True)
    )


def _fits(wanted: Mapping[str, Any] | None) -> bool:
    if not wanted or wanted.get("os") == "unknown":
        return not wanted  # "unknown" marks attestations, which are no images.
    machine = platform.machine()
    return wanted.get("os") == "linux" and wanted.get("architecture") == _ARCHITECTURES.get(machine, machine)


def _is_name(text: object) -> bool:
    """Whether an annotation is a name; a bare tag, as some tools write, is none."""
    return isinstance(text, str) and ("/" in text or ":" in text)


def _blob_path(digest: str) -> str:
    algorithm, _, hexadecimal = digest.partition(":")
    if algorithm != "sha256" or len(hexadecimal) != 64 or not hexadecimal.isalnum():
        raise ArchiveError(f"digest {digest!r} is not sha256: and 64 hex digits")
    return f"blobs/sha256/{hexadecimal}"


def _decoded(raw: bytes, name: str) -> dict[str, Any]:
    content = _json(raw, name)
    if not isinstance(content, dict):
        raise ArchiveError(f"{name} is not an object")
    return content


def _json(raw: bytes, name: str) -> Any:
    try:
        return json.loads(raw)
    except ValueError as error:
        raise ArchiveError(f"{name} is not JSON: {error}") from error
