"""Forget the flows that UDP host ports which came or went have left behind. What is stale, plan/masquerade says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from collections.abc import Set as Set_
from typing import Protocol

from netplane.kernel.conntrack import Flow
from netplane.kernel.nft.objects import IPV4, IPV6
from netplane_cni.plan import masquerade
from netplane_cni.plan.ipam import Lease
from netplane_cni.plan.masquerade import HostPort

Facts = Callable[[], masquerade.Facts]


class Flows(Protocol):
    """The connections that the kernel tracks; `conntrack.Socket` is the kernel's."""

    def flows(self, family: int) -> list[Flow]:
        """List UDP flows of a family."""

    def delete(self, flows: Iterable[Flow]) -> int:
        """Delete flows."""


class Stale:
    """Knows the UDP host ports there are, and tidies up after each change of them."""

    def __init__(self, flows: Flows, facts: Facts) -> None:
        self._flows = flows
        self._facts = facts
        self._udp: Set_[HostPort] = frozenset()

    async def settle(self, facts: masquerade.Facts) -> None:
        """Compare with all host ports as they are now."""
        now = {port for port in masquerade.host_ports(facts.leases) if port.protocol == "udp"}
        await self._forget(now - self._udp, self._udp - now)

    async def changed(self, added: Iterable[HostPort], gone: Iterable[HostPort]) -> None:
        """Take the host ports that came and went, of which UDP's matter."""
        await self._forget(_udp(added), _udp(gone))

    async def _forget(self, added: Set_[HostPort], gone: Set_[HostPort]) -> None:
        if not added and not gone:
            return
        facts = self._facts()
        for family in {len(port.pod) for port in added | gone}:
            await asyncio.to_thread(self._delete, IPV4 if family == 4 else IPV6, added, gone, facts)
        self._udp = self._udp - gone | added

    def _delete(self, family: int, added: Set_[HostPort], gone: Set_[HostPort], facts: masquerade.Facts) -> None:
        self._flows.delete(
            flow
            for flow in self._flows.flows(family)
            if masquerade.is_stale(flow, added=added, gone=gone, node=facts.node)
        )


def ports(lease: Lease | None) -> frozenset[HostPort]:
    """Return the host ports of a lease."""
    return frozenset(masquerade.host_ports([lease])) if lease is not None else frozenset()


def _udp(ports: Iterable[HostPort]) -> Set_[HostPort]:
    return {port for port in ports if port.protocol == "udp"}
