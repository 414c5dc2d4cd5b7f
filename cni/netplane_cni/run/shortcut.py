"""Lay the programs of plan/shortcut at the links that pods' packets take. Without them all works, slower."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence

from netplane.kernel import sysctl
from netplane.kernel.bpf import run as bpf
from netplane.kernel.errors import KernelError
from netplane.kernel.link import run as link
from netplane.lib import log
from netplane.lib.clock import Clock
from netplane_cni.plan import fabric, shortcut
from netplane_cni.run.worker import Worker

PAUSE = 2.0
"""Seconds after an ADD: plugins that come after ours have laid what is theirs by then, and short lives cost nothing."""


class Shortcut:
    """The short ways of this node. It works in the namespace in which it was made; `close` it at the end."""

    def __init__(self, clock: Clock, *, is_wanted: bool, open_links: Callable[[], link.Socket] = link.Socket) -> None:
        self._clock = clock
        self._is_wanted = is_wanted
        self._links = open_links()
        self._worker = Worker("shortcut")
        self._programs: tuple[int, int] | None = None
        self._is_settled = False
        self._between: set[int] = set()
        self._new: list[str] = []
        self._is_asked = asyncio.Event()
        self._log = log.get("cni")

    @property
    def state(self) -> str:
        """`on` when all links have the programs that shall, `pending` when some will, `off` without any."""
        if not self._is_wanted:
            return "off"
        return "on" if self._is_settled and not self._new else "pending"

    def close(self) -> None:
        """Wait for what is being done and let go. The programs stay."""
        self._worker.close()
        self._links.close()
        self._forget()

    def note(self, name: str) -> None:
        """Let a cable that was laid just now have the programs in a while."""
        if self._is_wanted:
            self._new.append(name)
            self._is_asked.set()

    async def laying(self) -> None:
        """For ever give the noted cables what they shall have."""
        while True:
            await self._is_asked.wait()
            await self._clock.sleep(PAUSE)
            self._is_asked.clear()
            count = len(self._new)
            try:
                await self._worker.do(lambda: self._lay_noted(self._new))
            except OSError as error:
                self._log.warning("cables stay without the short way", why=str(error))
            del self._new[:count]

    async def follow(self, underlay: int) -> None:
        """Return once the links between nodes have the programs; all cables at the first time.

        `underlay` is the node's own link where pods' packets leave by it as they are, else 0.
        """
        await self._worker.do(lambda: self._follow(underlay))

    def _follow(self, underlay: int) -> None:
        if self._is_settled:
            if self._programs is not None:
                there = filter(None, (self._links.link(which) for which in (fabric.DEVICE, underlay) if which))
                fresh = [index for index in shortcut.chosen(there, underlay) if index not in self._between]
                self._lay(fresh)
                self._between.update(fresh)
            return
        if not self._is_wanted:
            remove_all(self._links)
        elif self._is_able():
            self._lay(shortcut.chosen(self._links.links(), underlay))
        self._is_settled = True

    def _is_able(self) -> bool:
        """Load the programs; tell whether the kernel took them."""
        try:
            sysctl.ensure(*shortcut.TRACKING)
            self._programs = self._programs or loaded()
        except KernelError as error:
            self._is_wanted = False
            self._log.warning("no short ways between pods", why=str(error))
        return self._is_wanted

    def _lay_noted(self, names: Sequence[str]) -> None:
        there = filter(None, map(self._links.link, tuple(names)))
        self._lay(shortcut.chosen(there, 0))

    def _lay(self, indexes: Iterable[int]) -> None:
        for index in indexes:
            if self._programs is None:
                return
            try:
                self._links.commit(shortcut.lay(index, *self._programs))
            except KernelError as error:
                # It ended meanwhile, or has what another put there.
                self._log.info("a link goes without the short way", link=index, why=str(error))

    def _forget(self) -> None:
        for file in self._programs or ():
            os.close(file)
        self._programs = None


def remove_all(links: link.Socket) -> None:
    """Take the programs from all links."""
    for one in links.links():
        with contextlib.suppress(KernelError):  # it ended meanwhile
            links.commit(shortcut.undo(one.index, links.programs(one.index)))


def loaded() -> tuple[int, int]:
    """Return the programs as open files, with tables of their own, which live as long as the programs."""
    with contextlib.ExitStack() as stack:
        tables = {family: stack.enter_context(_table(family)) for family in shortcut.FAMILIES}
        arriving = bpf.load(shortcut.arriving(tables), f"{shortcut.NAME}_in")
        try:
            return arriving, bpf.load(shortcut.leaving(tables), f"{shortcut.NAME}_out")
        except KernelError:
            os.close(arriving)
            raise


@contextlib.contextmanager
def _table(family: shortcut.Family) -> Iterator[int]:
    file = bpf.make_map(
        "recent", key=family.key, value=shortcut.VALUE, entries=shortcut.ENTRIES, name=f"{shortcut.NAME}_{family.name}"
    )
    try:
        yield file
    finally:
        os.close(file)
