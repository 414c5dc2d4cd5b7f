"""Empty virtual servers in peace when another backend forwards already: nothing new comes in, and nothing is cut."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection

from netplane.kernel import conntrack
from netplane.kernel.ipvs import diff
from netplane.kernel.ipvs.objects import Change, Held, Virtual
from netplane.kernel.ipvs.run import Kernel
from netplane.model.service import Protocol
from netplane_proxy.plan.ipvs import rows

TICK = 1.0


async def drain(kernel: Kernel, virtuals: Collection[Virtual], *, limit: float) -> None:
    """Remove these servers, each when its connections have ended; all of them after `limit` seconds.

    Flows of UDP have no end. They go over to the other backend at once: forgotten by connection tracking, their next
    packet is a first one.
    """
    forget_udp(kernel, virtuals)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit):
            while held := _among(await asyncio.to_thread(kernel.servers), virtuals):
                delta = diff.servers(dict.fromkeys(held), held, lingers=rows.lingers)
                kernel.commit([*delta.grow, *delta.shrink])
                diff.apply(delta.shrink, held)
                idle = diff.idle({}, held)
                kernel.commit(idle)
                diff.apply(idle, held)
                if held:
                    await asyncio.sleep(TICK)
    kernel.commit([Change("remove", one) for one in _among(kernel.servers(), virtuals)])


def forget_udp(kernel: Kernel, virtuals: Collection[Virtual]) -> int:
    """Let connection tracking forget the UDP flows that IPVS carries for these servers; return how many there were.

    Exactly those that IPVS itself lists: what another backend translates by now is not among them.
    """
    udp = {(one.address, one.port) for one in virtuals if one.protocol == Protocol.UDP}
    carried = [one for one in kernel.connections(Protocol.UDP) if (one.address, one.port) in udp] if udp else []
    if not carried:
        return 0
    with contextlib.closing(conntrack.Socket()) as tracked:
        return tracked.delete(
            conntrack.Flow(*one[:5], one.destination.address, one.destination.port) for one in carried
        )


def _among(held: dict[Virtual, Held], virtuals: Collection[Virtual]) -> dict[Virtual, Held]:
    return {one: held[one] for one in held if one in virtuals}
