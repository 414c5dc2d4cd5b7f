"""Write to a store on SQLite for ever and print each write once it was acknowledged: to be killed at any moment.

Run as `python store_writer.py FILE ROUND`. A line is `ACT NAME REVISION`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from netplane.controlplane.store import embedded
from tests.support.stores import PODS, index, pod


def say(act: str, name: str, revision: int) -> None:
    """Write one whole line at once: what a reader sees was acknowledged."""
    os.write(1, f"{act} {name} {revision}\n".encode())


async def work(store: embedded.Embedded, worker: str) -> None:
    """Create, update and delete, over and over."""
    number = 0
    while True:
        name, number = f"{worker}-{number}", number + 1
        made = await store.create(PODS, pod(name, text="x" * 500))
        say("put", name, made.revision)
        changed = await store.update(PODS, pod(name, text="y" * 500), expected=made.revision)
        say("put", name, changed.revision)
        if number % 3 == 0:
            gone = await store.delete(PODS, pod(name), expected=changed.revision)
            say("drop", name, gone.revision)


async def main() -> None:
    """Open the file and let eight write, with a log so short that it is compacted all the time."""
    embedded._LOG_ROWS = 200
    store = embedded.Embedded(Path(sys.argv[1]), index)
    await store.start()
    async with asyncio.TaskGroup() as group:
        for worker in range(8):
            group.create_task(work(store, f"r{sys.argv[2]}w{worker}"))


if __name__ == "__main__":
    asyncio.run(main())
