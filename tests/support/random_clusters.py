"""Hypothesis strategies: small clusters full of collisions, and packets that are likely to hit something in them."""

from __future__ import annotations

import dataclasses

from hypothesis import strategies as st

from netplane.model import address
from netplane.model.address import Family, Packed
from netplane.model.service import Endpoint, EndpointPort, EndpointSlice, Protocol, Service, ServicePort
from netplane.model.snapshot import Snapshot
from netplane_proxy.plan import oracle
from netplane_proxy.plan.forwarding import Forwarding, NodeFacts
from netplane_proxy.plan.host import LOOPBACK
from tests.support.clusters import HERE, NODE

NAMES = ["a", "b", "c"]
PORTS = [53, 80]
NODE_PORTS = [0, 30000, 30001]
TARGETS = [8080, 9090]
RANGES = ["172.31.0.0/30", "172.31.0.2/32", "172.30.0.0/24", "10.244.0.0/16", "fd00:31::2/127", "::/0"]
CONDITIONS = [(True, True, False)] * 4 + [(False, True, True), (False, False, True), (False, False, False)]
"""Ready, serving, terminating."""
ZONES = ["zone-a", "zone-b"]
PROTOCOLS = list(Protocol)
BASES = {
    Family.V4: {
        "cluster": "10.96.0.",
        "external": "192.0.2.",
        "here": "10.244.1.",
        "away": "10.244.2.",
        "client": "172.31.0.",
    },
    Family.V6: {
        "cluster": "fd00:96::",
        "external": "2001:db8::",
        "here": "fd00:244:0:1::",
        "away": "fd00:244:0:2::",
        "client": "fd00:31::",
    },
}


def at(family: Family, place: str, number: int) -> Packed:
    """The n-th address of a kind of place: cluster, external, here, away (pods) or client."""
    return address.parse(f"{BASES[family][place]}{number}")


families = st.sampled_from(list(Family))


@st.composite
def service_ports(draw: st.DrawFn) -> tuple[ServicePort, ...]:
    """One or two ports of different names, and of different numbers or protocols."""
    wanted = st.tuples(st.sampled_from(PORTS), st.sampled_from(PROTOCOLS))
    rows = draw(st.lists(wanted, min_size=1, max_size=2, unique=True))
    nodes = draw(st.lists(st.sampled_from(NODE_PORTS), min_size=2, max_size=2))
    return tuple(
        ServicePort(f"p{index}" if index else "", protocol, port, node_port=nodes[index])
        for index, (port, protocol) in enumerate(rows)
    )


@st.composite
def services(draw: st.DrawFn, name: str) -> Service:
    """A Service of any kind; cluster IPs are its own, as the API server hands them out, all else may collide."""
    number = NAMES.index(name) + 1
    used = draw(st.sampled_from([(Family.V4,), (Family.V6,), (Family.V4, Family.V6)]))
    outer = st.lists(st.builds(at, families, st.just("external"), st.integers(1, 3)), max_size=2).map(tuple)
    ranges = st.sampled_from(
        ["172.31.0.0/30", "172.31.0.2/32", "172.30.0.0/24", "10.244.0.0/16", "fd00:31::2/127", "::/0"]
    )
    return Service(
        namespace="default",
        name=name,
        type=draw(st.sampled_from(["LoadBalancer"] * 6 + ["ClusterIP", "ExternalName"])),
        cluster_ips=tuple(at(family, "cluster", number) for family in used),
        is_headless=draw(st.sampled_from([False] * 15 + [True])),
        ports=draw(service_ports()),
        external_ips=draw(outer),
        load_balancer_vips=draw(outer),
        source_ranges=tuple(map(address.prefix, draw(st.lists(ranges, max_size=2)))),
        affinity_seconds=draw(st.sampled_from([0, 0, 5, 10800])),
        internal_local=draw(st.booleans()),
        external_local=draw(st.booleans()),
    )


@st.composite
def endpoints(draw: st.DrawFn, family: Family) -> Endpoint:
    """An endpoint here or away, in any condition."""
    is_here = draw(st.booleans())
    condition = draw(
        st.sampled_from([(True, True, False)] * 4 + [(False, True, True), (False, False, True), (False, False, False)])
    )
    ready, serving, terminating = condition
    return Endpoint(
        (at(family, "here" if is_here else "away", draw(st.integers(5, 7))),),
        ready,
        serving,
        terminating,
        node_name=HERE if is_here else "node-2",
        zone_hints=draw(st.sampled_from([frozenset(), frozenset(ZONES[:1]), frozenset(ZONES[1:])])),
        node_hints=draw(st.sampled_from([frozenset(), frozenset([HERE]), frozenset(["node-2"])])),
    )


