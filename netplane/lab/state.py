"""Keep a lab's spec on disk, and let one command at a time change a lab."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

from netplane.lab import spec as specs
from netplane.lab.spec import Folders, LabSpec
from netplane.lib.cli import UserError


def load(folders: Folders) -> LabSpec | None:
    """Return the saved spec, or None when there is no such lab."""
    try:
        return specs.from_json(json.loads(folders.spec_file.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folders.spec_file} is damaged ({error}): netplane lab down removes the lab") from error


def required(name: str) -> tuple[LabSpec, Folders]:
    """Return the saved spec of a lab that must exist."""
    folders = specs.folders(name)
    spec = load(folders)
    if spec is None:
        raise UserError(f"there is no lab {name!r}: netplane lab up makes one")
    return spec, folders


def save(spec: LabSpec, folders: Folders) -> None:
    """Replace the saved spec, whole or not at all."""
    folders.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = folders.spec_file.with_suffix(".new")
    fresh.write_text(json.dumps(specs.to_json(spec), indent=2) + "\n")
    os.replace(fresh, folders.spec_file)


def names() -> tuple[str, ...]:
    """Return the names of the labs that have state on this machine."""
    root = Path("/var/lib/netplane-lab")
    return tuple(sorted(p.parent.name for p in root.glob("*/spec.json")))


@contextlib.contextmanager
def locked(folders: Folders) -> Iterator[None]:
    """Hold the lab's lock; raise UserError when another command holds it. The lock's file goes with it."""
    path = folders.run.parent / f"{folders.run.name}.lock"
    descriptor = _lock(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)
        with contextlib.suppress(OSError):
            folders.run.parent.rmdir()


def _lock(path: Path) -> int:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # the last lab's end removed the folder in between
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except FileNotFoundError:
            pass  # its holder removed the file before we had the lock
        except BlockingIOError as error:
            os.close(descriptor)
            raise UserError(f"another command is changing the lab {path.stem!r}: wait for it to end") from error
        os.close(descriptor)
