"""Say what one Service port asks of IPVS and of the table beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from netplane.kernel.ipvs.objects import HASH_FALLBACK, Destination, Scheduling, Server, Virtual
from netplane.kernel.nft import objects
from netplane.kernel.nft.objects import Element, Set, u32
from netplane.model import address
from netplane.model.address import Family, Packed
from netplane.model.service import Protocol
from netplane_proxy.plan import localhost
from netplane_proxy.plan.forwarding import Backend, Frontend, Kind, NodeFacts, PortForwarding
from netplane_proxy.plan.ipvs import tables
from netplane_proxy.plan.ipvs.tables import LAYOUTS, Layout

SCHEDULERS = ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "fo", "ovf", "mh")
"""All that Linux has (net/netfilter/ipvs), by name. `twos` came in 5.19 and is not built everywhere."""

MARK_BASE = 0x6E700000
"""Packet marks from here on lead to virtual servers ("np"); the two lowest bits tell the protocol."""
MARK_STEP = 4
MARKS = 0x100000 // MARK_STEP

_MARK_PROTOCOLS = {Protocol.TCP: 0, Protocol.UDP: 1, Protocol.SCTP: 2}
_STICKY_BY_MARK = Scheduling("mh", HASH_FALLBACK)
"""Persistence of a server known by mark cannot translate ports (ip_vs_sched_persist), a hash of the client can."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one Service port asks for: servers, and elements of the table."""

    servers: dict[Virtual, Server] = field(default_factory=dict)
    elements: tuple[tuple[Set, Element], ...] = ()


def needs_mark(port: PortForwarding, node: NodeFacts) -> bool:
    """Tell whether a port has a frontend, with an address here, where the client decides which backends serve."""
    split = (frontend for frontend in port.frontends if frontend.kind is Kind.EXTERNAL_LOCAL)
    return bool(port.cluster) and any(addresses(frontend, node, port.key.family) for frontend in split)


def mark(number: int, protocol: Protocol) -> int:
    """Return the packet mark with a number."""
    return MARK_BASE + number * MARK_STEP + _MARK_PROTOCOLS[protocol]


def number_of(packet_mark: int) -> int | None:
    """Return the number of a packet mark; None when it is none of ours."""
    number, _ = divmod(packet_mark - MARK_BASE, MARK_STEP)
    return number if 0 <= number < MARKS else None


def lingers(virtual: Virtual) -> bool:
    """Tell whether a server's destinations stay until their connections end: not with UDP, which has no end."""
    if virtual.mark:
        return virtual.mark % MARK_STEP != _MARK_PROTOCOLS[Protocol.UDP]
    return virtual.protocol != Protocol.UDP


def of_port(port: PortForwarding, node: NodeFacts, *, scheduler: str, number: int | None) -> Row:
    """Compile one Service port. `number` is that of its mark, if it needs one."""
    sets = LAYOUTS[port.key.family]
    servers: dict[Virtual, Server] = {}
    elements: list[tuple[Set, Element]] = []
    here: dict[Packed, None] = {}
    for frontend in port.frontends:
        for where in addresses(frontend, node, sets.family):
            elements += _elements(port, frontend, where, sets, number)
            if frontend.address is not None:
                here[where] = None
            backends = _backends(port, frontend.kind)
            if backends:
                virtual = Virtual(sets.number, frontend.protocol, where, frontend.port)
                scheduling = Scheduling(scheduler, 0, port.affinity_seconds)
                servers[virtual] = _server(scheduling, backends, port.serving)
    if number is not None and port.cluster:
        virtual = Virtual(sets.number, 0, b"", 0, mark(number, port.key.protocol))
        scheduling = _STICKY_BY_MARK if port.affinity_seconds else Scheduling(scheduler)
        servers[virtual] = _server(scheduling, port.cluster, port.serving)
    elements += [(sets.addresses, Element(where)) for where in here]
    if localhost.speaker(node, sets.family) is not None:
        elements += [(sets.nodeports, one) for one in sorted(localhost.ports(port))]
    if port.frontends:
        elements += [(sets.hairpin, Element(ip + ip)) for ip in port.hairpin]
    return Row(servers, tuple(elements))


def addresses(frontend: Frontend, node: NodeFacts, family: Family) -> Sequence[Packed]:
    """Return where a frontend stands."""
    if frontend.address is not None:
        return (frontend.address,)
    return [ip for ip in node.nodeport_addresses if address.family(ip) is family]


def _backends(port: PortForwarding, kind: Kind) -> tuple[Backend, ...]:
    return port.local if kind in (Kind.INTERNAL_LOCAL, Kind.EXTERNAL_LOCAL) else port.cluster


def _server(scheduling: Scheduling, backends: Iterable[Backend], serving: Iterable[Backend]) -> Server:
    """Return a server; those that still serve running flows, but get no new ones, have no weight."""
    weights = {Destination(*backend): 0 for backend in serving}
    weights |= {Destination(*backend): 1 for backend in backends}
    return Server(scheduling, weights)


def _elements(
    port: PortForwarding, frontend: Frontend, where: Packed, sets: Layout, number: int | None
) -> Iterator[tuple[Set, Element]]:
    key = tables.place_key(where, frontend.protocol, frontend.port)
    ranges = frontend.source_ranges
    verdict = tables.guard(_guard(port, frontend.kind), has_ranges=ranges is not None)
    yield sets.frontends, Element(key, verdict, objects.comment(str(port.key)))
    for prefix in ranges or ():
        yield sets.source_ranges, Element(key + prefix.network, None, "", key + prefix.last)
    yield sets.sources, Element(key, tables.source(_SOURCES[frontend.kind]))
    if frontend.kind is Kind.EXTERNAL_LOCAL and number is not None:
        yield sets.marks, Element(key, u32(mark(number, frontend.protocol)))
    if frontend.kind in (Kind.INTERNAL, Kind.INTERNAL_LOCAL):
        yield sets.cluster_ips, Element(where)


_SOURCES = {
    Kind.INTERNAL: "internal",
    Kind.INTERNAL_LOCAL: "internal",
    Kind.EXTERNAL: "external",
    Kind.EXTERNAL_LOCAL: "external_local",
}


def _guard(port: PortForwarding, kind: Kind) -> str:
    """Name what is done with first packets to a frontend before IPVS sees them."""
    if not port.cluster and not _backends(port, kind):
        return "refuse"
    if kind is Kind.EXTERNAL_LOCAL:
        return "split" if port.local else "split_silent"
    return "serve" if _backends(port, kind) else "silent"
