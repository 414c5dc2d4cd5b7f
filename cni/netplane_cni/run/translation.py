"""Keep the node's rules about pods' addresses, one change at a time, and forget the flows that a change leaves behind.

How rules get into the kernel is the body's: run/rules for nftables, run/legacy for iptables.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from collections.abc import Set as Set_
from typing import Protocol

from netplane.model import address
from netplane_cni.plan import masquerade
from netplane_cni.plan.ipam import Lease
from netplane_cni.plan.masquerade import HostPort
from netplane_cni.run import stale
from netplane_cni.run.stale import Facts, Flows, Stale

Changed = Callable[[], Mapping[address.Prefix, bool]]
"""Tells which blocks of the networks inside came (true) and went (false) since it was asked last."""


class Body(Protocol):
    """The rules in the kernel. Each returns once it holds what is wanted, and is called after the other's end."""

    async def bring(self, facts: masquerade.Facts, *, must_look: bool) -> int:
        """Bring all where the facts want it; tell how many changes that took."""

    async def exchange(self, wanted: Set_[HostPort], former: Set_[HostPort], facts: Facts) -> None:
        """Put one lease's host ports in the place of those it had."""

    async def follow_networks(self, changed: Changed, facts: Facts) -> int:
        """Follow blocks of the networks inside; tell how many changes that took."""


class Translation:
    """The rules of this node."""

    def __init__(self, body: Body, flows: Flows, facts: Facts) -> None:
        self.body = body
        self._stale = Stale(flows, facts)
        self._facts = facts
        self._lock = asyncio.Lock()

    async def bring_up_to_date(self, *, must_look: bool = False) -> int:
        """Return once the kernel holds what the facts want, and how many changes that took.

        With `must_look` the kernel is asked whether somebody else has changed anything since.
        """
        async with self._lock:
            facts = self._facts()
            count = await self.body.bring(facts, must_look=must_look)
            await self._stale.settle(facts)
            return count

    async def follow(self, before: Lease | None, now: Lease) -> None:
        """Return once the kernel holds the host ports of a lease as they are now. No other's are looked at."""
        former, wanted = stale.ports(before), stale.ports(now)
        async with self._lock:
            await self.body.exchange(wanted, former, self._facts)
            await self._stale.changed(wanted - former, former - wanted)

    async def follow_networks(self, changed: Changed) -> int:
        """Return once the kernel holds the networks inside as they are now, and how many changes that took."""
        async with self._lock:
            return await self.body.follow_networks(changed, self._facts)
