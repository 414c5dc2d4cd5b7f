"""Make small image archives, whole or spoilt: OCI layouts and what `docker save` writes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Member = tuple[tarfile.TarInfo, bytes]


def file(name: str, content: bytes = b"x", *, mode: int = 0o644) -> Member:
    """A file of a layer."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), mode
    return member, content


def special(name: str, kind: bytes, target: str = "") -> Member:
    """A folder, link or device of a layer."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = kind, target, 0o755
    return member, b""


def layer(*members: Member) -> bytes:
    """An uncompressed layer."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def sha(content: bytes) -> str:
    """The digest of a blob."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def config(layers: Sequence[bytes]) -> dict[str, Any]:
    """The config document of an image of these layers."""
    return {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/hello"], "Env": ["A=1"]},
        "rootfs": {"type": "layers", "diff_ids": [sha(content) for content in layers]},
    }


def oci(
    path: Path,
    *layers: bytes,
    name: str = "example.com/hello:1",
    spoil: Callable[[dict[str, bytes]], None] = lambda blobs: None,
    architecture: str = "",
) -> Path:
    """Write an OCI layout with gzipped layers; `spoil` may change its members before they are written."""
    packed = [gzip.compress(content, mtime=0) for content in layers]
    document = json.dumps(config(layers)).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "config": {"digest": sha(document), "size": len(document)},
            "layers": [{"digest": sha(content), "size": len(content)} for content in packed],
        }
    ).encode()
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    descriptor: dict[str, Any] = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": sha(manifest),
        "platform": {"os": "linux", "architecture": architecture or machine},
    }
    if name:
        descriptor["annotations"] = {"org.opencontainers.image.ref.name": name}
    members = {f"blobs/sha256/{sha(blob)[7:]}": blob for blob in (document, manifest, *packed)}
    members |= {"oci-layout": b"{}", "index.json": json.dumps({"manifests": [descriptor]}).encode()}
    spoil(members)
    return _write(path, members)


def docker(path: Path, *layers: bytes, tags: Sequence[str] = ("hello:1",)) -> Path:
    """Write what `docker save` wrote before it knew OCI."""
    document = json.dumps(config(layers)).encode()
    members = {f"{number}/layer.tar": content for number, content in enumerate(layers)}
    entry = {"Config": f"{sha(document)[7:]}.json", "RepoTags": list(tags), "Layers": list(members)}
    members |= {f"{sha(document)[7:]}.json": document, "manifest.json": json.dumps([entry]).encode()}
    return _write(path, members)


def _write(path: Path, members: dict[str, bytes]) -> Path:
    path.write_bytes(layer(*(file(name, content) for name, content in members.items())))
    return path
