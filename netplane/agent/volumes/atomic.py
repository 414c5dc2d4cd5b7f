"""Replace all files of a folder at once, so that a reader never sees a mixture (the kubelet's AtomicWriter).

The files lie in a folder `..<time>`; `..data` points to it, and each name the reader sees points through `..data`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from netplane.agent.volumes.content import File

DATA = "..data"


def write(folder: Path, files: Mapping[str, File], *, group: int | None = None) -> bool:
    """Make the folder hold just these files; tell whether anything had to change. Raises OSError.

    With `group` the files belong to it and it may read them, as the pod's fsGroup wants.
    """
    if _read(folder) == {name: file.content for name, file in files.items()}:
        return False
    fresh = Path(tempfile.mkdtemp(prefix="..", dir=folder))
    fresh.chmod(0o755)
    for name, file in files.items():
        _write_one(fresh / name, file, group)
    before = os.readlink(folder / DATA) if (folder / DATA).is_symlink() else ""
    os.symlink(fresh.name, folder / "..data_tmp")
    os.replace(folder / "..data_tmp", folder / DATA)
    _link(folder, {Path(name).parts[0] for name in files})
    if before:
        shutil.rmtree(folder / before, ignore_errors=True)
    return True


def _read(folder: Path) -> dict[str, bytes] | None:
    data = folder / DATA
    if not data.exists():
        return None
    return {str(path.relative_to(data)): path.read_bytes() for path in data.rglob("*") if path.is_file()}


def _write_one(path: Path, file: File, group: int | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.content)
    mode = file.mode
    if group is not None:
        os.chown(path, -1, group)
        mode |= 0o040
    path.chmod(mode)


def _link(folder: Path, names: set[str]) -> None:
    for name in names:
        if not (folder / name).is_symlink():
            os.symlink(f"{DATA}/{name}", folder / name)
    for path in folder.iterdir():
        if path.is_symlink() and not path.name.startswith("..") and path.name not in names:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
