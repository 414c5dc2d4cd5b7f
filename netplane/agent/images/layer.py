"""Unpack one layer of an image to a folder that overlayfs can stand on (OCI image-spec, layer.md).

Whiteouts become what overlayfs means by them: `.wh.x` a character device 0/0 named x, `.wh..wh..opq` an attribute of
its folder (kernel documentation, overlayfs). A layer that reaches outside its folder is refused whole.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_ATTRIBUTE = "SCHILY.xattr."
_KEPT_ATTRIBUTES = ("security.capability", "user.")


class LayerError(ValueError):
    """The layer cannot be unpacked; says which of its members and why."""


def unpack(archive: tarfile.TarFile, target: Path) -> int:
    """Unpack into `target`, an empty folder; return the bytes of its files. Owners and modes are kept."""
    total = 0
    folders: list[tuple[Path, tarfile.TarInfo]] = []
    for member in archive:
        path = _inside(target, member)
        if path is None:
            _apply(target, member)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name == _OPAQUE:
            _set_opaque(path.parent)
        elif path.name.startswith(_WHITEOUT):
            _white_out(path.with_name(path.name.removeprefix(_WHITEOUT)), member)
        else:
            total += _make(archive, member, path, target)
            if member.isdir():
                folders.append((path, member))
    for path, member in reversed(folders):  # Filling a folder changed its time.
        os.utime(path, (member.mtime, member.mtime))
    return total


def _inside(target: Path, member: tarfile.TarInfo) -> Path | None:
    """Return where the member goes, None for the root itself; refuse `..`, and ways through links."""
    parts = [part for part in member.name.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in member.name:
        raise LayerError(f"{member.name!r} reaches outside the layer")
    if not parts:
        return None
    folder = target
    for part in parts[:-1]:
        folder = folder / part
        if folder.is_symlink():
            raise LayerError(f"{member.name!r} goes through the link {part!r}")
    return folder / parts[-1]


def _make(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path, target: Path) -> int:
    if path.is_symlink() or (path.exists() and not (path.is_dir() and member.isdir())):
        _remove(path, member)
    size = 0
    if member.isdir():
        path.mkdir(exist_ok=True)
    elif member.issym():
        path.symlink_to(member.linkname)
    elif member.islnk():
        _link(member, path, target)
        return 0
    elif member.isfile():
        size = _write(archive, member, path)
    elif member.isfifo():
        os.mkfifo(path)
    else:
        return 0  # Devices are the runtime's to give.
    _apply(path, member)
    return size


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> int:
    source = archive.extractfile(member)
    if source is None:
        raise LayerError(f"{member.name!r} has no content")
    with path.open("xb") as file:
        while piece := source.read(1 << 20):
            file.write(piece)
    return member.size


def _link(member: tarfile.TarInfo, path: Path, target: Path) -> None:
    aim = tarfile.TarInfo(member.linkname)
    source = _inside(target, aim)
    if source is None or not source.exists() or source.is_symlink() or not source.is_file():
        raise LayerError(f"{member.name!r} is a link to {member.linkname!r}, which is no file of this layer")
    os.link(source, path)


def _remove(path: Path, member: tarfile.TarInfo) -> None:
    if path.is_dir() and not path.is_symlink():
        try:
            path.rmdir()
        except OSError as error:
            raise LayerError(f"{member.name!r} would replace a folder that is not empty") from error
    else:
        path.unlink()


def _apply(path: Path, member: tarfile.TarInfo) -> None:
    """Give a file owner, mode, attributes and time."""
    with _needing_root(f"own {member.name!r}"):
        os.chown(path, member.uid, member.gid, follow_symlinks=False)
    if not path.is_symlink():
        path.chmod(stat.S_IMODE(member.mode))
    for name, value in member.pax_headers.items():
        attribute = name.removeprefix(_ATTRIBUTE)
        if attribute != name and attribute.startswith(_KEPT_ATTRIBUTES):
            with contextlib.suppress(OSError):  # Not every file system has them; the program says what it lacks.
                os.setxattr(path, attribute, value.encode("utf-8", "surrogateescape"), follow_symlinks=False)
    os.utime(path, (member.mtime, member.mtime), follow_symlinks=False)


def _white_out(path: Path, member: tarfile.TarInfo) -> None:
    if path.name in ("", ".", ".."):
        raise LayerError(f"{member.name!r} whites out nothing")
    if path.is_symlink() or path.exists():
        return  # The same layer brings it anew, which wins.
    with _needing_root(f"white out {path.name!r}"):
        os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))


def _set_opaque(folder: Path) -> None:
    with _needing_root(f"make {folder.name!r} opaque"):
        os.setxattr(folder, "trusted.overlay.opaque", b"y")


@contextlib.contextmanager
def _needing_root(what: str) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise LayerError(f"cannot {what}: {os.strerror(errno.EPERM)}; unpacking images needs root") from error
