"""Give each container its own root file system: the image's layers below, a folder of its own above."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from netplane.agent.runtime.embedded import mounts, users
from netplane.agent.runtime.embedded.users import User
from netplane.agent.runtime.protocol import RuntimeFailure, Security
from netplane.kernel.errors import KernelError


def make(target: Path, layers: Sequence[Path], own: Path) -> None:
    """Mount the layers at `target`; what the container writes goes below `own`. Raises RuntimeFailure."""
    upper, work = own / "upper", own / "work"
    for folder in (target, upper, work):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        mounts.overlay(target, layers, upper, work)
    except KernelError as error:
        raise RuntimeFailure(f"cannot make the root file system: {error}") from error


def remove_if_present(target: Path) -> None:
    """Unmount a root file system; what was written stays."""
    mounts.unmount_if_present(target)
    shutil.rmtree(target, ignore_errors=True)


def user_of(rootfs: Path, image_user: str, security: Security) -> User:
    """Return who the container's program runs as. Raises RuntimeFailure when the image does not know the name."""
    passwd, group = _inside(rootfs, "etc/passwd"), _inside(rootfs, "etc/group")
    wanted = image_user
    if security.user is not None:
        wanted = str(security.user)
    try:
        user = users.resolve(wanted, passwd, group)
    except users.NoSuchUser as error:
        raise RuntimeFailure(str(error)) from error
    if security.group is not None:
        user = User(user.uid, security.group, user.groups, user.home)
    return user


def _inside(rootfs: Path, name: str) -> str:
    # An image may make it a link that leads out; then it has no say.
    path = rootfs / name
    try:
        if path.resolve().is_relative_to(rootfs.resolve()):
            return path.read_text(errors="replace")
    except OSError:
        pass
    return ""
