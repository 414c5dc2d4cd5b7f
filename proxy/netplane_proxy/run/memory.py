"""Remember on disk what was last forwarded, for a boot while no API server answers. Its text is plan/record's."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import orjson

from netplane.lib import log
from netplane_proxy.plan import record
from netplane_proxy.plan.forwarding import Forwarding

_LOG = log.get("proxy")
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
        """Write it down whole or not at all. A disk that refuses is reported, no more."""
        content = orjson.dumps({"boot": _boot(), "forwarding": record.write(forwarding)})
        try:
            await asyncio.to_thread(self._write, content)
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


def _boot() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
