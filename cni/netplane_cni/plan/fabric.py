"""Say how this node reaches the pods of the others: routes, tunnel ends, neighbours. Doing it is run/fabric.

Everything follows from the Node objects alone, so nothing is learnt, flooded or asked for:

    vxlan    10.244.2.0/24 via 10.244.2.0 dev np.vxlan onlink   the other node's tunnel end, by the name of its address
             neighbour 10.244.2.0 lladdr 02:..                  its MAC address, computed from the node's name
             fdb 02:.. dst 172.30.0.12                          frames to that go to the node
    direct   10.244.2.0/24 via 172.30.0.12                      for nodes on one link
    auto     direct to the nodes whose address is on this node's link, vxlan to the others
    wireguard  10.244.2.0/24 dev np.wg                         encrypted, to all nodes or to those of other zones
    bgp      direct to the nodes on this node's link; to the others as routers announce: plan/bgp

To where only encrypted packets may go, an `unreachable` route stands behind the encrypted one: nothing leaves in plain
while the device is away or the other node's key is not known yet.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from netplane.kernel.link.diff import Paths
from netplane.kernel.link.objects import Forward, Link, Neighbour, Route, Vxlan, WireGuard
from netplane.model import address
from netplane.model.node import Node
from netplane_cni.plan import wireguard
from netplane_cni.plan.claims import Claims

Mode = Literal["vxlan", "direct", "auto", "wireguard", "bgp"]
Encryption = Literal["all", "zones"]

Checksum = Literal["auto", "offload", "software"]

SOUND_CHECKSUMS = (5, 7)
"""The first Linux that gets the offloaded checksum of a masqueraded packet in a tunnel right (ea64d8d6c675)."""

FABRIC_PROTOCOL = 110
"""The maker of our routes between nodes in the kernel's tables (rtm_protocol); others' routes are not ours to touch."""

DEVICE = "np.vxlan"
MAC_ANNOTATION = "netplane.io/vtep-mac"
METRICS = 1024
UNBOUNDED = 1 << 16
"""More than any packet has bytes."""
CLOSED_METRIC = 1 << 20
"""Of the routes that refuse what must not leave in plain: any other of ours comes before."""
OVERHEAD = {address.Family.V4: 50, address.Family.V6: 70}
"""What VXLAN adds: outer IP, UDP 8, VXLAN 8, inner Ethernet 14."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How nodes are joined. All nodes of a cluster must have the same."""

    mode: Mode = "vxlan"
    vni: int = 1
    port: int = 4789
    checksum: Checksum = "auto"
    encryption: Encryption = "all"
    wireguard_port: int = 51820
    mesh: bool = True
    """With `bgp`: whether nodes on one link reach each other without a router."""


@dataclass(frozen=True, slots=True)
class Underlay:
    """The link of this node that carries its address, as found in the kernel. `networks` are directly behind it."""

    index: int
    mtu: int
    networks: tuple[address.Prefix, ...] = ()


