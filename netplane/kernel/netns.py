"""Make, enter and remove network namespaces (network_namespaces(7)). What is wired inside is link's.

A network namespace belongs to a thread, not to a process: whoever enters one does so on a thread of his own, or for
the length of one `with` block in which nothing else runs on that thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from netplane.kernel.errors import KernelError, from_os

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
NS_GET_NSTYPE = 0xB703  # ioctl_ns(2)
MS_BIND = 0x1000
MNT_DETACH = 2
OWN = "/proc/thread-self/ns/net"

# os.setns and os.unshare came with Python 3.12; Debian 12 has 3.11.
_libc = ctypes.CDLL(None, use_errno=True)


def create(path: str) -> None:
    """Make a network namespace and pin it at `path`, which must not exist; its folder is made if missing.

    Only the loopback device is in it, and that is down. After a failure nothing is left at `path`.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY | os.O_CLOEXEC, 0o444))
    except OSError as error:
        raise from_os(error, f"create network namespace {path}") from error
    try:
        _on_thread(lambda: _unshare_to(path))
    except BaseException:
        os.unlink(path)
        raise


def fresh() -> int:
    """Make a network namespace that is pinned nowhere, and return it as an open file: it ends with what holds it."""
    return _on_thread(_unshared)


def remove_if_present(path: str) -> None:
    """Unpin the namespace at `path`. It ends when no process and no open file holds it any more."""
    # As `ip netns delete` does: detach, for something may still look at it through the path.
    while _libc.umount2(os.fsencode(path), MNT_DETACH) == 0:
        continue
    number = ctypes.get_errno()
    if number not in (errno.EINVAL, errno.ENOENT):
        raise KernelError(number, f"remove network namespace {path}")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def exists(path: str) -> bool:
    """Tell whether a network namespace is pinned at `path`, and not the empty file that an unmount leaves."""
    try:
        with _opened(path) as fd:
            return fcntl.ioctl(fd, NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError:
        return False


def identity(place: str | int) -> int:
    """Return the inode number that the namespace has as long as it lives; a later one may get the same."""
    try:
        return os.stat(place).st_ino
    except OSError as error:
        raise from_os(error, f"look at network namespace {place}") from error


def is_at(path: str, identity_: int) -> bool:
    """Tell whether this namespace is still the one at the path; an empty path is none's."""
    try:
        return bool(path) and identity(path) == identity_
    except KernelError:
        return False


@contextlib.contextmanager
def inside(place: str | int, *, home: str | int = OWN) -> Iterator[None]:
    """Be in the namespace (a path or an open file) on this thread until the block ends, and then in `home`.

    Sockets keep the namespace they were made in, so a socket made in the block serves it for ever.
    """
    with _opened(home) as back, _opened(place) as fd:
        _enter(fd, place)
        try:
            yield
        finally:
            _enter(back, "its own")


def run_in(place: str | int, action: Callable[[], T]) -> T:
    """Run `action` to its end on a new thread that is in the namespace, and return what it returned or raised."""

    def enter_and_act() -> T:
        with _opened(place) as fd:
            _enter(fd, place)
        return action()

    return _on_thread(enter_and_act)


def _on_thread(action: Callable[[], T]) -> T:
    results: list[T] = []
    failures: list[BaseException] = []

    def act() -> None:
        try:
            results.append(action())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=act, name="netns", daemon=True)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def _unshare_to(path: str) -> None:
    if _libc.unshare(CLONE_NEWNET):
        raise KernelError(ctypes.get_errno(), f"create network namespace {path}")
    if _libc.mount(OWN.encode(), os.fsencode(path), None, MS_BIND, None):
        raise KernelError(ctypes.get_errno(), f"pin network namespace at {path}")


def _unshared() -> int:
    if _libc.unshare(CLONE_NEWNET):
        raise KernelError(ctypes.get_errno(), "create network namespace")
    return os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)


def _enter(fd: int, place: str | int) -> None:
    if _libc.setns(fd, CLONE_NEWNET):
        raise KernelError(ctypes.get_errno(), f"enter network namespace {place}")


@contextlib.contextmanager
def _opened(place: str | int) -> Iterator[int]:
    if isinstance(place, int):
        yield place
        return
    try:
        fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise from_os(error, f"open network namespace {place}") from error
    try:
        yield fd
    finally:
        os.close(fd)
