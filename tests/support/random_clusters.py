"""Hypothesis strategies: small clusters full of collisions, and packets that are likely to hit something in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from hypothesis import strategies as st

from netplane.model import address
from netplane.model.address import Family, Packed
from netplane.model.service import Endpoint, EndpointPort, EndpointSlice, Protocol, Service, ServicePort
from netplane.model.snapshot import Snapshot
from netplane_proxy.plan import oracle
from netplane_proxy.plan.forwarding import NodeFacts
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
        type=draw(st.sampled_from(["LoadBalancer", "LoadBalancer", "ClusterIP", "ExternalName"])),
        cluster_ips=tuple(at(family, "cluster", number) for family in used),
        is_headless=draw(st.sampled_from([False] * 9 + [True])),
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
        (at(family, "here" if is_here else "away", draw(st.integers(5, 8))),),
        ready,
        serving,
        terminating,
        node_name=HERE if is_here else "node-2",
        zone_hints=draw(st.sampled_from([frozenset(), frozenset(ZONES[:1]), frozenset(ZONES[1:])])),
        node_hints=draw(st.sampled_from([frozenset(), frozenset([HERE]), frozenset(["node-2"])])),
    )


@st.composite
def slices(draw: st.DrawFn, name: str, owner: str) -> EndpointSlice:
    """A slice for one Service; its ports fit by name when protocol and luck agree."""
    family = draw(families)
    rows = draw(
        st.lists(
            st.tuples(st.sampled_from(["", "p1"]), st.sampled_from(PROTOCOLS)), min_size=1, max_size=3, unique=True
        )
    )
    return EndpointSlice(
        "default",
        name,
        service=owner,
        family=family,
        ports=tuple(EndpointPort(port, protocol, draw(st.sampled_from(TARGETS))) for port, protocol in rows),
        endpoints=tuple(draw(st.lists(endpoints(family), max_size=4))),
    )


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """A cluster of up to three Services and some slices, not all of them of a Service that is there."""
    there = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=3))
    found = {("default", name): draw(services(name)) for name in there}
    count = draw(st.integers(0, 5))
    pieces = {
        ("default", f"s{index}"): draw(slices(f"s{index}", draw(st.sampled_from(NAMES)))) for index in range(count)
    }
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


def packets(families: Iterable[Family] = tuple(Family)) -> list[oracle.Packet]:
    """Every packet worth asking about: each kind of sender to each place that exists in some cluster, and nearly so."""
    found = []
    for family in families:
        node_ip = NODE.node_ips[list(Family).index(family)]
        sources = [(at(family, place, number), False) for place in ("here", "away") for number in (1, 5, 6)]
        sources += [(at(family, "client", number), False) for number in (2, 5)] + [(node_ip, True)]
        inner = [at(family, "cluster", number) for number in range(1, 5)]
        outer = [at(family, "external", number) for number in range(1, 4)]
        targets = [(ip, port) for ip in (*inner, *outer) for port in PORTS]
        targets += [(node_ip, port) for port in (*NODE_PORTS[1:], 31000)]
        found += [
            oracle.Packet(source, target, protocol, port, from_node)
            for source, from_node in sources
            for target, port in targets
            for protocol in PROTOCOLS
        ]
    return found
