"""Say what happens to a packet for a Service, free of any backend. Which endpoints may serve is select's.

Everything is per Service port and family, so that a change of one slice replans one Service.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from netplane.model import address
from netplane.model.address import Family, Packed, Prefix
from netplane.model.service import EndpointSlice, Key, Protocol, Service, ServicePort
from netplane_proxy.plan import select

Backend = select.Backend


class Kind(enum.IntEnum):
    """How a frontend treats its packets. The numbers are those of the kernel layout, for any backend.

    INTERNAL and INTERNAL_LOCAL are cluster IPs; sources that are no pods are masqueraded. EXTERNAL (NodePort, load
    balancer VIP, externalIP) always masquerades. EXTERNAL_LOCAL keeps the client's address and uses the local backends;
    only pods (unchanged) and the node itself (masqueraded) get the cluster's backends there.
    """

    INTERNAL = 0
    INTERNAL_LOCAL = 1
    EXTERNAL = 2
    EXTERNAL_LOCAL = 3

    __hash__ = int.__hash__  # Enum's own is Python.


LOCAL_KINDS = frozenset((Kind.INTERNAL_LOCAL, Kind.EXTERNAL_LOCAL))


class Frontend(NamedTuple):
    """Where a connection may be aimed. `address` is None for a NodePort, which stands on NodeFacts.nodeport_addresses.

    `source_ranges` is None when any client may come; otherwise all others are dropped, whoever they are.
    """

    address: Packed | None
    protocol: Protocol
    port: int
    kind: Kind
    source_ranges: tuple[Prefix, ...] | None = None

    @property
    def place(self) -> Place:
        """What no two frontends of one family can share."""
        return Place(self.address or b"", self.protocol, self.port)

    def __str__(self) -> str:
        """Print `10.96.0.1:80/tcp`, or `nodeport:30080/tcp`."""
        where = f"nodeport:{self.port}" if self.address is None else address.with_port(self.address, self.port)
        return f"{where}/{self.protocol}"


class Place(NamedTuple):
    """Address (empty for a NodePort), protocol and port: the key under which a packet finds its frontend."""

    address: Packed
    protocol: Protocol
    port: int


class PortKey(NamedTuple):
    """The name of one Service port in one family."""

    namespace: str
    service: str
    port: str
    protocol: Protocol
    family: Family

    def __str__(self) -> str:
        """Print `default/web:http`, as kube-proxy names it."""
        return f"{self.namespace}/{self.service}:{self.port}" if self.port else f"{self.namespace}/{self.service}"


class PortForwarding(NamedTuple):
    """What happens to packets for one Service port in one family.

    `cluster` serves Cluster policy, `local` (backends on this node) serves Local policy; both sorted, without
    duplicates, and every backend equally likely. An empty `cluster` means that nothing serves anywhere: reject.
    An empty `local` under a Local policy while `cluster` has some: drop. `affinity_seconds` is 0 without affinity.
    `hairpin` are the backend addresses that may be their own client here: a connection from one to itself, by
    whichever Service of the node, must be masqueraded. `serving`, for UDP alone, are all backends whose running flows
    may go on: a change of policy, of hints or of readiness cuts nobody off (kube-proxy's conntrack clean-up).
    """

    key: PortKey
    cluster: tuple[Backend, ...] = ()
    local: tuple[Backend, ...] = ()
    affinity_seconds: int = 0
    frontends: tuple[Frontend, ...] = ()
    hairpin: tuple[Packed, ...] = ()
    serving: tuple[Backend, ...] = ()

    @property
    def service(self) -> Key:
        """(namespace, name) of the Service."""
        return self.key.namespace, self.key.service


_forwarding: Callable[[tuple[Any, ...]], PortForwarding] = partial(tuple.__new__, PortForwarding)
"""In half the time that its name takes: a cold start makes tens of thousands."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What matters of the node the proxy runs on. Addresses of both families lie in one tuple, sorted.

    `pod_cidrs` tells a pod's packet from others (kube-proxy's --cluster-cidr); without any in a family nothing counts
    as pod: cluster IPs are then never masqueraded for outsiders, and Local policy has no short cut for pods. Instead,
    `pod_interfaces` may name the interface by which pods' packets come in, whatever their address: `cbr0`, or `veth*`
    for all whose names begin so. A packet
    to a `service_cidrs` address that nobody has is rejected: kube-proxy drops it, and its sender waits for a time-out.
    `masquerade_bit` is the bit of the packet mark that asks for masquerading: 14 is 0x4000.
    """

    name: str = ""
    zone: str = ""
    node_ips: tuple[Packed, ...] = ()
    nodeport_addresses: tuple[Packed, ...] = ()
    pod_cidrs: tuple[Prefix, ...] = ()
    service_cidrs: tuple[Prefix, ...] = ()
    masquerade_bit: int = 14
    masquerade_all: bool = False
    pod_interfaces: str = ""

    def is_pod(self, source: Packed, interface: str = "") -> bool:
        """Tell whether a packet with this source that came in by this interface is a pod's."""
        if self.pod_interfaces:
            wanted = self.pod_interfaces.removesuffix("*")
            return interface.startswith(wanted) if wanted != self.pod_interfaces else interface == wanted
        return address.any_contains(self.pod_cidrs, source)

    def knows_pods(self, family: Family) -> bool:
        """Tell whether packets of a family can be known as pods'."""
        return bool(self.pod_interfaces) or any(prefix.family is family for prefix in self.pod_cidrs)


