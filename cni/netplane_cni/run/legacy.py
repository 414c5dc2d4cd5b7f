"""Keep our rules in iptables' legacy tables as plan/legacy writes them: what run/rules does for nftables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from netplane.kernel.errors import KernelError
from netplane.kernel.xtables import run as xtables
from netplane.kernel.xtables import walk
from netplane.kernel.xtables.objects import COMMANDS, Command, Tables
from netplane.kernel.xtables.restore import Restorer
from netplane.kernel.xtables.run import Kernel
from netplane.lib import log
from netplane.lib.cli import UserError
from netplane_cni.plan import legacy, masquerade
from netplane_cni.plan.masquerade import HostPort
from netplane_cni.run.stale import Facts
from netplane_cni.run.translation import Changed

_NAMES: Mapping[Command, Path] = {
    "iptables": Path("/proc/thread-self/net/ip_tables_names"),
    "ip6tables": Path("/proc/thread-self/net/ip6_tables_names"),
}
"""Where the kernel names the tables that somebody has used: none are made by looking."""


class Legacy:
    """The chains of this node in both families. A host port comes and goes by rules of its own, the rest by chains."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._held: dict[Command, Tables] | None = None

    async def bring(self, facts: masquerade.Facts, *, must_look: bool) -> int:
        """Return once the kernel holds what the facts want, and how many chains that took.

        With `must_look` the kernel is asked whether somebody else has changed anything since.
        """
        want = legacy.tables(facts)
        if want == self._held and not must_look:
            return 0
        self._held = None  # Until all is there, nobody knows.
        count = 0
        for command, tables in want.items():
            if tables or _is_used(command):
                count += await self._compare(command, tables)
        self._held = want
        return count

    async def exchange(self, wanted: Iterable[HostPort], former: Iterable[HostPort], facts: Facts) -> None:
        """Return once the kernel holds the host ports of a lease in the place of those it had."""
        if self._held is None or not await self._exchange(legacy.rows(former), legacy.rows(wanted)):
            await self.bring(facts(), must_look=True)

    async def follow_networks(self, changed: Changed, facts: Facts) -> int:
        """Return once the kernel holds the networks inside as they are now, and how many chains that took."""
        return await self.bring(facts(), must_look=False) if changed() else 0

    async def _exchange(
        self, former: Mapping[Command, set[legacy.Row]], wanted: Mapping[Command, set[legacy.Row]]
    ) -> bool:
        """Take a lease's rules out and in; tell whether the kernel took them."""
        for command in COMMANDS:
            held = _rows(self._held or {}, command)
            gone = (former.get(command, set()) - wanted.get(command, set())) & held
            added = wanted.get(command, set()) - held
            if not gone and not added:
                continue
            try:
                await self._kernel.load(command, legacy.exchange(gone, added))
            except KernelError as error:
                log.get("cni").warning("a host port met foreign rules, comparing all", why=str(error))
                return False
            assert self._held is not None
            self._held[command] = _with_rows(self._held[command], held - gone | added)
        return True

    async def _compare(self, command: Command, want: Tables) -> int:
        text, count = legacy.changes(want, await self._kernel.save(command, legacy.PREFIX))
        if text:
            await self._kernel.load(command, text)
        return count


def is_used_here() -> bool:
    """Tell whether this host uses the legacy variant and python-iptables is here to speak to it.

    As the proxy does: by chains of ours, then a kubelet's mark, then what `iptables` itself is.
    """
    return walk.is_possible() and "legacy" in xtables.installed() and xtables.detect(legacy.PREFIX) == "legacy"


def opened() -> Restorer:
    """Open the tables of the network namespace of this thread. UserError without what it takes."""
    if not walk.is_possible():
        raise UserError("--rules iptables needs python-iptables: install netplane[iptables], or choose nftables")
    try:
        return Restorer()
    except KernelError as error:
        raise UserError(f"--rules iptables: {error}; install iptables, or choose nftables") from error


async def remove() -> None:
    """Take what is ours out of the tables, if there is anything."""
    for command in COMMANDS:
        if not _is_used(command):
            continue
        try:
            kernel = xtables.Xtables("legacy")
        except KernelError:
            return  # Without the tools nobody made rules.
        try:
            text, _ = legacy.changes({}, await kernel.save(command, legacy.PREFIX))
            if text:
                await kernel.load(command, text)
        finally:
            kernel.close()


def _is_used(command: Command) -> bool:
    try:
        return bool(_NAMES[command].read_text().strip())
    except OSError:
        return False


def _rows(held: Mapping[Command, Tables], command: Command) -> set[legacy.Row]:
    nat = held.get(command, {}).get("nat", {})
    return {(chain, rule) for chain in legacy.UNORDERED for rule in nat.get(chain, ())}


def _with_rows(tables: Tables, rows: set[legacy.Row]) -> Tables:
    chains = {chain: tuple(sorted(rule for at, rule in rows if at == chain)) for chain in legacy.UNORDERED}
    return {**tables, "nat": {**tables.get("nat", {}), **chains}}
