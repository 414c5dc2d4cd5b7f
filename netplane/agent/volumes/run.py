"""Make a pod's volumes on the node, keep those that show objects up to date, and take all away in the end."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from netplane.agent.pods.environment import Reference
from netplane.agent.pods.fields import Surroundings
from netplane.agent.pods.spec import Pod
from netplane.agent.runtime.embedded import mounts
from netplane.agent.volumes import atomic, content
from netplane.agent.volumes.content import Sources, Token, VolumeError
from netplane.kernel.errors import KernelError
from netplane.kube import errors, quantity
from netplane.kube.types import Object


class Objects(Protocol):
    """Where ConfigMaps, Secrets and tokens come from."""

    async def get(self, pod: Pod, reference: Reference) -> Object | None:
        """Return the object of the pod's namespace, None when there is none. Raises errors.ApiError."""
        ...

    async def token(self, pod: Pod, wanted: Token) -> str:
        """Return a token of the pod's service account, renewed in time. Raises errors.ApiError."""
        ...


@dataclass(slots=True)
class Volumes:
    """The volumes of all pods, below one folder: `<folder>/<uid>/volumes/<name>`."""

    folder: Path
    objects: Objects
    _known: dict[str, dict[str, Path]] = field(default_factory=dict)

    def paths(self, uid: str) -> Mapping[str, Path]:
        """Return where the pod's volumes are, by name."""
        return self._known.get(uid, {})

    async def prepare(self, pod: Pod, around: Surroundings) -> None:
        """Make every volume of the pod, or bring it up to date. Raises VolumeError naming the first that fails."""
        paths: dict[str, Path] = {}
        for volume in pod.spec.get("volumes") or ():
            try:
                paths[volume["name"]] = await self._prepare_one(pod, volume, around)
            except (VolumeError, KernelError, OSError, errors.ApiError) as error:
                raise VolumeError(f'MountVolume.SetUp failed for volume "{volume["name"]}" : {error}') from error
        self._known[pod.uid] = paths

    async def refresh(self, pod: Pod, around: Surroundings) -> None:
        """Bring the files of objects and tokens up to date; what fails stays as it was. Raises VolumeError."""
        for volume in pod.spec.get("volumes") or ():
            if volume["name"] in self.paths(pod.uid) and content.is_shown(volume):
                try:
                    await self._prepare_one(pod, volume, around)
                except (OSError, errors.ApiError) as error:
                    raise VolumeError(f"{volume['name']}: {error}") from error

    async def release(self, uid: str) -> None:
        """Take the pod's mounts away and delete what its volumes held."""
        await asyncio.to_thread(self._release, uid)
        self._known.pop(uid, None)

    def _release(self, uid: str) -> None:
        folder = self.folder / uid / "volumes"
        for point in mounts.points_below(folder):
            mounts.unmount_if_present(point)
        shutil.rmtree(folder, ignore_errors=True)

    async def _prepare_one(self, pod: Pod, volume: Mapping[str, Any], around: Surroundings) -> Path:
        path: Path = self.folder / pod.uid / "volumes" / str(volume["name"])
        group = (pod.spec.get("securityContext") or {}).get("fsGroup")
        if "hostPath" in volume:
            source: Mapping[str, Any] = volume["hostPath"]
            return await asyncio.to_thread(_host_path, source)
        if "emptyDir" in volume:
            await asyncio.to_thread(_empty_dir, path, volume["emptyDir"] or {}, group)
            return path
        if content.is_shown(volume):
            sources = await self._sources(pod, volume, around)
            files = content.files(pod, volume, sources)
            await asyncio.to_thread(_show, path, files, group, content.holds_secrets(volume))
            return path
        kind = next((key for key in volume if key != "name"), "none")
        raise VolumeError(f"volumes of kind {kind} are not supported by this node")

    async def _sources(self, pod: Pod, volume: Mapping[str, Any], around: Surroundings) -> Sources:
        objects = {reference: await self.objects.get(pod, reference) for reference in content.references(volume)}
        tokens = {wanted: await self.objects.token(pod, wanted) for wanted in content.tokens(volume)}
        return Sources(objects, tokens, around)


def within(volume: Path, sub_path: str) -> Path:
    """Return the place of a subPath, made as a folder if it is not there. Raises VolumeError when it leads out."""
    place = (volume / sub_path).resolve()
    if Path(sub_path).is_absolute() or not place.is_relative_to(volume.resolve()):
        raise VolumeError(f"subPath {sub_path!r} leads out of its volume")
    if not place.exists():
        place.mkdir(parents=True)
        place.chmod(0o777)
    return place


def _empty_dir(path: Path, source: Mapping[str, Any], group: int | None) -> None:
    if path.exists():
        return
    path.mkdir(parents=True)
    if source.get("medium") == "Memory":
        mounts.tmpfs(path, size=int(quantity.parse(source.get("sizeLimit") or 0)), mode=0o777)
    path.chmod(0o777)
    if group is not None:
        os.chown(path, -1, group)
        path.chmod(0o2777)


def _show(path: Path, files: Mapping[str, content.File], group: int | None, in_memory: bool) -> None:
    if not path.exists():
        path.mkdir(parents=True)
        if in_memory:
            mounts.tmpfs(path, mode=0o755)
    atomic.write(path, files, group=group)


def _host_path(source: Mapping[str, Any]) -> Path:
    path, kind = Path(source["path"]), source.get("type") or ""
    if kind == "DirectoryOrCreate" and not path.exists():
        path.mkdir(parents=True, mode=0o755)
    if kind == "FileOrCreate" and not path.exists():
        path.touch(0o644)
    wanted = {
        "Directory": (stat.S_ISDIR, "directory"),
        "DirectoryOrCreate": (stat.S_ISDIR, "directory"),
        "File": (stat.S_ISREG, "file"),
        "FileOrCreate": (stat.S_ISREG, "file"),
        "Socket": (stat.S_ISSOCK, "socket"),
        "CharDevice": (stat.S_ISCHR, "character device"),
        "BlockDevice": (stat.S_ISBLK, "block device"),
    }
    if kind in wanted:
        is_kind, word = wanted[kind]
        if not path.exists() or not is_kind(path.stat().st_mode):
            raise VolumeError(f"hostPath type check failed: {path} is not a {word}")
    elif not kind and not path.exists():
        path.mkdir(parents=True, mode=0o755)
    return path