def may_stray(protocol: Protocol) -> bool:
    """Tell whether an endpoint's packet that belongs to no known connection must not leave the node.

    Connection tracking calls a segment out of the window INVALID and translates it no more: so it reaches the client
    from the endpoint's own address, the client knows no such connection, and its reset ends the one that is there
    (kubernetes/kubernetes#74839). kube-proxy drops all INVALID packets of the host, which breaks the asymmetric routes
    of others; here only those go that come from a pod or from a backend of a Service.
    """
    return protocol is not Protocol.UDP


def pod_test(node: NodeFacts) -> Callable[[Packed], bool]:
    """Return `node.is_pod` for many addresses: networks that hold whole blocks of 256 are asked once for each block."""
    is_of_blocks = all(prefix.family.bits - prefix.length >= 8 for prefix in node.pod_cidrs)
    known: dict[Packed, bool] = {}

    def is_pod(source: Packed) -> bool:
        block = source[:-1] if is_of_blocks else source
        found = known.get(block)
        if found is None:
            found = known[block] = node.is_pod(source)
        return found

    return is_pod


@dataclass(frozen=True, slots=True)
class Forwarding:
    """The whole meaning at one revision: each Service port by its key, no two of them sharing a place."""

    revision: str = ""
    ports: Mapping[PortKey, PortForwarding] = field(default_factory=dict)
    node: NodeFacts = field(default_factory=NodeFacts)


def of_service(
    service: Service | None, slices: tuple[EndpointSlice, ...], node: NodeFacts
) -> tuple[PortForwarding, ...]:
    """Say what one Service does on this node: one row per port and family, sorted by key. Nothing for those not ours.

    Not ours are headless Services, ExternalNames, those without a cluster IP yet and those of another proxy
    (kube-proxy's ShouldSkipService and its label selector). A family without a cluster IP has no frontends at all.
    Nor has an address that would take a loopback address of the node from its programs (`minikube tunnel` says so).
    """
    if service is None or not is_served(service):
        return ()
    rows: dict[PortKey, PortForwarding] = {}
    for cluster_ip in service.cluster_ips:
        if select.is_no_destination(cluster_ip):
            continue
        for port in service.ports:
            row = _of_port(service, port, cluster_ip, slices, node)
            rows.setdefault(row.key, row)
    if len(rows) == 1:
        return tuple(rows.values())
    return tuple(rows[key] for key in sorted(rows))


def is_served(service: Service) -> bool:
    """Tell whether this proxy does anything for a Service."""
    return (
        service.type != "ExternalName"
        and service.proxy_name is None
        and not service.is_headless
        and bool(service.cluster_ips)
    )


def _of_port(
    service: Service, port: ServicePort, cluster_ip: Packed, slices: tuple[EndpointSlice, ...], node: NodeFacts
) -> PortForwarding:
    family = address.family(cluster_ip)
    key = PortKey(service.namespace, service.name, port.name, port.protocol, family)
    seconds = min(service.affinity_seconds, _AFFINITY_MOST)
    return _row(key, seconds, _frontends(service, port, cluster_ip, node), port, slices, node)


