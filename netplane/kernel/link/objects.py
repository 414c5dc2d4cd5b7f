"""The facts of a network namespace's links, and commands on them as data. Bytes are encode's and decode's.

Addresses are packed (4 or 16 bytes), MAC addresses are 6 bytes, link indices are those of the namespace spoken to.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Literal, TypeAlias

SCOPE_UNIVERSE = 0
SCOPE_LINK = 253
MAIN_TABLE = 254
KERNEL_PROTOCOL = 2
BOOT_PROTOCOL = 3

RouteType = Literal["unicast", "unreachable", "blackhole"]


@dataclass(frozen=True, slots=True)
class Veth:
    """A pair of virtual cables. The peer is born in the namespace that the open file `namespace` is, or next to it.

    Both ends are down; empty values are the kernel's to choose. `peer_index` 0 lets it choose; a chosen one saves a
    look-up and is free in a fresh namespace.
    """

    name: str
    peer: str
    namespace: int | None = None
    mac: bytes = b""
    peer_mac: bytes = b""
    peer_index: int = 0
    mtu: int = 0
    group: int = 0


@dataclass(frozen=True, slots=True)
class Bridge:
    """A learning switch. With `asks_for_groups` it queries for members of multicast groups and sends to them alone."""

    name: str
    mac: bytes = b""
    mtu: int = 0
    asks_for_groups: bool = False


@dataclass(frozen=True, slots=True)
class Vxlan:
    """A VXLAN tunnel end (RFC 7348) without learning: what it forwards where is said by `Forward` alone.

    `underlay` is the index of the link that its packets leave by, 0 to follow the routes.
    """

    name: str
    vni: int
    port: int
    local: bytes
    underlay: int = 0
    mac: bytes = b""
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class Dummy:
    """A link that leads nowhere: a place for addresses."""

    name: str
    mac: bytes = b""
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class WireGuard:
    """An encrypting tunnel end. Its key and peers are kernel/wireguard's."""

    name: str
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class LinkName:
    """A link of any kind, to be removed by its name."""

    name: str


@dataclass(frozen=True, slots=True)
class LinkGroup:
    """All links of a group: removing them together costs about as much as removing one."""

    group: int


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as the kernel lists it. `peer_index` is that of a veth's other end, in the peer's namespace."""

    index: int
    name: str
    kind: str = ""
    mac: bytes = b""
    mtu: int = 0
    is_up: bool = False
    master: int = 0
    group: int = 0
    alias: str = ""
    peer_index: int = 0
    vxlan: Vxlan | None = None


@dataclass(frozen=True, slots=True)
class LinkChange:
    """What to change of a link, named by index or, when that is 0, by name. None leaves a property as it is.

    `inet` sets IPv4 parameters (`INET_CONF`), as writing to /proc/sys/net/ipv4/conf/<link> would.
    `addr_gen_none` stops the kernel from making an IPv6 link-local address. `port` switches what it does as a bridge's
    port on and off (`PORT_CONF`); it must be one already.
    """

    index: int = 0
    name: str = ""
    is_up: bool | None = None
    mtu: int | None = None
    mac: bytes | None = None
    master: int | None = None
    group: int | None = None
    alias: str | None = None
    rename: str | None = None
    inet: tuple[tuple[str, int], ...] = ()
    addr_gen_none: bool = False
    port: tuple[tuple[str, bool], ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """An address of a link. `is_quiet` adds no route for its prefix; duplicate detection is never waited for."""

    index: int
    address: bytes
    length: int
    scope: int = SCOPE_UNIVERSE
    is_quiet: bool = False


@dataclass(frozen=True, slots=True, order=True)
class Route:
    """A route of the main table: packets to network/length leave by link `index`, by way of `via` when not empty.

    `mtu` holds for packets on this way, also forwarded ones; 0 leaves it to the link.
    `onlink` holds `via` for a neighbour even if no route says so. `protocol` tells who made it (rtnetlink's
    rtm_protocol); `source` is the preferred source address. `metric` 0 is the family's default.
    """

    network: bytes
    length: int
    index: int = 0
    via: bytes = b""
    protocol: int = BOOT_PROTOCOL
    source: bytes = b""
    metric: int = 0
    onlink: bool = False
    type: RouteType = "unicast"
    mtu: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Neighbour:
    """A permanent entry of the neighbour table: no ARP or NDP is spoken for it."""

    index: int
    address: bytes
    mac: bytes


@dataclass(frozen=True, slots=True, order=True)
class Forward:
    """A permanent forwarding entry of a VXLAN link: frames to `mac` go to the tunnel end at `remote`."""

    index: int
    mac: bytes
    remote: bytes


@dataclass(frozen=True, slots=True, order=True)
class PortEntry:
    """A static entry of a bridge's table: frames to `mac` leave by the port `index`. It ends with the port."""

    index: int
    mac: bytes