@dataclass(frozen=True, slots=True)
class Where:
    """What this machine adds: its link, the indices of its tunnels, and what narrow paths take.

    `limits` are the largest packets that the underlay carries to an address, where it is less than the link takes.
    """

    underlay: Underlay
    tunnel: int = 0
    encrypted: int = 0
    limits: Mapping[address.Packed, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """What this node shall have. `tunnel` is None where no node needs it; `problems` are for the user, by node.

    `peers` are reached in plain, `sealed` by way of `encrypted`, which is None where nothing is; to the networks
    `closed` nothing may go in plain.
    """

    tunnel: Vxlan | None
    tunnel_addresses: tuple[address.Packed, ...]
    mtu: int
    peers: tuple[Node, ...]
    problems: Mapping[str, str]
    mode: Mode = "vxlan"
    encrypted: WireGuard | None = None
    sealed: tuple[Node, ...] = ()
    closed: tuple[address.Prefix, ...] = ()


def plan(nodes: Mapping[str, Node], me: Node, *, underlay: Underlay, settings: Settings) -> Plan:
    """Return what `me` needs to reach the pods of all `nodes`. The same nodes in any order give the same plan."""
    plan = frame(me, underlay=underlay, settings=settings)
    known = claims(({**nodes, me.name: me}).values(), me)
    problems = {name: why for name in sorted(nodes) if (why := obstacle(nodes[name], me, known, settings))}
    peers = [nodes[name] for name in sorted(nodes) if is_reachable(nodes[name], me, problems, underlay, settings)]
    return replace(
        plan,
        peers=tuple(peer for peer in peers if not is_sealed(me, peer, settings)),
        problems=problems,
        sealed=tuple(peer for peer in peers if is_sealed(me, peer, settings)),
        closed=tuple(sorted({cidr for node in nodes.values() for cidr in shut(node, me, settings)})),
    )


def frame(me: Node, *, underlay: Underlay, settings: Settings) -> Plan:
    """Return what a node needs whoever the others are."""
    if settings.mode in ("bgp", "direct"):
        return Plan(None, (), underlay.mtu, (), {}, settings.mode)
    family = underlay_family(me)
    mtu = underlay.mtu - OVERHEAD[family]
    local = me.ip(family)
    assert local is not None  # underlay_family has seen it
    tunnel = Vxlan(DEVICE, settings.vni, settings.port, local, underlay.index, mac_of(me), mtu)
    ends = tuple(cidr.network for cidr in me.pod_cidrs)
    if settings.mode != "wireguard":
        return Plan(tunnel, ends, mtu, (), {}, settings.mode)
    mtu = underlay.mtu - wireguard.OVERHEAD[family]
    plain = tunnel if settings.encryption == "zones" else None
    return Plan(plain, ends, mtu, (), {}, settings.mode, WireGuard(wireguard.DEVICE, mtu))


def is_reachable(node: Node, me: Node, problems: Container[str], underlay: Underlay, settings: Settings) -> bool:
    """Tell whether a node gets paths of ours: another one, complete, nothing in the way, and no matter of routers."""
    if node.name == me.name or node.name in problems or not is_placed(node):
        return False
    if settings.mode != "bgp":
        return True
    return settings.mesh and any(_is_near(node.ip(cidr.family), underlay) for cidr in _cidrs(node, me))


def shut(node: Node, me: Node, settings: Settings) -> frozenset[address.Prefix]:
    """Return the networks of a node to which nothing may go in plain."""
    if node.name == me.name or not is_sealed(me, node, settings):
        return frozenset()
    return frozenset(node.pod_cidrs) - frozenset(me.pod_cidrs)


def is_sealed(me: Node, other: Node, settings: Settings) -> bool:
    """Tell whether packets between two nodes are encrypted. A zone that is not known is no common zone."""
    if settings.mode != "wireguard":
        return False
    return settings.encryption == "all" or not me.zone or me.zone != other.zone


def has_sound_checksums(release: str) -> bool:
    """Tell what is known of a kernel that could not be tried; `release` is what uname(1) -r prints.

    Older ones than `SOUND_CHECKSUMS` spoil some, and the packets are lost.
    """
    found = re.match(r"(\d+)\.(\d+)", release)
    return found is None or (int(found[1]), int(found[2])) >= SOUND_CHECKSUMS


def is_placed(node: Node) -> bool:
    """Tell whether a node has its address and its pod network; agent and controllers give them soon after its birth."""
    return bool(node.pod_cidrs and (node.internal_ips or node.external_ips))


def underlay_family(me: Node) -> address.Family:
    """Return the family that tunnels run over: IPv4 where the node has it, for it is 20 bytes smaller.

    ValueError when the node has no address at all.
    """
    for family in address.Family:
        if me.ip(family) is not None:
            return family
    raise ValueError(f"Node {me.name} has no address in its status.addresses")


def mac_of(node: Node) -> bytes:
    """Return the MAC address of a node's tunnel end: as published, else computed from its name.

    A node installed anew under an old name keeps it, and a peer that joins can be reached before it has published.
    """
    published = node.annotations.get(MAC_ANNOTATION, "").lower()
    if re.fullmatch(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}", published):
        return bytes.fromhex(published.replace(":", ""))
    return computed_mac(node.name)


def computed_mac(name: str) -> bytes:
    """Return the MAC address that a node of this name gives its tunnel end: locally administered, of one interface."""
    return b"\x02" + hashlib.sha256(f"vtep\0{name}".encode()).digest()[:5]


def reached(plan: Plan, me: Node) -> frozenset[address.Packed]:
    """Return the addresses of the other nodes that packets on the underlay go to."""
    return frozenset(ip for peer in (*plan.peers, *plan.sealed) for ip in ends(peer, me, plan.mode))


def ends(peer: Node, me: Node, mode: Mode) -> frozenset[address.Packed]:
    """Return the addresses of a node that packets on the underlay go to."""
    families = {underlay_family(me)}
    if mode in ("direct", "auto", "bgp"):
        families |= {cidr.family for cidr in me.pod_cidrs}
    return frozenset(ip for family in families if (ip := peer.ip(family)) is not None)


def paths(plan: Plan, me: Node, where: Where) -> Paths:
    """Return the routes, neighbours and forwarding entries of the plan."""
    routes = {Route(*cidr, protocol=FABRIC_PROTOCOL, type="unreachable") for cidr in me.pod_cidrs}
    # Without it a packet to a pod of ours that is no more would take the default route, come back, and circle.
    routes |= {closing(cidr) for cidr in plan.closed}
    neighbours, forwards = set[Neighbour](), set[Forward]()
    for peers, is_sealed in ((plan.peers, False), (plan.sealed, True)):
        for peer in peers:
            found = way(peer, plan, me, where, is_sealed=is_sealed)
            routes |= found.routes
            neighbours |= found.neighbours
            forwards |= found.forwards
    return Paths(frozenset(routes), frozenset(neighbours), frozenset(forwards))


def closing(cidr: address.Prefix) -> Route:
    """Return the route that lets nothing out in plain."""
    return Route(*cidr, 0, b"", FABRIC_PROTOCOL, b"", CLOSED_METRIC, type="unreachable")


def way(peer: Node, plan: Plan, me: Node, where: Where, *, is_sealed: bool) -> Paths:
    """Return what leads to the pods of one node; of the plan what `frame` says is enough."""
    if is_sealed:
        mtu = _room(peer, me, where, wireguard.OVERHEAD)
        return Paths(
            frozenset(
                Route(*cidr, where.encrypted, b"", FABRIC_PROTOCOL, _source(me, cidr), mtu=mtu)
                for cidr in _cidrs(peer, me)
            )
        )
    if plan.mode == "direct":
        return Paths(frozenset(_direct(cidr, peer, where) for cidr in peer.pod_cidrs))
    is_split = plan.mode in ("auto", "bgp", "wireguard")
    near = [cidr for cidr in _cidrs(peer, me) if is_split and _is_near(peer.ip(cidr.family), where.underlay)]
    far = [cidr for cidr in _cidrs(peer, me) if cidr not in near]
    routes = [_direct(cidr, peer, where) for cidr in near]
    if not far or plan.tunnel is None:  # with bgp, far is what routers know the way to
        return Paths(frozenset(routes))
    mac, remote, mtu = mac_of(peer), peer.ip(address.family(plan.tunnel.local)), _room(peer, me, where, OVERHEAD)
    assert remote is not None  # `problem` has seen it
    routes += [
        Route(
            *cidr, where.tunnel, cidr.network, FABRIC_PROTOCOL, _source(me, cidr), _metric(cidr), onlink=True, mtu=mtu
        )
        for cidr in far
    ]
    neighbours = frozenset(Neighbour(where.tunnel, cidr.network, mac) for cidr in far)
    return Paths(frozenset(routes), neighbours, frozenset({Forward(where.tunnel, mac, remote)}))


def _direct(cidr: address.Prefix, peer: Node, where: Where) -> Route:
    via = peer.ip(cidr.family) or b""
    mtu = where.limits.get(via, 0)
    return Route(*cidr, where.underlay.index, via, FABRIC_PROTOCOL, metric=_metric(cidr), mtu=mtu)


def _metric(cidr: address.Prefix) -> int:
    """Return the metric of a route by way of another node.

    Linux looks for one like a new IPv4 route among all that share maker, source and metric, whatever their gateways
    (fib_info_hashfn): with one metric for 5,000 nodes a join takes 0.2 ms in the kernel, and the first load 0.4 s.
    """
    if cidr.family is address.Family.V6:
        return 0
    return 1 + (int.from_bytes(cidr.network, "big") >> (32 - cidr.length)) % METRICS


def _room(peer: Node, me: Node, where: Where, overhead: Mapping[address.Family, int]) -> int:
    """Return what a tunnel to a node takes, where that is less than the node's own link would allow; else 0."""
    family = underlay_family(me)
    return max(0, where.limits.get(peer.ip(family) or b"", 0) - overhead[family]) if where.limits else 0


def widths(links: Iterable[Link]) -> tuple[int, int]:
    """Return the MTU of the widest pod's cable (0 without any), and of the narrowest other link that is up."""
    cables, others = [0], [UNBOUNDED]
    for one in links:
        if one.name.startswith("np") and "." not in one.name:
            cables.append(one.mtu)
        elif one.is_up:
            others.append(one.mtu)
    return max(cables), min(others)


def _source(me: Node, cidr: address.Prefix) -> address.Packed:
    """Return the source of what the node itself sends there: an address whose way back is the tunnel, too."""
    return next((own.network for own in me.pod_cidrs if own.family is cidr.family), b"")


def _is_near(ip: address.Packed | None, underlay: Underlay) -> bool:
    return ip is not None and address.any_contains(underlay.networks, ip)


def _cidrs(peer: Node, me: Node) -> tuple[address.Prefix, ...]:
    ours = {cidr.family for cidr in me.pod_cidrs}
    return tuple(cidr for cidr in peer.pod_cidrs if cidr.family in ours)


def claims(nodes: Iterable[Node], me: Node) -> Claims:
    """Return what all nodes claim."""
    found = Claims(me.name)
    for node in nodes:
        found.add(node.name, node.pod_cidrs, claimed_mac(node))
    return found


def claimed_mac(node: Node) -> bytes:
    """Return the MAC address of a node's tunnel end; empty while it can have none."""
    return mac_of(node) if is_placed(node) else b""


def obstacle(node: Node, me: Node, known: Claims, settings: Settings) -> str:
    """Say why there is no path to a node; "" when there is one, or it is simply early: not `is_placed`."""
    if node.name == me.name or (settings.mode == "bgp" and not settings.mesh):
        return ""
    other = known.overlapped(node.name, node.pod_cidrs)
    if other:
        return f"its pod network overlaps that of {other}"
    why = problem(node, me, underlay_family(me), settings) if is_placed(node) else ""
    if why or not is_placed(node) or settings.mode in ("direct", "bgp"):
        return why
    if is_sealed(me, node, settings):
        return wireguard.problem(node)
    other = known.doubled(node.name, mac_of(node))
    return f"its tunnel end has the MAC address of {other}" if other else ""


def problem(node: Node, me: Node, family: address.Family, settings: Settings) -> str:
    """Say why no path can be made by a node's addresses; "" when one can."""
    is_plain = settings.mode in ("direct", "bgp")
    for needed in sorted({cidr.family for cidr in node.pod_cidrs} if is_plain else {family}):
        theirs = node.ip(needed)
        if theirs is None:
            if settings.mode == "bgp":
                continue  # routers may know the way all the same
            return f"it has no {needed} address"
        if theirs == me.ip(needed):
            return f"it has the address {address.text(theirs)} of this node: a NAT address that all share?"
    return ""
