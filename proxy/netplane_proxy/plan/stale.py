"""Decide which running flows the kernel must forget, for no Service sends them there any more. run/flows does it.

Only UDP: TCP ends on its own (RST or time-out), while a UDP client may send for ever into a dead flow that keeps itself
alive. The decision is by level: it looks at what is there, so nothing is lost with an event or a restart. Only flows
that are provably stale go: a restart of the proxy, a new policy or a new hint cut nobody off.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from netplane.model import address
from netplane.model.address import Packed
from netplane.model.service import Protocol
from netplane_proxy.plan import ledger
from netplane_proxy.plan.forwarding import Backend, Forwarding, Place, PortForwarding


class Flow(NamedTuple):
    """One conntrack entry: the exact tuple as the client sent it, and who answers it."""

    protocol: Protocol
    source: Packed
    source_port: int
    destination: Packed
    port: int
    answered_by: Backend


Gone = Mapping[Place, frozenset[Backend]]
"""Places that a Service left since the last look, and the backends it had there."""


def flows(seen: Iterable[Flow], forwarding: Forwarding, *, gone: Gone | None = None) -> list[Flow]:
    """Return which of the flows seen are stale, in their order.

    Stale is a flow to a place that a Service holds when none of its serving backends answers it: the endpoint is gone,
    or the flow began before the Service had any (then the place itself "answers"). Stale is also a flow to an address
    of the Service range that was translated though no Service is there, and one to a place in `gone` that one of that
    Service's backends answers. A flow to anywhere else may be another program's, and is left alone.
    """
    places = ledger.by_place(forwarding.ports)
    nodeport_addresses = frozenset(forwarding.node.nodeport_addresses)

    def is_stale(flow: Flow) -> bool:
        family = address.family(flow.destination)
        place = Place(flow.destination, flow.protocol, flow.port)
        nodeport = Place(b"", flow.protocol, flow.port)
        hit = places.get((family, place))
        if hit is None and flow.destination in nodeport_addresses:
            hit = places.get((family, nodeport))
        if hit is not None:
            return flow.answered_by not in hit[0].serving
        if gone:
            left = gone.get(place) or (gone.get(nodeport) if flow.destination in nodeport_addresses else None)
            if left and flow.answered_by in left:
                return True
        is_translated = flow.answered_by != Backend(flow.destination, flow.port)
        return is_translated and address.any_contains(forwarding.node.service_cidrs, flow.destination)

    return [flow for flow in seen if flow.protocol is Protocol.UDP and is_stale(flow)]


def concerns(former: PortForwarding | None, now: PortForwarding | None) -> bool:
    """Tell whether a change can have made a flow stale: only then is it worth looking at the flows."""
    row = now or former
    if row is None or row.key.protocol is not Protocol.UDP or former == now:
        return False
    if former is None or now is None:
        return True
    return former.frontends != now.frontends or not set(former.serving) <= set(now.serving) or not former.serving


def gone(former: PortForwarding, now: PortForwarding | None) -> dict[Place, frozenset[Backend]]:
    """Return the places one UDP row left, and the backends that answered there."""
    if former.key.protocol is not Protocol.UDP:
        return {}
    kept = {frontend.place for frontend in now.frontends} if now else set()
    backends = frozenset((*former.cluster, *former.local, *former.serving))
    return {frontend.place: backends for frontend in former.frontends if frontend.place not in kept}