@dataclass(frozen=True, slots=True, order=True)
class TokenBucket:
    """A limit to what a link sends: `rate` in bytes per second, `burst` and `queue` in bytes (tc-tbf(8)).

    It is the link's root queue and ends with it.
    """

    index: int
    rate: int
    burst: int
    queue: int


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A place at a link for programs that see its packets (clsact, tc-bpf(8)). It ends with the link."""

    index: int


@dataclass(frozen=True, slots=True, order=True)
class Program:
    """A program, an open file, that sees what a link receives, or sends. It needs a `Place`, and is kept by it.

    Lower priorities see a packet first. Removing one needs no file.
    """

    index: int
    name: str
    priority: int
    is_arriving: bool
    file: int = -1


Thing: TypeAlias = (
    Veth
    | Bridge
    | Vxlan
    | Dummy
    | WireGuard
    | LinkName
    | LinkGroup
    | LinkChange
    | Address
    | Route
    | Neighbour
    | Forward
    | PortEntry
    | TokenBucket
    | Place
    | Program
)
Verb = Literal["add", "replace", "remove", "change"]


@dataclass(frozen=True, slots=True)
class Command:
    """One thing to do. Removing what is not there succeeds; `replace` adds, or takes the place of what is there."""

    verb: Verb
    thing: Thing

    def __str__(self) -> str:
        """Print it as people would: `add route 10.1.0.0/24 via 172.30.0.11 dev 2`."""
        return f"{self.verb} {describe(self.thing)}"


def add(thing: Thing) -> Command:
    """Return the command that makes it; EEXIST when it is there."""
    return Command("add", thing)


def replace(thing: Address | Route | Neighbour | Forward | PortEntry | TokenBucket | Place | Program) -> Command:
    """Return the command after which it is there, whatever was in its place."""
    return Command("replace", thing)


def remove(thing: Thing) -> Command:
    """Return the command after which it is not there."""
    return Command("remove", thing)


def change(thing: LinkChange) -> Command:
    """Return the command that changes a link."""
    return Command("change", thing)


def describe(thing: Thing) -> str:
    """Print a thing for people, in the words of ip(8)."""
    match thing:
        case Veth():
            return f"link {thing.name} type veth peer {thing.peer}"
        case Bridge():
            return f"link {thing.name} type bridge"
        case Vxlan():
            return f"link {thing.name} type vxlan id {thing.vni} local {ip(thing.local)} dstport {thing.port}"
        case Dummy():
            return f"link {thing.name} type dummy"
        case WireGuard():
            return f"link {thing.name} type wireguard"
        case LinkName():
            return f"link {thing.name}"
        case LinkGroup():
            return f"links of group {thing.group}"
        case LinkChange():
            return f"link {thing.name or thing.index}: {_changes(thing)}"
        case Address():
            return f"address {ip(thing.address)}/{thing.length} dev {thing.index}"
        case Route():
            return _route(thing)
        case Neighbour():
            return f"neighbour {ip(thing.address)} lladdr {thing.mac.hex(':')} dev {thing.index}"
        case Forward():
            return f"fdb {thing.mac.hex(':')} dst {ip(thing.remote)} dev {thing.index}"
        case PortEntry():
            return f"fdb {thing.mac.hex(':')} dev {thing.index} master static"
        case TokenBucket():
            return f"qdisc dev {thing.index} tbf rate {thing.rate}bps burst {thing.burst} limit {thing.queue}"
        case Place():
            return f"qdisc dev {thing.index} clsact"
        case Program():
            return f"filter dev {thing.index} {'ingress' if thing.is_arriving else 'egress'} bpf {thing.name}"


def ip(packed: bytes) -> str:
    """Print a packed address; the empty one is `any`."""
    return str(ipaddress.ip_address(packed)) if packed else "any"


def _route(route: Route) -> str:
    parts = [f"route {ip(route.network)}/{route.length}"]
    if route.type != "unicast":
        parts.insert(0, route.type)
    if route.via:
        parts.append(f"via {ip(route.via)}")
    if route.index:
        parts.append(f"dev {route.index}")
    if route.onlink:
        parts.append("onlink")
    if route.source:
        parts.append(f"src {ip(route.source)}")
    if route.mtu:
        parts.append(f"mtu {route.mtu}")
    return " ".join(parts)


def _changes(thing: LinkChange) -> str:
    states = {True: "up", False: "down"}
    parts = [states[thing.is_up]] if thing.is_up is not None else []
    parts += [f"mtu {thing.mtu}"] if thing.mtu is not None else []
    parts += [f"address {thing.mac.hex(':')}"] if thing.mac is not None else []
    parts += [f"master {thing.master}"] if thing.master is not None else []
    parts += [f"group {thing.group}"] if thing.group is not None else []
    parts += [f"alias {thing.alias}"] if thing.alias is not None else []
    parts += [f"name {thing.rename}"] if thing.rename is not None else []
    parts += [f"{name}={value}" for name, value in thing.inet]
    parts += ["addrgenmode none"] if thing.addr_gen_none else []
    parts += [f"port {name} {'on' if is_on else 'off'}" for name, is_on in thing.port]
    return " ".join(parts)