@st.composite
def slices(draw: st.DrawFn, name: str, owner: Service) -> EndpointSlice:
    """A slice of one Service, mostly with the ports that the Service has."""
    family = draw(families)
    fitting = [(port.name, port.protocol) for port in owner.ports]
    odd = st.tuples(st.sampled_from(["", "p1"]), st.sampled_from(PROTOCOLS))
    rows = dict.fromkeys([*fitting, draw(odd)][draw(st.sampled_from([0, 0, 0, 1])) :])
    return EndpointSlice(
        "default",
        name,
        service=owner.name,
        family=family,
        ports=tuple(EndpointPort(port, protocol, draw(st.sampled_from(TARGETS))) for port, protocol in rows),
        endpoints=tuple(draw(st.lists(endpoints(family), min_size=1, max_size=4))),
    )


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """A cluster of up to three Services and some slices, not all of them of a Service that is there."""
    made = {name: draw(services(name)) for name in NAMES}
    missing = draw(st.sampled_from([set(), set(), set(), {"a"}, {"b", "c"}]))
    pieces = {}
    for index, owner in enumerate(draw(st.permutations(NAMES + NAMES))[: draw(st.integers(3, 6))]):
        pieces[("default", f"s{index}")] = draw(slices(f"s{index}", made[owner]))
    found = {("default", name): service for name, service in made.items() if name not in missing}
    return Snapshot("1", found, pieces)


def nodes() -> st.SearchStrategy[NodeFacts]:
    """The test node, mostly as it is, or with parts of its configuration missing."""
    return st.sampled_from(
        [
            NODE,
            NODE,
            dataclasses.replace(NODE, zone=""),
            dataclasses.replace(NODE, pod_cidrs=NODE.pod_cidrs[:1]),
            dataclasses.replace(NODE, service_cidrs=()),
            dataclasses.replace(NODE, nodeport_addresses=NODE.nodeport_addresses[:1]),
            dataclasses.replace(NODE, masquerade_all=True),
        ]
    )


def nodes_with_loopback() -> st.SearchStrategy[NodeFacts]:
    """The same, with NodePorts at the loopback addresses as well."""
    return nodes().map(
        lambda node: dataclasses.replace(node, nodeport_addresses=(*node.nodeport_addresses, *LOOPBACK.values()))
    )


def loopback_packets(forwarding: Forwarding) -> list[oracle.Packet]:
    """What the node may send to its own loopback address: to every NodePort, and to ports beside them."""
    rows = [(row.key.family, frontend) for row in forwarding.ports.values() for frontend in row.frontends]
    places = {(family, frontend.protocol, frontend.port) for family, frontend in rows if frontend.address is None}
    places |= {(family, protocol, 30001) for family in Family for protocol in PROTOCOLS}
    return [
        oracle.Packet(LOOPBACK[family], LOOPBACK[family], protocol, port, from_node=True)
        for family, protocol, port in sorted(places)
    ]


def packets(forwarding: Forwarding) -> list[oracle.Packet]:
    """Every packet worth asking about: each kind of sender to each place that is served, and to some near them."""
    places = sorted(
        {(row.key.family, frontend.place) for row in forwarding.ports.values() for frontend in row.frontends}
    )
    targets = {(family, place.address or node_ip(family), place.protocol, place.port) for family, place in places}
    for family in Family:
        targets.add((family, at(family, "cluster", 1), Protocol.TCP, 81))
        targets.add((family, at(family, "cluster", 9), Protocol.UDP, 80))
        targets.add((family, at(family, "external", 1), Protocol.SCTP, 81))
        targets |= {(family, node_ip(family), protocol, 30000) for protocol in PROTOCOLS}
    return [
        oracle.Packet(source, target, protocol, port, from_node)
        for family, target, protocol, port in sorted(targets)
        for source, from_node in senders(family)
    ]


def senders(family: Family) -> list[tuple[Packed, bool]]:
    """Pods here and away (some of them backends), clients inside and outside of source ranges, and the node."""
    pods = [(at(family, place, number), False) for place in ("here", "away") for number in (1, 5, 6)]
    return [*pods, (at(family, "client", 2), False), (at(family, "client", 5), False), (node_ip(family), True)]


def node_ip(family: Family) -> Packed:
    """The address of the test node."""
    return next(ip for ip in NODE.node_ips if address.family(ip) is family)
