"""Remember on disk what was last forwarded, for a boot while no API server answers. Its text is plan/record's."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path

import orjson

from netplane.lib import log
from netplane_proxy.plan import record
from netplane_proxy.plan.forwarding import Forwarding

_LOG = log.get("proxy")
_AT_ONCE, _REST = 20, 0.001
"""How many rows are put together in one go, a quarter of a millisecond, and the seconds left to others after each."""
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
        rows = []
        for row in record.rows(forwarding):
            rows.append(orjson.dumps(row))
            if len(rows) % _AT_ONCE == 0:
                await asyncio.sleep(_REST)
        try:
            await asyncio.to_thread(lambda: self._write(_whole(forwarding, rows)))
        except OSError as error:
            _LOG.warning("last known state not kept", path=self._path, reason=error)

    def keep_now(self, forwarding: Forwarding) -> None:
        """Write it down before the process ends."""
        try:
            self._write(_whole(forwarding, map(orjson.dumps, record.rows(forwarding))))
        except OSError as error:
            _LOG.warning("last known state not kept", path=self._path, reason=error)

    def forget(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)

    def _write(self, content: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_suffix(".new")
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)


def _whole(forwarding: Forwarding, rows: Iterable[bytes]) -> bytes:
    ports = list(map(orjson.Fragment, rows))
    return orjson.dumps({"boot": _boot(), "forwarding": {**record.head(forwarding), "ports": ports}})


def _boot() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
