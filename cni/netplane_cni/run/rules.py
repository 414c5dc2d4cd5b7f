"""Keep our nftables tables as plan/masquerade writes them, one transaction at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from netplane.kernel.conntrack import Flow
from netplane.kernel.errors import KernelError
from netplane.kernel.nft import diff
from netplane.kernel.nft.objects import IPV4, IPV6, Batch, Element, Set, Table
from netplane.lib import log
from netplane_cni.plan import masquerade
from netplane_cni.plan.masquerade import HostPort

Facts = Callable[[], masquerade.Facts]
HostPorts = frozenset[HostPort]
Held = Mapping[Set, frozenset[Element]]


class Kernel(Protocol):
    """What is needed of nf_tables: `nft.run.Socket`, or `nft.fake.Kernel`."""

    async def load(self, text: str) -> None:
        """Run nft commands in one transaction."""

    def commit(self, batch: Batch) -> None:
        """Make all changes of the batch in one transaction, or none."""

    def dump(self, target: Set) -> list[Element]:
        """List a set's elements."""

    def fingerprint(self, table: Table) -> str:
        """Return a hash of a table's chains and rules as the kernel holds them."""


class Flows(Protocol):
    """The connections that the kernel tracks; `conntrack.Socket` is the kernel's."""

    def flows(self, family: int) -> list[Flow]:
        """List UDP flows of a family."""

    def delete(self, flows: Iterable[Flow]) -> int:
        """Delete flows."""


class Rules:
    """The tables of this node. Rules are loaded as text, whole; host ports come and go as elements, in microseconds."""

    def __init__(self, kernel: Kernel, flows: Flows, facts: Facts) -> None:
        self._kernel = kernel
        self._flows = flows
        self._ports: frozenset[HostPort] = frozenset()
        self._facts = facts
        self._lock = asyncio.Lock()
        self._skeleton = ""
        self._prints: tuple[str, ...] = ()
        self._held: Held = {}

    async def bring_up_to_date(self, *, must_look: bool = False) -> int:
        """Return once the kernel holds what the facts want, and how many changes that took.

        With `must_look` the kernel is asked whether somebody else has changed anything since.
        """
        async with self._lock:
            facts = self._facts()
            count = await self._bring(facts, must_look=must_look)
            await self._forget_stale(facts)
            return count

    async def _bring(self, facts: masquerade.Facts, *, must_look: bool) -> int:
        want = {target: frozenset(found) for target, found in masquerade.elements(facts).items()}
        if masquerade.skeleton(facts) != self._skeleton or (must_look and self._has_drifted(want)):
            return await self._load(facts, want)
        batch = Batch()
        for target, elements in want.items():
            batch.runs += diff.elements(target, elements, self._held[target]).runs
        try:
            self._kernel.commit(batch)
        except KernelError as error:
            log.get("cni").warning("a host port met foreign elements, loading all anew", why=str(error))
            return await self._load(facts, want)
        self._held = want
        return len(batch)

    async def _forget_stale(self, facts: masquerade.Facts) -> None:
        """Drop the flows that UDP host ports which came or went have left behind."""
        now = frozenset(port for port in masquerade.host_ports(facts.leases) if port.protocol == "udp")
        added, gone = now - self._ports, self._ports - now
        for family in {len(port.pod) for port in added | gone}:
            await asyncio.to_thread(self._forget, IPV4 if family == 4 else IPV6, added, gone, facts)
        self._ports = now

    def _forget(self, family: int, added: HostPorts, gone: HostPorts, facts: masquerade.Facts) -> None:
        self._flows.delete(
            flow
            for flow in self._flows.flows(family)
            if masquerade.is_stale(flow, added=added, gone=gone, node=facts.node)
        )

    async def _load(self, facts: masquerade.Facts, want: Held) -> int:
        self._skeleton = ""  # Until it is loaded, nobody knows.
        await self._kernel.load(masquerade.text(facts))
        self._skeleton, self._held, self._prints = masquerade.skeleton(facts), want, self._seen(want)
        return 1

    def _has_drifted(self, want: Held) -> bool:
        try:
            have = {target: frozenset(e._replace(comment="") for e in self._kernel.dump(target)) for target in want}
            return have != self._held or self._seen(want) != self._prints
        except KernelError:
            return True

    def _seen(self, want: Held) -> tuple[str, ...]:
        return tuple(self._kernel.fingerprint(table) for table in sorted({t.table for t in want}, key=str))
