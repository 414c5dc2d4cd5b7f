"""Keep container logs from filling the disk: a large one is renamed and begun anew, the oldest are deleted."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Never

from netplane.agent.runtime.protocol import Runtime, RuntimeFailure
from netplane.lib import log
from netplane.lib.clock import Clock

LARGEST = 10 << 20
KEPT = 5
EVERY = 10.0

_log = log.get("agent")


async def run(runtime: Runtime, clock: Clock, *, largest: int = LARGEST, kept: int = KEPT) -> Never:
    """Look at every running container's log until cancelled; `kept` counts the log being written as well.

    A log that cannot be begun anew, as its runtime is away or the container has just ended, keeps its name and is
    tried again the next time.
    """
    while True:
        await clock.sleep(EVERY)
        for status in runtime.containers():
            if status.state != "running":
                continue
            try:
                await _rotate(runtime, status.id, largest, clock.now().strftime("%Y%m%d-%H%M%S"), kept)
            except KeyError:
                pass  # Removed since it was listed.
            except (RuntimeFailure, OSError) as error:
                _log.warning("log not rotated", container=status.name, error=str(error))


async def _rotate(runtime: Runtime, container_id: str, largest: int, stamp: str, kept: int) -> None:
    path = runtime.log_file(container_id)
    aside = path.with_name(f"{path.name}.{stamp}")
    if not await asyncio.to_thread(_rename_if_large, path, largest, aside):
        return
    try:
        await runtime.reopen_log(container_id)
    except BaseException:  # Whoever writes it goes on writing it, and it must be found under its name.
        with contextlib.suppress(FileNotFoundError):
            aside.rename(path)
        raise
    await asyncio.to_thread(_delete_oldest, path, kept)


def _rename_if_large(path: Path, largest: int, aside: Path) -> bool:
    try:
        if path.stat().st_size < largest:
            return False
        path.rename(aside)
    except FileNotFoundError:
        return False
    return True


def _delete_oldest(path: Path, kept: int) -> None:
    old = sorted(path.parent.glob(f"{path.name}.*"))
    for one in old[: max(len(old) - (kept - 1), 0)]:
        one.unlink(missing_ok=True)
