"""Keep BIRD running with the configuration that plan/bgp writes."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from netplane.kernel import bird
from netplane.kernel.errors import KernelError
from netplane.lib import log
from netplane.lib.cli import UserError
from netplane.lib.clock import Clock
from netplane.model import address
from netplane.model.node import Node
from netplane_cni.plan import bgp
from netplane_cni.plan.fabric import Underlay

CONFIG, CONTROL = "bird.conf", "bird.ctl"
PAUSE = 1.0


class Bgp:
    """The BIRD of this node. It goes on without us, and is taken over by who comes next."""

    def __init__(self, folder: Path, settings: bgp.Settings, inside: Sequence[address.Prefix]) -> None:
        self._config, self._control = folder / CONFIG, folder / CONTROL
        self._settings = settings
        self._inside = tuple(inside)
        self._loaded = ""
        self._log = log.get("cni")

    async def bring(self, nodes: Mapping[str, Node], me: Node, underlay: Underlay) -> int:
        """Return once BIRD runs with what the nodes want, and how many changes that took (0 or 1)."""
        want = bgp.text(nodes, me, underlay=underlay, settings=self._settings, inside=self._inside)
        found = await bird.connect(self._control)
        if found is None:
            bird.find()
            _write(self._config, want)
            await bird.start(self._config, self._control)
            self._loaded = want
            self._log.info("BIRD started", control=str(self._control))
            return 1
        with contextlib.closing(found):
            if want == self._loaded:
                return 0
            _write(self._config, want)
            await found.ask("configure")
            self._loaded = want
            return 1

    async def watching(self, gone: Callable[[], None], clock: Clock) -> None:
        """Call `gone` whenever BIRD has ended, for ever."""
        while True:
            found = await bird.connect(self._control)
            if found is not None:
                with contextlib.closing(found):
                    await found.ended()
                self._log.warning("BIRD has ended, and is started again")
                gone()
            await clock.sleep(PAUSE)

    async def sessions(self) -> dict[str, str]:
        """Return the state of the sessions by their names, as BIRD tells it."""
        found = await bird.connect(self._control)
        if found is None:
            return {}
        with contextlib.closing(found):
            rows = [line.split() for line in await found.ask("show protocols")]
        return {row[0]: row[5] if len(row) > 5 else row[3] for row in rows if len(row) > 3 and row[1] == "BGP"}


async def end(folder: Path) -> bool:
    """Let BIRD take its routes away and end; tell whether one ran."""
    found = await bird.connect(folder / CONTROL)
    if found is None:
        return False
    with contextlib.closing(found):
        _write(folder / CONFIG, bgp.silence(None))
        with contextlib.suppress(KernelError):
            await found.ask("configure")
            await found.ask("down")
            await found.ended()
    return True


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(content)
        os.replace(file.name, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
