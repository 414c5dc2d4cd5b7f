"""Make the kernel forget stale flows. Which ones those are is plan/stale's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from netplane.kernel import conntrack
from netplane.lib import clock as clocks
from netplane.lib import log
from netplane.model import service
from netplane.model.address import Family
from netplane_proxy.plan import stale
from netplane_proxy.plan.forwarding import Backend, Forwarding, Place, PortForwarding, PortKey
from netplane_proxy.plan.ledger import Steps
from netplane_proxy.run import telemetry

_LOG = log.get("proxy")


class Table(Protocol):
    """The kernel's connection tracking, as far as we need it."""

    def flows(self, family: Family) -> list[stale.Flow]:
        """Return the UDP flows of a family."""

    def forget(self, flows: list[stale.Flow]) -> int:
        """Delete flows by their exact tuples; return how many were still there."""


class Conntrack:
    """The `Table` of the kernel, in the network namespace of the thread that made it."""

    def __init__(self) -> None:
        """Open it."""
        self._socket = conntrack.Socket()

    def close(self) -> None:
        """Let go of it."""
        self._socket.close()

    def flows(self, family: Family) -> list[stale.Flow]:
        """Return the UDP flows of a family."""
        number = conntrack.AF_INET if family is Family.V4 else conntrack.AF_INET6
        return [
            stale.Flow(
                service.Protocol.UDP,
                flow.source,
                flow.source_port,
                flow.destination,
                flow.port,
                Backend(flow.answering, flow.answering_port),
            )
            for flow in self._socket.flows(number)
        ]

    def forget(self, flows: list[stale.Flow]) -> int:
        """Delete flows by their exact tuples; return how many were still there."""
        return self._socket.delete(conntrack.Flow(*flow[:5], *flow.answered_by) for flow in flows)


class Sweeper:
    """Looks at the flows when a change can have made one stale, in a thread of its own, never twice at a time."""

    def __init__(self, table: Table, *, clock: clocks.Clock) -> None:
        """Start with one look to take: whatever changed while nobody was here."""
        self._table = table
        self._clock = clock
        self._is_wanted = asyncio.Event()
        self._gone: dict[Place, frozenset[Backend]] = {}
        self._udp: dict[PortKey, PortForwarding] = {}
        """What was committed for UDP: few rows among many, so nobody has to look for them."""

    def note(self, steps: Steps) -> None:
        """Take the changes of a commit; ask for a look when one matters."""
        for key, step in steps.items():
            if key.protocol is service.Protocol.UDP:
                self._keep(key, step.now)
            if not stale.concerns(step.former, step.now):
                continue
            if step.former is not None:
                self._gone.update(stale.gone(step.former, step.now))
            self._is_wanted.set()

    def _keep(self, key: PortKey, row: PortForwarding | None) -> None:
        if row is None:
            self._udp.pop(key, None)
        else:
            self._udp[key] = row

    def look(self) -> None:
        """Ask for a look."""
        self._is_wanted.set()

    async def run(self, meaning: Callable[[], Forwarding]) -> None:
        """Sweep whenever a look is wanted, for ever, by what is meant at that moment."""
        while True:
            await self._is_wanted.wait()
            self._is_wanted.clear()
            gone, self._gone = self._gone, {}
            await self._look(meaning(), gone)

    async def _look(self, meaning: Forwarding, gone: stale.Gone) -> None:
        # A copy, since the loop goes on deciding while the thread reads.
        udp = Forwarding(meaning.revision, dict(self._udp), meaning.node)
        try:
            count = await asyncio.to_thread(self._sweep, udp, gone)
        except OSError as error:
            _LOG.error("stale flows not forgotten", reason=error)
            return
        if count:
            _LOG.info("stale flows forgotten", count=count)

    def _sweep(self, udp: Forwarding, gone: stale.Gone) -> int:
        return sum(self._sweep_one(family, udp, gone) for family in Family)

    def _sweep_one(self, family: Family, udp: Forwarding, gone: stale.Gone) -> int:
        began = self._clock.monotonic()
        count = self._table.forget(stale.flows(self._table.flows(family), udp, gone=gone))
        telemetry.swept(family, count, self._clock.monotonic() - began)
        return count
