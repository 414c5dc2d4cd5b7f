"""Load and list tables by iptables-restore and iptables-save, and find out which variant a host uses."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from typing import Protocol, TypeVar

from netplane.kernel import netns, process
from netplane.kernel.errors import CommandFailed, KernelError
from netplane.kernel.xtables import lock, objects
from netplane.kernel.xtables.objects import COMMANDS, VARIANTS, Command, Rules, Variant
from netplane.lib import log

LOCK_SECONDS = 30
COUNT_SECONDS = 5
"""How long a look at counters waits for the lock."""
LOAD_TIMEOUT = 600.0
SAVE_TIMEOUT = 120.0
_LOOK_AFTER = 0.5
_HINTS = (":KUBE-IPTABLES-HINT ", ":KUBE-KUBELET-CANARY ")
"""Chains by which a kubelet tells which variant the host uses (KEP-3178)."""

_LOG = log.get("xtables")
T = TypeVar("T")


class Kernel(Protocol):
    """What a backend needs of the tables of one variant; `Xtables` is the kernel's, `fake.Kernel` stands in."""

    async def load(self, command: Command, text: str) -> None:
        """Carry out `objects.text`, each table in one transaction. CommandFailed when a table was refused."""

    async def save(self, command: Command, prefix: str) -> dict[str, dict[str, Rules]]:
        """Return what is ours of each table there is."""


class Xtables:
    """The tables of one variant in the network namespace in which it was made, from whatever thread it is called."""

    def __init__(self, variant: Variant) -> None:
        """Remember the namespace. KernelError without the tools."""
        self.variant = variant
        self._tools = {command: _tools(command, variant) for command in COMMANDS}
        self.namespace = os.open(netns.OWN, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of the namespace."""
        os.close(self.namespace)

    async def load(self, command: Command, text: str) -> None:
        """Carry out `objects.text`. Waits for the lock that all iptables tools take, and says who holds it."""
        restore, _ = self._tools[command]
        argv = (restore, "-w", str(LOCK_SECONDS), "--noflush")
        refused: CommandFailed | None = None
        async with asyncio.TaskGroup() as group:
            naming = group.create_task(self._name_holder())
            try:
                await asyncio.to_thread(self._run, argv, text, LOAD_TIMEOUT)
            except CommandFailed as error:
                refused = _with_holder(error)
            finally:
                naming.cancel()
        if refused is not None:
            raise refused

    async def save(self, command: Command, prefix: str) -> dict[str, dict[str, Rules]]:
        """Return what is ours of each table there is."""
        listing = await asyncio.to_thread(self._run, (self._tools[command][1],), "", SAVE_TIMEOUT)
        return await asyncio.to_thread(objects.read, listing, prefix)

    def packets(self, command: Command, table: str, chain: str) -> dict[str, int]:
        """Return how many packets met the rules of a chain, by target. CommandFailed without that chain."""
        tool = self._tools[command][0].removesuffix("-restore")
        listing = self._run((tool, "-w", str(COUNT_SECONDS), "-t", table, "-nvxL", chain), "", SAVE_TIMEOUT)
        return objects.packets(listing)

    def inside(self, act: Callable[[], T]) -> T:
        """Do something in the namespace of these tables."""
        # Entering a namespace takes CAP_SYS_ADMIN, even the one where we are: a proxy in its own does without.
        if netns.identity(netns.OWN) == netns.identity(self.namespace):
            return act()
        return netns.run_in(self.namespace, act)

    def _run(self, argv: tuple[str, ...], feed: str, timeout: float) -> str:
        return self.inside(lambda: process.run_sync(argv, stdin=feed, timeout=timeout).text)

    async def _name_holder(self) -> None:
        """Say once who holds the lock, when it takes long enough for anybody to ask."""
        if self.variant == "nft":
            return
        await asyncio.sleep(_LOOK_AFTER)
        who = await asyncio.to_thread(lock.holder)
        if who:
            _LOG.warning("waiting for the iptables lock", holder=who, path=lock.path())


def _with_holder(error: CommandFailed) -> CommandFailed:
    """Name who holds the lock in the error of a tool that gave up waiting (it exits with 4)."""
    if error.returncode != 4 or "lock" not in error.detail:
        return error
    return CommandFailed(0, error.tried, f"{lock.holder() or 'somebody'} holds {lock.path()}", returncode=4)


def installed() -> tuple[Variant, ...]:
    """Return the variants whose tools are here."""
    return tuple(variant for variant in VARIANTS if all(_find(command, variant) for command in COMMANDS))


def detect(prefix: str) -> Variant:
    """Return the variant that this host uses, in the network namespace of this thread.

    The one that has chains of ours; else the one that a kubelet marked; else what `iptables` itself is.
    """
    there = installed()
    if not there:
        raise KernelError(2, "find iptables-restore and ip6tables-restore", "install iptables (1.8 or newer)")
    listings = {variant: _listing(variant) for variant in there}
    for signs in ((f"\n:{prefix}",), _HINTS):
        marked = [variant for variant in there if any(sign in listings[variant] for sign in signs)]
        if marked:
            return marked[0]
    usual = _usual()
    return usual if usual in there else there[0]


def _listing(variant: Variant) -> str:
    # Without a table's name the tools list those that exist and make none.
    return process.run_sync((_tools("iptables", variant)[1],), timeout=SAVE_TIMEOUT).text


def _usual() -> Variant | None:
    try:
        said = process.run_sync(("iptables", "-V")).text
    except CommandFailed:
        return None
    return "nft" if "nf_tables" in said else "legacy"


def _tools(command: Command, variant: Variant) -> tuple[str, str]:
    found = _find(command, variant)
    if found is None:
        raise KernelError(2, f"find {command}-restore of the {variant} variant")
    return found


def _find(command: Command, variant: Variant) -> tuple[str, str] | None:
    stems = [f"{command}-{variant}", *([command] if _usual() == variant else [])]
    for stem in stems:
        if shutil.which(f"{stem}-restore") and shutil.which(f"{stem}-save"):
            return f"{stem}-restore", f"{stem}-save"
    return None
