"""Keep container logs from filling the disk: a large one is renamed and begun anew, the oldest are deleted."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Never

from netplane.agent.runtime.protocol import Runtime
from netplane.lib.clock import Clock

LARGEST = 10 << 20
KEPT = 5
EVERY = 10.0


async def run(runtime: Runtime, clock: Clock, *, largest: int = LARGEST, kept: int = KEPT) -> Never:
    """Look at every running container's log until cancelled; `kept` counts the log being written as well."""
    while True:
        await clock.sleep(EVERY)
        for status in runtime.containers():
            if status.state != "running":
                continue
            path = runtime.log_file(status.id)
            if await asyncio.to_thread(_rename_if_large, path, largest, clock.now().strftime("%Y%m%d-%H%M%S"), kept):
                await runtime.reopen_log(status.id)


def _rename_if_large(path: Path, largest: int, stamp: str, kept: int) -> bool:
    try:
        if path.stat().st_size < largest:
            return False
        path.rename(path.with_name(f"{path.name}.{stamp}"))
    except FileNotFoundError:
        return False
    old = sorted(path.parent.glob(f"{path.name}.*"))
    for one in old[: max(len(old) - (kept - 1), 0)]:
        one.unlink(missing_ok=True)
    return True
