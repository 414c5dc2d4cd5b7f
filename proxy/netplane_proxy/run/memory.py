"""Remember on disk what was last forwarded, for a boot while no API server answers. Its text is plan/record's."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Iterable
from pathlib import Path

import orjson

from netplane.lib import log
from netplane_proxy.plan import record
from netplane_proxy.plan.forwarding import Forwarding

_LOG = log.get("proxy")
_AT_ONCE, _REST = 20, 0.001
"""How many rows are put together in one go, a fifth of a millisecond, and the seconds left to others after each."""
_BUFFER = 1 << 16
_END = b"]}}"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Memory:
    """One file. The boot it was written in is noted: within the same boot the kernel itself knows better."""

    def __init__(self, path: Path) -> None:
        """Name the file; nothing is read or written yet."""
        self._path = path

    def recall(self) -> Forwarding | None:
        """Return what a former boot wrote; None when there is nothing, or when the kernel's rules are newer."""
        try:
            content = orjson.loads(self._path.read_bytes())
            if content["boot"] == _boot():
                return None
            return record.read(content["forwarding"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            _LOG.warning("last known state is unreadable", path=self._path, reason=error)
            return None

    async def keep(self, forwarding: Forwarding) -> None:
        """Write it down whole or not at all, without holding up others. A disk that refuses is reported, no more."""
        blocks, rows = [_beginning(forwarding)], record.rows(forwarding)
        while some := list(itertools.islice(rows, _AT_ONCE)):
            blocks.append(_block(some, is_first=len(blocks) == 1))
            await asyncio.sleep(_REST)
        try:
            await asyncio.to_thread(self._write, (*blocks, _END))
        except OSError as error:
            _LOG.warning("last known state not kept", path=self._path, reason=error)

    def keep_now(self, forwarding: Forwarding) -> None:
        """Write it down before the process ends."""
        try:
            rows = list(record.rows(forwarding))
            self._write((_beginning(forwarding), _block(rows, is_first=True), _END))
        except OSError as error:
            _LOG.warning("last known state not kept", path=self._path, reason=error)

    def forget(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)

    def _write(self, blocks: Iterable[bytes]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(".new")
        with draft.open("wb", buffering=_BUFFER) as file:
            file.writelines(blocks)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)


# The file is put together from blocks: to make it whole in one go would hold up everything for tens of milliseconds.


def _beginning(forwarding: Forwarding) -> bytes:
    head = orjson.dumps({"boot": _boot(), "forwarding": {**record.head(forwarding), "ports": []}})
    return head.removesuffix(_END)


def _block(rows: list[record.Json], *, is_first: bool) -> bytes:
    inside = orjson.dumps(rows)[1:-1]
    return inside if is_first else b"," + inside


def _boot() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
