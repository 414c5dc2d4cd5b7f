"""Write BIRD's configuration: this node's pod networks to its peers, theirs into the kernel. Running it is run/bgp.

Only addresses and numbers get into the text, parsed before; nothing that a user or another node wrote does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from netplane.model import address
from netplane.model.node import Node
from netplane_cni.plan.fabric import Underlay

PEERS_ANNOTATION = "netplane.io/bgp-peers"
"""More peers of one node: the routers of its rack, as `172.30.0.1:64513,fd00::1:64513`."""
BIRD_PROTOCOL = 12
"""The maker of BIRD's routes in the kernel's tables; it cannot be told another."""
PRIVATE_AS = 64512
_LETTER = {address.Family.V4: 4, address.Family.V6: 6}


@dataclass(frozen=True, slots=True, order=True)
class Peer:
    """A router, or route reflector, to speak to."""

    ip: address.Packed
    asn: int


@dataclass(frozen=True, slots=True)
class Settings:
    """How this node speaks BGP. `mesh` adds all nodes on the same link as peers."""

    asn: int = PRIVATE_AS
    peers: tuple[Peer, ...] = ()
    mesh: bool = True
    bfd: bool = False


def peer(written: str) -> Peer:
    """Read `172.30.0.1:64513` or `fd00::1:64513` (or with the address in brackets); ValueError when it is none."""
    ip, _, asn = written.strip().rpartition(":")
    try:
        found = Peer(address.parse(ip.strip("[]")), int(asn))
    except ValueError as error:
        raise ValueError(f"{written!r} is no BGP peer: write ADDRESS:AS, as 172.30.0.1:64513") from error
    if not 0 < found.asn < 1 << 32:
        raise ValueError(f"{written!r} is no BGP peer: an AS number is between 1 and 4294967295")
    return found


def peers_of(node: Node) -> tuple[Peer, ...]:
    """Return the peers that a Node's annotation adds; ValueError when it makes no sense."""
    written = node.annotations.get(PEERS_ANNOTATION, "")
    try:
        return tuple(peer(one) for one in written.split(",") if one.strip())
    except ValueError as error:
        raise ValueError(f"annotation {PEERS_ANNOTATION}: {error}") from error


def text(
    nodes: Mapping[str, Node],
    me: Node,
    *,
    underlay: Underlay,
    settings: Settings,
    inside: Sequence[address.Prefix] = (),
) -> str:
    """Return the configuration. Of a router's routes those `inside` are taken, or all but the default when empty."""
    routers = sorted({*settings.peers, *peers_of(me)})
    return "".join(
        f"{line}\n"
        for line in (
            *_head(me),
            *_kernel(me),
            *_filters(me, inside),
            *(("protocol bfd { interface \"*\" { interval 100 ms; multiplier 3; }; }",) if settings.bfd else ()),
            *(line for one in routers for line in _session(one, me, settings, underlay, f"router_{one.ip.hex()}", "")),
            *(_mesh(nodes, me, settings, underlay) if settings.mesh else ()),
        )
    )  # fmt: skip


def silence(me: Node | None) -> str:
    """Return a configuration without peers: BIRD takes its routes out of the kernel."""
    router = me.ip(address.Family.V4) if me else None
    lines = [*_head_of(router or b"\x7f\0\0\1"), *(_kernel_of(family, is_kept=False) for family in address.Family)]
    return "".join(f"{line}\n" for line in lines)


def _head(me: Node) -> Iterator[str]:
    yield from _head_of(me.ip(address.Family.V4) or _router_id(me))


def _head_of(router: address.Packed) -> Iterator[str]:
    yield "# Written by netplane, and written anew when nodes change."
    yield "log syslog { warning, error, fatal, bug, auth };"
    yield f"router id {address.text(router)};"
    yield "graceful restart wait 20;"
    yield "protocol device { scan time 5; }"


def _router_id(me: Node) -> address.Packed:
    # A node without IPv4 needs 32 bits of its own all the same (RFC 6286): the end of its address.
    ip = me.ip(address.Family.V6) or bytes(15) + b"\1"
    return ip[-4:] if ip[-4:] != bytes(4) else b"\0\0\0\1"


