"""A process that writes to SQLite is killed at random moments, amid commits, checkpoints and compactions."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

from tests.support import store_writer, stores
from tests.support.stores import PODS

_ROUNDS = 8


def killed_after(path: Path, number: int, seconds: float) -> list[list[str]]:
    """Let a process write and kill it; return the lines of what it had acknowledged."""
    command = [sys.executable, str(store_writer.__file__), str(path), str(number)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(seconds)
        process.kill()
        lines = (first + process.stdout.read()).decode().splitlines(keepends=True)
    return [line.split() for line in lines if line.endswith("\n")]


async def test_no_acknowledged_write_is_lost_whenever_the_process_is_killed(tmp_path: Path) -> None:
    path, seed = tmp_path / "state.db", random.randrange(1 << 30)
    dice, standing, last = random.Random(seed), dict[str, int](), 0
    for number in range(_ROUNDS):
        acknowledged = killed_after(path, number, dice.uniform(0, 0.4))
        touched: dict[str, tuple[str, int]] = {}
        for act, name, revision in acknowledged:
            assert int(revision) > last, f"seed {seed}: a revision was given twice"
            touched[name] = (act, int(revision))
        async with stores.sqlite(path) as store:
            found = {record.key[1]: record.revision for record in store.cache(PODS).range()}
            for name, (act, at) in touched.items():
                # What was on its way when the process died may have been kept: then it stands at a later revision.
                is_lost = found[name] < at if name in found else act == "put" and not may_be_gone(name)
                assert not is_lost, f"seed {seed}: {act} {name} {at}"
                assert act == "put" or name not in found, f"seed {seed}: {name} is back"
            for name, at in standing.items():
                assert found.get(name) == at, f"seed {seed}: {name} of an earlier round"
            standing, last = found, store.revision


def may_be_gone(name: str) -> bool:
    """Whether the writer's next step with an object was to delete it: every third one."""
    return (int(name.rpartition("-")[2]) + 1) % 3 == 0
