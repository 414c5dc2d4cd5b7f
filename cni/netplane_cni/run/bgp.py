"""Keep BIRD running with the configuration that plan/bgp writes."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Sequence
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

CONFIG, NEXT, CONTROL = "bird.conf", "bird.conf.next", "bird.ctl"
PAUSE = 1.0


class Bgp:
    """The BIRD of this node. It goes on without us, and is taken over by who comes next.

    The configuration's file holds what BIRD was told. What it is about to be told is another file until it has taken
    it, so that who comes next knows whether there is anything to tell.
    """

    def __init__(self, folder: Path, settings: bgp.Settings, inside: Sequence[address.Prefix]) -> None:
        self._config, self._next, self._control = folder / CONFIG, folder / NEXT, folder / CONTROL
        self._settings = settings
        self._inside = tuple(inside)
        self._told = ""
        self._log = log.get("cni")

    async def bring(self, me: Node, underlay: Underlay) -> int:
        """Return once BIRD runs with what this node and its routers want, and how many changes that took (0 or 1)."""
        want = bgp.text(me, underlay=underlay, settings=self._settings, inside=self._inside)
        if want == self._told:
            return 0
        found = await bird.connect(self._control)
        if found is None:
            await self._start(want)
            return 1
        with contextlib.closing(found):
            if not self._told and want == self._held():
                self._told = want
                return 0
            await self._tell(found, want)
            return 1

    async def watching(self, gone: Callable[[], None], clock: Clock) -> None:
        """Call `gone` whenever BIRD has ended, for ever."""
        while True:
            was_told = bool(self._told)
            with contextlib.suppress(KernelError):  # It runs, and has no time for us.
                found = await bird.connect(self._control)
                if found is not None:
                    with contextlib.closing(found):
                        await found.ended()
                    was_told = bool(self._told)
                if was_told:
                    self._told = ""
                    self._log.warning("BIRD has ended, and is started again")
                    gone()
            await clock.sleep(PAUSE)

    async def _start(self, want: str) -> None:
        bird.find()
        self._told = ""
        self._next.unlink(missing_ok=True)
        _write(self._config, want)
        await bird.start(self._config, self._control)
        self._told = want
        self._log.info("BIRD started", control=str(self._control))

    async def _tell(self, found: bird.Control, want: str) -> None:
        self._told = ""  # Until it has answered, nobody knows.
        _write(self._next, want)
        await found.ask(f'configure "{self._next}"')
        os.replace(self._next, self._config)
        self._told = want

    def _held(self) -> str:
        """Return what the BIRD of a daemon before us holds; "" where that one ended while it told it something."""
        try:
            return "" if self._next.exists() else self._config.read_text()
        except OSError:
            return ""


async def end(folder: Path) -> bool:
    """Let BIRD take its routes away and end; tell whether one did."""
    try:
        found = await bird.connect(folder / CONTROL)
    except KernelError as error:
        log.get("cni").warning("BIRD was not told to end", why=str(error))
        return False
    if found is None:
        return False
    with contextlib.closing(found):
        (folder / NEXT).unlink(missing_ok=True)
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