def _kernel(me: Node) -> Iterator[str]:
    for family in _families(me):
        yield _kernel_of(family, is_kept=True)
        number = _LETTER[family]
        routes = " ".join(f"route {cidr} unreachable;" for cidr in me.pod_cidrs if cidr.family is family)
        yield f"protocol static pods{number} {{ ipv{number}; {routes} }}"


def _kernel_of(family: address.Family, *, is_kept: bool) -> str:
    number = _LETTER[family]
    export = "if source = RTS_BGP then accept; reject;" if is_kept else "reject;"
    kept = " persist; graceful restart;" if is_kept else ""
    return (
        f"protocol kernel kernel{number} {{ scan time 5;{kept}"
        f" ipv{number} {{ import none; export filter {{ {export} }}; }}; }}"
    )


def _filters(me: Node, inside: Sequence[address.Prefix]) -> Iterator[str]:
    for family in _families(me):
        number = _LETTER[family]
        own = _set(cidr for cidr in me.pod_cidrs if cidr.family is family)
        wanted = [cidr for cidr in inside if cidr.family is family]
        accept = f"if net ~ {_set(wanted)} then accept; reject;" if wanted else "if net.len = 0 then reject; accept;"
        yield f"filter routers{number} {{ if net ~ {own} then reject; {accept} }}"
        # Never what came from others: a node is no router between two of its peers.
        yield f"filter ours{number} {{ if source = RTS_STATIC then accept; reject; }}"


def _mesh(nodes: Mapping[str, Node], me: Node, settings: Settings, underlay: Underlay) -> Iterator[str]:
    family = address.Family.V4 if me.ip(address.Family.V4) else address.Family.V6
    for name in sorted(nodes):
        ip = nodes[name].ip(family)
        if (
            name == me.name
            or ip is None
            or not nodes[name].pod_cidrs
            or not address.any_contains(underlay.networks, ip)
        ):
            continue
        theirs = [cidr for cidr in nodes[name].pod_cidrs if cidr not in me.pod_cidrs]
        for own in _families(me):
            cidrs = [cidr for cidr in theirs if cidr.family is own]
            accept = f"if net ~ {_set(cidrs, exact=True)} then accept; " if cidrs else ""
            yield f"filter node_{ip.hex()}_{_LETTER[own]} {{ {accept}reject; }}"
        yield from _session(Peer(ip, settings.asn), me, settings, underlay, f"node_{ip.hex()}", f"node_{ip.hex()}_")


def _session(one: Peer, me: Node, settings: Settings, underlay: Underlay, name: str, filters: str) -> Iterator[str]:
    family = address.family(one.ip)
    local = me.ip(family)
    if local is None:
        return
    is_near = address.any_contains(underlay.networks, one.ip)
    yield f"protocol bgp {name} {{"
    yield f"  local {address.text(local)} as {settings.asn}; neighbor {address.text(one.ip)} as {one.asn};"
    yield f"  {'direct' if is_near else 'multihop'}; hold time 9; keepalive time 3; graceful restart on;"
    yield "  connect retry time 2; connect delay time 1; error wait time 1, 10;"
    if settings.bfd:
        yield "  bfd on;"
    if one.asn != settings.asn:
        # All nodes have one number, so a route from node to node by way of a router bears it.
        yield "  allow local as;"
    for own in _families(me):
        number = _LETTER[own]
        theirs = f"{filters or 'routers'}{number}"
        if own is family:
            hop = "next hop self;"
        elif (other := me.ip(own)) is not None:
            hop = f"next hop address {address.text(other)};"
        elif own is address.Family.V4:
            hop = "next hop self; extended next hop;"  # RFC 8950
        else:
            continue
        yield f"  ipv{number} {{ import filter {theirs}; export filter ours{number}; {hop} }};"
    yield "}"


def _families(me: Node) -> list[address.Family]:
    return [family for family in address.Family if any(cidr.family is family for cidr in me.pod_cidrs)]


def _set(cidrs: Iterable[address.Prefix], *, exact: bool = False) -> str:
    return "[ " + ", ".join(f"{cidr}{'' if exact else '+'}" for cidr in sorted(cidrs)) + " ]"
