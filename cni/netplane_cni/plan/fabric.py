"""Say how this node reaches the pods of the others: routes, tunnel ends, neighbours. Doing it is run/fabric.

Everything follows from the Node objects alone, so nothing is learnt, flooded or asked for:

    vxlan    10.244.2.0/24 via 10.244.2.0 dev np.vxlan onlink   the other node's tunnel end, by the name of its address
             neighbour 10.244.2.0 lladdr 02:..                  its MAC address, computed from the node's name
             fdb 02:.. dst 172.30.0.12                          frames to that go to the node
    direct   10.244.2.0/24 via 172.30.0.12                      for nodes on one link
    auto     direct to the nodes whose address is on this node's link, vxlan to the others
    wireguard  10.244.2.0/24 dev np.wg                         encrypted, to all nodes or to those of other zones
    bgp      what routers and other nodes announce: plan/bgp

To where only encrypted packets may go, an `unreachable` route stands behind the encrypted one: nothing leaves in plain
while the device is away or the other node's key is not known yet.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from netplane.kernel.link.diff import Paths
from netplane.kernel.link.objects import Forward, Neighbour, Route, Vxlan, WireGuard
from netplane.model import address
from netplane.model.node import Node
from netplane_cni.plan import wireguard

Mode = Literal["vxlan", "direct", "auto", "wireguard", "bgp"]
Encryption = Literal["all", "zones"]

Checksum = Literal["auto", "offload", "software"]

SOUND_CHECKSUMS = (5, 7)
"""The first Linux that gets the offloaded checksum of a masqueraded packet in a tunnel right (ea64d8d6c675)."""

FABRIC_PROTOCOL = 110
"""The maker of our routes between nodes in the kernel's tables (rtm_protocol); others' routes are not ours to touch."""

DEVICE = "np.vxlan"
MAC_ANNOTATION = "netplane.io/vtep-mac"
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


@dataclass(frozen=True, slots=True)
class Underlay:
    """The link of this node that carries its address, as found in the kernel. `networks` are directly behind it."""

    index: int
    mtu: int
    networks: tuple[address.Prefix, ...] = ()


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
    family = underlay_family(me)
    peers, problems = _peers(nodes, me, family, settings)
    if settings.mode == "bgp":
        return Plan(None, (), underlay.mtu, (), {}, settings.mode)  # BIRD makes the routes, as plan/bgp tells it
    if settings.mode == "direct":
        return Plan(None, (), underlay.mtu, peers, problems, settings.mode)
    mtu = underlay.mtu - OVERHEAD[family]
    local = me.ip(family)
    assert local is not None  # underlay_family has seen it
    tunnel = Vxlan(DEVICE, settings.vni, settings.port, local, underlay.index, mac_of(me), mtu)
    ends = tuple(cidr.network for cidr in me.pod_cidrs)
    if settings.mode != "wireguard":
        return Plan(tunnel, ends, mtu, peers, problems, settings.mode)
    mtu = underlay.mtu - wireguard.OVERHEAD[family]
    others = [node for name, node in nodes.items() if name != me.name and is_sealed(me, node, settings)]
    return Plan(
        tunnel if settings.encryption == "zones" else None,
        ends,
        mtu,
        tuple(peer for peer in peers if not is_sealed(me, peer, settings)),
        problems,
        settings.mode,
        WireGuard(wireguard.DEVICE, mtu),
        tuple(peer for peer in peers if is_sealed(me, peer, settings)),
        tuple(sorted({cidr for node in others for cidr in node.pod_cidrs} - set(me.pod_cidrs))),
    )


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
    families = {underlay_family(me)}
    if plan.mode in ("direct", "auto"):
        families |= {cidr.family for cidr in me.pod_cidrs}
    ips = (peer.ip(family) for peer in (*plan.peers, *plan.sealed) for family in families)
    return frozenset(ip for ip in ips if ip is not None)


def narrowed(found: Paths, plan: Plan, me: Node, *, limits: Mapping[address.Packed, int]) -> Paths:
    """Return the paths with an MTU on the routes whose way takes less than the node's own link does.

    `limits` are the largest packets that the underlay carries to an address.
    """
    if not limits:
        return found
    family = underlay_family(me)
    tunnels = {
        (cidr.network, cidr.length): limits.get(peer.ip(family) or b"", 0) - overhead[family]
        for peers, overhead in ((plan.peers, OVERHEAD), (plan.sealed, wireguard.OVERHEAD))
        for peer in peers
        for cidr in peer.pod_cidrs
    }

    def mtu(route: Route) -> int:
        is_tunnel = route.type == "unicast" and route.via in (b"", route.network)
        return limits.get(route.via, 0) if not is_tunnel else max(0, tunnels.get((route.network, route.length), 0))

    routes = frozenset(replace(route, mtu=mtu(route)) for route in found.routes)
    return Paths(routes, found.neighbours, found.forwards)


def paths(plan: Plan, me: Node, *, underlay: Underlay, tunnel_index: int = 0, encrypted_index: int = 0) -> Paths:
    """Return the routes, neighbours and forwarding entries of the plan."""
    routes = {Route(*cidr, protocol=FABRIC_PROTOCOL, type="unreachable") for cidr in me.pod_cidrs}
    # Without it a packet to a pod of ours that is no more would take the default route, come back, and circle.
    routes |= {Route(*cidr, 0, b"", FABRIC_PROTOCOL, b"", CLOSED_METRIC, type="unreachable") for cidr in plan.closed}
    for peer in plan.sealed:
        routes |= {Route(*cidr, encrypted_index, b"", FABRIC_PROTOCOL, _source(me, cidr)) for cidr in _cidrs(peer, me)}
    if plan.tunnel is None:
        return Paths(frozenset(routes | _direct_routes(plan.peers, underlay)))
    family, is_auto = address.family(plan.tunnel.local), plan.mode in ("auto", "wireguard")
    neighbours, forwards = set(), set()
    for peer in plan.peers:
        mac, remote = mac_of(peer), peer.ip(family)
        assert remote is not None  # _peers has seen it
        near = {cidr for cidr in _cidrs(peer, me) if is_auto and _is_near(peer.ip(cidr.family), underlay)}
        routes |= {Route(*cidr, underlay.index, peer.ip(cidr.family) or b"", FABRIC_PROTOCOL) for cidr in near}
        far = [cidr for cidr in _cidrs(peer, me) if cidr not in near]
        if far:
            forwards.add(Forward(tunnel_index, mac, remote))
        for cidr in far:
            neighbours.add(Neighbour(tunnel_index, cidr.network, mac))
            routes.add(Route(*cidr, tunnel_index, cidr.network, FABRIC_PROTOCOL, _source(me, cidr), onlink=True))
    return Paths(frozenset(routes), frozenset(neighbours), frozenset(forwards))


def _source(me: Node, cidr: address.Prefix) -> address.Packed:
    """Return the source of what the node itself sends there: an address whose way back is the tunnel, too."""
    return next((own.network for own in me.pod_cidrs if own.family is cidr.family), b"")


def _is_near(ip: address.Packed | None, underlay: Underlay) -> bool:
    return ip is not None and address.any_contains(underlay.networks, ip)


def _direct_routes(peers: Iterable[Node], underlay: Underlay) -> set[Route]:
    found = set()
    for peer in peers:
        for cidr in peer.pod_cidrs:
            via = peer.ip(cidr.family)
            if via is not None:
                found.add(Route(*cidr, underlay.index, via, FABRIC_PROTOCOL))
    return found


def _cidrs(peer: Node, me: Node) -> tuple[address.Prefix, ...]:
    ours = {cidr.family for cidr in me.pod_cidrs}
    return tuple(cidr for cidr in peer.pod_cidrs if cidr.family in ours)


def _peers(
    nodes: Mapping[str, Node], me: Node, family: address.Family, settings: Settings
) -> tuple[tuple[Node, ...], dict[str, str]]:
    """Return the nodes to make paths to, and why not to the others. Those not `is_placed` are simply early."""
    peers: list[Node] = []
    problems = _clashes(nodes, me)
    macs = {mac_of(me): me.name}
    for name in sorted(nodes):
        node = nodes[name]
        if name == me.name or not is_placed(node):
            continue
        why = problems.get(name) or problem(node, me, family, settings)
        if not why and is_sealed(me, node, settings):
            why = wireguard.problem(node)
        elif not why and settings.mode != "direct" and mac_of(node) in macs:
            why = f"its tunnel end has the MAC address of {macs[mac_of(node)]}"
        if why:
            problems[name] = why
            continue
        macs[mac_of(node)] = name
        peers.append(node)
    return tuple(peers), problems


def _clashes(nodes: Mapping[str, Node], me: Node) -> dict[str, str]:
    """Return the nodes whose pod network overlaps another's: never `me`, else the one whose name comes later.

    Sorted by first address, then size, what overlaps a network follows it directly: one pass over 5,000 nodes.
    """
    cidrs = sorted((*cidr, name) for name, node in {**nodes, me.name: me}.items() for cidr in node.pod_cidrs)
    found: dict[str, str] = {}
    wide, owner = address.Prefix(b"", 0), ""
    for network, length, name in cidrs:
        if network in wide and name != owner:
            loser = max(name, owner) if me.name not in (name, owner) else name if owner == me.name else owner
            found[loser] = f"its pod network overlaps that of {owner if loser == name else name}"
            if loser == name:
                continue
        if network not in wide or name != owner:
            wide, owner = address.Prefix(network, length), name
    return found


def problem(node: Node, me: Node, family: address.Family, settings: Settings) -> str:
    """Say why no path can be made by a node's addresses; "" when one can."""
    families = {family} if settings.mode != "direct" else {cidr.family for cidr in node.pod_cidrs}
    for needed in sorted(families):
        theirs = node.ip(needed)
        if theirs is None:
            return f"it has no {needed} address"
        if theirs == me.ip(needed):
            return f"it has the address {address.text(theirs)} of this node: a NAT address that all share?"
    return ""
