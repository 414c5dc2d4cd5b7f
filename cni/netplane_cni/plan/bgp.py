"""Write BIRD's configuration: this node's pod networks to its routers, theirs into the kernel. Running it is run/bgp.

Only addresses and numbers get into the text, parsed before; nothing that a user or another node wrote does. It says
nothing of the other nodes, so that BIRD, which reads its configuration whole, need not hear of those that come and go:
the ways to nodes on the same link follow from their Node objects (plan/fabric), those to all others routers announce.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from netplane.model import address
from netplane.model.node import Node
from netplane_cni.plan.fabric import Underlay

PEERS_ANNOTATION = "netplane.io/bgp-peers"
"""More peers of one node: the routers of its rack, as `172.30.0.1:64513,fd00::1:64513`."""
BIRD_PROTOCOL = 12
"""The maker of BIRD's routes in the kernel's tables; it cannot be told another."""
PRIVATE_AS = 64512
METRIC = 4096
"""Of BIRD's routes: those that follow from Node objects come before."""
PORT = 10179
"""Where BIRD listens, for it cannot be told not to: we call routers, and they do not call us.

On BGP's own port they would do so at the same time, and BIRD takes a second connection within an established session
for a peer that has just restarted (bgp_incoming_connection): it drops the session, and a router that hears of a second
restart within the first drops its routes to us (RFC 4724, section 4.2).
"""
_LETTER = {address.Family.V4: 4, address.Family.V6: 6}


@dataclass(frozen=True, slots=True, order=True)
class Peer:
    """A router, or route reflector, to speak to."""

    ip: address.Packed
    asn: int


@dataclass(frozen=True, slots=True)
class Settings:
    """How this node speaks BGP."""

    asn: int = PRIVATE_AS
    peers: tuple[Peer, ...] = ()
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


def text(me: Node, *, underlay: Underlay, settings: Settings, inside: Sequence[address.Prefix] = ()) -> str:
    """Return the configuration. Of a router's routes those `inside` are taken, or all but the default when empty."""
    routers = sorted({*settings.peers, *peers_of(me)})
    return "".join(
        f"{line}\n"
        for line in (
            *_head(me),
            *_kernel(me),
            *_filters(me, inside),
            *(("protocol bfd { interface \"*\" { interval 100 ms; multiplier 3; }; }",) if settings.bfd else ()),
            *(line for one in routers for line in _session(one, me, settings, underlay)),
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
    yield "# Written by netplane, and written anew when the node or its routers change."
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
        f"protocol kernel kernel{number} {{ scan time 5; metric {METRIC};{kept}"
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


def _session(one: Peer, me: Node, settings: Settings, underlay: Underlay) -> Iterator[str]:
    family = address.family(one.ip)
    local = me.ip(family)
    if local is None:
        return
    is_near = address.any_contains(underlay.networks, one.ip)
    yield f"protocol bgp router_{one.ip.hex()} {{"
    yield f"  local {address.text(local)} port {PORT} as {settings.asn};"
    yield f"  neighbor {address.text(one.ip)} as {one.asn};"
    yield f"  {'direct' if is_near else 'multihop'}; hold time 9; keepalive time 3; graceful restart on;"
    yield "  connect retry time 2; connect delay time 1; error wait time 1, 10;"
    if settings.bfd:
        yield "  bfd on;"
    if one.asn != settings.asn:
        # All nodes have one number, so a route from node to node by way of a router bears it.
        yield "  allow local as;"
    for own in _families(me):
        number = _LETTER[own]
        if own is family:
            hop = "next hop self;"
        elif (other := me.ip(own)) is not None:
            hop = f"next hop address {address.text(other)};"
        elif own is address.Family.V4:
            hop = "next hop self; extended next hop;"  # RFC 8950
        else:
            continue
        yield f"  ipv{number} {{ import filter routers{number}; export filter ours{number}; {hop} }};"
    yield "}"


def _families(me: Node) -> list[address.Family]:
    return [family for family in address.Family if any(cidr.family is family for cidr in me.pod_cidrs)]


def _set(cidrs: Iterable[address.Prefix]) -> str:
    return "[ " + ", ".join(f"{cidr}+" for cidr in sorted(cidrs)) + " ]"