def of_slices(
    former: tuple[PortForwarding, ...], service: Service, slices: tuple[EndpointSlice, ...], node: NodeFacts
) -> tuple[PortForwarding, ...]:
    """Do as `of_service` does when neither Service nor node changed since it said `former`."""
    rows = []
    for row in former:
        key = row.key
        for port in service.ports:
            if port.name == key.port and port.protocol is key.protocol:
                rows.append(_row(key, row.affinity_seconds, row.frontends, port, slices, node))
                break
    return tuple(rows)


def _row(
    key: PortKey,
    affinity_seconds: int,
    frontends: tuple[Frontend, ...],
    port: ServicePort,
    slices: tuple[EndpointSlice, ...],
    node: NodeFacts,
) -> PortForwarding:
    chosen, serving = _chosen(port, key.family, slices, node)
    local: tuple[Backend, ...] = ()
    hairpin = chosen.here
    for frontend in frontends:
        if frontend.kind in LOCAL_KINDS:
            local = chosen.local
        if frontend.kind is Kind.EXTERNAL_LOCAL:
            # A pod of another node that comes to a Local frontend here keeps its address, and may be sent to itself.
            hairpin = frozenset([backend.ip for backend in (*chosen.cluster, *chosen.local)])
    hairpins = tuple(sorted(hairpin)) if hairpin else ()
    return _forwarding((key, chosen.cluster, local, affinity_seconds, frontends, hairpins, serving))


def _chosen(
    port: ServicePort, family: Family, slices: tuple[EndpointSlice, ...], node: NodeFacts
) -> tuple[select.Choice, tuple[Backend, ...]]:
    """Return who serves, and for UDP who serves flows that run."""
    is_udp = port.protocol is Protocol.UDP
    chosen = select.plain(port, family, slices, node.name)
    if chosen is not None:
        return chosen, chosen.cluster if is_udp else ()
    found = select.candidates(port, family, slices, node.name)
    chosen = select.choose(found, node_name=node.name, zone=node.zone)
    return chosen, select.serving(found) if is_udp else ()


_AFFINITY_MOST = 86400
"""A day is the longest that Kubernetes allows; kernels have their own ends, and refuse whole changes beyond."""


def _frontends(service: Service, port: ServicePort, cluster_ip: Packed, node: NodeFacts) -> tuple[Frontend, ...]:
    """List where one port can be reached in the cluster IP's family: no place twice, sorted."""
    family = address.family(cluster_ip)
    internal = Kind.INTERNAL_LOCAL if service.internal_local else Kind.INTERNAL
    if not (port.node_port or service.external_ips or service.load_balancer_vips):
        return (Frontend(cluster_ip, port.protocol, port.port, internal),)
    external = Kind.EXTERNAL_LOCAL if service.external_local else Kind.EXTERNAL
    by_place: dict[Packed | None, Frontend] = {}
    if port.node_port:
        by_place[None] = Frontend(None, port.protocol, port.node_port, external)
    for ip in service.external_ips:
        if address.family(ip) is family and not select.is_no_destination(ip):
            by_place[ip] = Frontend(ip, port.protocol, port.port, external)
    vips = [ip for ip in service.load_balancer_vips
            if address.family(ip) is family and not select.is_no_destination(ip)]  # fmt: skip
    allowed = _source_ranges(service.source_ranges, vips, node) if vips else None
    for ip in vips:
        by_place[ip] = Frontend(ip, port.protocol, port.port, external, allowed)
    by_place[cluster_ip] = Frontend(cluster_ip, port.protocol, port.port, internal)
    return tuple(sorted(by_place.values(), key=lambda frontend: frontend.place))


def _source_ranges(ranges: tuple[Prefix, ...], vips: list[Packed], node: NodeFacts) -> tuple[Prefix, ...] | None:
    """Return the ranges of the VIPs' family that may come, none inside another; None when everybody may.

    The node may come from a VIP itself when its own address is allowed: balancers often put the VIP on the node, and
    then the kernel picks it as source (kube-proxy's `allowFromNode`).
    """
    family = address.family(vips[0])
    ours = {prefix for prefix in ranges if prefix.family is family}
    if not ours or any(prefix.length == 0 for prefix in ours):
        return None
    if any(ip in prefix for prefix in ours for ip in node.node_ips):
        ours |= {Prefix(vip, family.bits) for vip in vips}
    kept: list[Prefix] = []
    for prefix in sorted(ours):
        if not kept or prefix.network not in kept[-1]:
            kept.append(prefix)
    return tuple(kept)
