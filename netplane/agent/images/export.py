"""Write an image of the node's store as an OCI archive, for other runtimes to import (OCI image-spec, image layout)."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from netplane.agent.images.store import Image


def export(image: Image, path: Path) -> Path:
    """Write the image; `ctr images import` and `podman load` take it."""
    layers = [_tar(folder) for folder in image.layers]
    packed = [gzip.compress(content, 1, mtime=0) for content in layers]
    document = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": image.config,
            "rootfs": {"type": "layers", "diff_ids": [_digest(content) for content in layers]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("config.v1+json", document),
            "layers": [_descriptor("layer.v1.tar+gzip", content) for content in packed],
        }
    ).encode()
    names = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
    listed = {**_descriptor("manifest.v1+json", manifest), "annotations": dict.fromkeys(names, image.reference)}
    members = {f"blobs/sha256/{_digest(blob)[7:]}": blob for blob in (document, manifest, *packed)}
    members["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    members["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [listed]}).encode()
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def _tar(folder: Path) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(folder, arcname=".")
    return packed.getvalue()


def _descriptor(kind: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": _digest(blob), "size": len(blob)}


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"
