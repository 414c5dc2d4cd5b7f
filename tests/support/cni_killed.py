"""The CNI daemon, which ends itself (SIGKILL) at any wanted step: what changes the kernel or the disk is a step.

`python -m tests.support.cni_killed FOLDER NODE NODES_FILE`. A file `steps` in the folder, once it is there, tells
after how many steps; it is read at the first of them and taken away.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from netplane.kernel import conntrack
from netplane.kernel.conntrack import Flow
from netplane.kernel.link import run as link
from netplane.kernel.link.objects import Command
from netplane.kernel.nft import run as nft
from netplane.kernel.nft.objects import Batch
from netplane.lib import clock
from netplane_cni.plan import fabric
from netplane_cni.run.daemon import Daemon, Means, Settings
from netplane_cni.run.leases import Journal


class Steps:
    """Counts steps, and ends the process before the one that is one too many."""

    def __init__(self, folder: Path) -> None:
        self._wanted, self._left = folder / "steps", -1
        self._lock = threading.Lock()

    def step(self) -> None:
        with self._lock:
            if self._wanted.exists():
                self._left = int(self._wanted.read_text())
                self._wanted.unlink()
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            if self._left > 0:
                self._left -= 1


STEPS = Steps(Path(sys.argv[1]))


class Links(link.Socket):
    def commit(self, commands: Sequence[Command]) -> None:
        # One after the other: between any two of them may be the end.
        for command in commands:
            STEPS.step()
            super().commit([command])

    def commit_and_look(self, commands: Sequence[Command], name: str) -> tuple[int, int]:
        self.commit(commands)
        return super().commit_and_look([], name)


class Rules(nft.Socket):
    def commit(self, batch: Batch) -> None:
        STEPS.step()
        super().commit(batch)

    async def load(self, text: str) -> None:
        STEPS.step()
        await super().load(text)


class Flows(conntrack.Socket):
    def delete(self, flows: Iterable[Flow]) -> int:
        STEPS.step()
        return super().delete(flows)


class Leases(Journal):
    def _write(self, data: bytes) -> None:
        STEPS.step()
        super()._write(data)
        STEPS.step()


async def main(folder: Path, node: str, nodes_file: Path) -> None:
    settings = Settings(
        node=node,
        fabric=fabric.Settings(),
        socket=str(folder / "run" / "cni.sock"),
        state_dir=folder / "state",
        conf_dir=folder / "conf",
        bin_dir=folder / "bin",
        cool_down=0.0,
    )
    means = Means(Links, Rules, Flows, Leases)
    await Daemon(settings, api=None, nodes_file=nodes_file, clock=clock.SYSTEM, means=means).run()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))
