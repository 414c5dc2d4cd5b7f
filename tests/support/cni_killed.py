"""The CNI daemon, which ends itself (SIGKILL) at any wanted step: what changes the kernel or the disk is a step.

`main` is for tests.support.cni_nursery. A file `steps` in the folder, once it is there, tells after how many steps; it
is read at the first of them and taken away.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from netplane.kernel import conntrack
from netplane.kernel.conntrack import Flow
from netplane.kernel.link import run as link
from netplane.kernel.link.objects import Command as LinkCommand
from netplane.kernel.nft import run as nft
from netplane.kernel.nft.objects import Batch
from netplane.kernel.xtables.objects import Command
from netplane.kernel.xtables.restore import Restorer
from netplane.lib import clock
from netplane_cni.plan import fabric
from netplane_cni.run import legacy
from netplane_cni.run.daemon import Daemon
from netplane_cni.run.leases import Journal
from netplane_cni.run.settings import Means, Settings
from netplane_cni.run.translation import Body


class Steps:
    """Counts steps, and ends the process before the one that is one too many."""

    def __init__(self) -> None:
        self.wanted = Path("/nowhere")
        self._left = -1
        self._lock = threading.Lock()

    def step(self) -> None:
        with self._lock:
            if self.wanted.exists():
                self._left = int(self.wanted.read_text())
                self.wanted.unlink()
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            if self._left > 0:
                self._left -= 1


STEPS = Steps()


class Links(link.Socket):
    def commit(self, commands: Sequence[LinkCommand]) -> None:
        # One after the other: between any two of them may be the end.
        for command in commands:
            STEPS.step()
            super().commit([command])

    def commit_and_look(self, commands: Sequence[LinkCommand], name: str) -> tuple[int, int]:
        self.commit(commands)
        return super().commit_and_look([], name)


class Rules(nft.Socket):
    def commit(self, batch: Batch) -> None:
        STEPS.step()
        super().commit(batch)

    async def load(self, text: str) -> None:
        STEPS.step()
        await super().load(text)


class Tables(Restorer):
    async def load(self, command: Command, text: str) -> None:
        STEPS.step()
        await super().load(command, text)


class Flows(conntrack.Socket):
    def delete(self, flows: Iterable[Flow]) -> int:
        STEPS.step()
        return super().delete(flows)


class Leases(Journal):
    def _write(self, data: bytes) -> None:
        STEPS.step()
        super()._write(data)
        STEPS.step()


class Mortal(Daemon):
    """The daemon; where its rules are iptables', changes of tables are steps, too."""

    def _opened_rules(self, means: Means) -> Body:
        if self._settings.rules == "iptables":
            return legacy.Legacy(Tables())
        return super()._opened_rules(means)


def main(folder: str, node: str, nodes_file: str, body: Literal["nftables", "iptables"]) -> None:
    """Run it until it ends itself."""
    STEPS.wanted = Path(folder) / "steps"
    asyncio.run(_run(Path(folder), node, Path(nodes_file), body))


async def _run(folder: Path, node: str, nodes_file: Path, body: Literal["nftables", "iptables"]) -> None:
    settings = Settings(
        node=node,
        fabric=fabric.Settings(),
        socket=str(folder / "run" / "cni.sock"),
        state_dir=folder / "state",
        conf_dir=folder / "conf",
        bin_dir=folder / "bin",
        cool_down=0.0,
        rules=body,
    )
    means = Means(Links, Rules, Flows, Leases)
    await Mortal(settings, api=None, nodes_file=nodes_file, clock=clock.SYSTEM, means=means).run()
