"""Write the nftables text that translates addresses of pods: masquerade to the outside, host ports to pods.

One table per family, `netplane_cni`, wholly ours and replaced as one: what is in it follows from the facts alone.
Addresses come in packed and ports as numbers, so nothing a user wrote is ever in the text.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from netplane.kernel.nft import objects as nft
from netplane.kernel.nft.objects import IPV4, IPV6, PORT, PROTOCOL, Element, Set, Table
from netplane.model import address
from netplane_cni.plan import fabric, wireguard
from netplane_cni.plan.ipam import Lease

TABLE = "netplane_cni"
_WORD = {address.Family.V4: "ip", address.Family.V6: "ip6"}
_TYPE = {address.Family.V4: "ipv4_addr", address.Family.V6: "ipv6_addr"}
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
Frontend: TypeAlias = tuple[str, address.Packed, int, address.Family]
"""A port of the node: protocol, the node's address or empty for all, number, and family of the pods behind it."""

TUNNELS = (fabric.DEVICE, wireguard.DEVICE)
MULTICAST = {address.Family.V4: "224.0.0.0/4", address.Family.V6: "ff00::/8"}


class Flow(Protocol):
    """What matters of a tracked connection: where its first packet went, and who answers."""

    @property
    def destination(self) -> address.Packed:
        """The address that the client speaks to."""

    @property
    def port(self) -> int:
        """The port that the client speaks to."""

    @property
    def answering(self) -> address.Packed:
        """The address that its packets are led to."""

    @property
    def answering_port(self) -> int:
        """The port that its packets are led to."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the tables follow from: our pods' networks, the networks that are inside, and the leases with host ports.

    `node` are the addresses of this node, by which others reach its host ports. `clamps` where pods' TCP must be told
    what the way through the node takes, for their own links take more. `untracked` is the tunnel's UDP port where its
    outer packets are not tracked, else 0.
    """

    pods: tuple[address.Prefix, ...]
    inside: tuple[address.Prefix, ...]
    leases: tuple[Lease, ...] = ()
    masquerades: bool = True
    node: tuple[address.Packed, ...] = ()
    clamps: bool = False
    untracked: int = 0


class HostPort(NamedTuple):
    """One translation: packets to a port of the node go to a pod. `host_ip` is empty for all the node's addresses."""

    protocol: str
    host_ip: address.Packed
    host_port: int
    pod: address.Packed
    port: int

    @property
    def frontend(self) -> Frontend:
        """What no two may share."""
        return self.protocol, self.host_ip, self.host_port, address.family(self.pod)


def host_ports(leases: Iterable[Lease]) -> list[HostPort]:
    """Return the translations that the leases ask for, in order; of two that clash the first lease's."""
    found: dict[tuple[str, address.Packed, int, address.Family], HostPort] = {}
    for lease in sorted(leases, key=lambda lease: lease.key):
        for port in _of(lease):
            found.setdefault(port.frontend, port)
    return sorted(found.values())


def clash(lease: Lease, holder: Callable[[Frontend], Lease | None]) -> str:
    """Say which host port of the lease another container holds; "" when none. `holder` tells who holds one."""
    for port in _of(lease):
        other = holder(port.frontend)
        if other is not None and other.key != lease.key:
            return f"{port.protocol} host port {port.host_port} is held by {other.pod or other.container}"
    return ""


def is_stale(
    flow: Flow, *, added: Iterable[HostPort], gone: Iterable[HostPort], node: Collection[address.Packed]
) -> bool:
    """Tell whether a tracked UDP flow still goes where a host port led before it changed.

    UDP has no end that the kernel could see: a client that keeps sending keeps its old translation for ever.
    """
    answering = flow.answering, flow.answering_port
    if any(flow.port == port.host_port and answering == (port.pod, port.port) for port in gone):
        return True
    for port in added:
        is_to_it = flow.destination == port.host_ip if port.host_ip else flow.destination in node
        if is_to_it and flow.port == port.host_port and answering != (port.pod, port.port):
            return True
    return False


def _of(lease: Lease) -> Iterator[HostPort]:
    if lease.is_leaving:
        return
    for ip in lease.addresses:
        for port in lease.ports:
            if not port.host_ip or len(port.host_ip) == len(ip):
                yield HostPort(port.protocol, port.host_ip, port.host_port, ip, port.container_port)


@dataclass(frozen=True, slots=True)
class Sets:
    """The maps and sets of one family whose elements follow leases and nodes, without any change to a rule."""

    everywhere: Set
    somewhere: Set
    hairpin: Set
    inside: Set


def sets(family: address.Family) -> Sets:
    """Return them for a family."""
    number = IPV4 if family is address.Family.V4 else IPV6
    table, to = Table(number, TABLE), nft.ip("daddr", number)
    port, pod = (PROTOCOL, PORT), (to, PORT)
    return Sets(
        Set(table, "hostports", port, pod),
        Set(table, "hostports_at", (to, *port), pod),
        Set(table, "hairpin", (nft.ip("saddr", number), to)),
        Set(table, "inside", (to,), is_interval=True),
    )


SETS = {family: sets(family) for family in address.Family}


def elements(facts: Facts) -> dict[Set, list[Element]]:
    """Return what the sets of the families in use shall hold."""
    families = {prefix.family for prefix in facts.pods}
    found: dict[Set, list[Element]] = {}
    for family in sorted(families):
        some = SETS[family]
        blocks = merged(_of_family((*facts.pods, *facts.inside), family))
        inside = [block_element(block) for block in blocks]
        found |= {some.everywhere: [], some.somewhere: [], some.hairpin: [], some.inside: inside}
    ports = [port for port in host_ports(facts.leases) if address.family(port.pod) in families]
    return found | elements_of(ports)


def block_element(block: address.Prefix) -> Element:
    """Return the element of `inside` that a block is."""
    return Element(block.network, key_end=block.last)


def elements_of(ports: Iterable[HostPort]) -> dict[Set, list[Element]]:
    """Return the elements that these translations are, by set; sets that hold none of them are left out."""
    found: dict[Set, dict[Element, None]] = {}
    for port in ports:
        some = SETS[address.family(port.pod)]
        target, head = (some.somewhere, port.host_ip) if port.host_ip else (some.everywhere, b"")
        found.setdefault(target, {})[Element(head + _frontend(port), _backend(port))] = None
        found.setdefault(some.hairpin, {})[Element(port.pod + port.pod)] = None
    return {target: list(held) for target, held in found.items()}


def text(facts: Facts) -> str:
    """Return nft's text that replaces both tables, with all elements, in one transaction."""
    return "".join(_replacement(family, facts, elements(facts)) for family in address.Family)


def skeleton(facts: Facts) -> str:
    """Return the same without what follows leases and nodes: while it stays, elements alone need to change."""
    return "".join(_replacement(family, facts, {}) for family in address.Family)


def removal() -> str:
    """Return nft's text after which neither table is there."""
    return "".join(f"table {_WORD[f]} {TABLE} {{}}\ndelete table {_WORD[f]} {TABLE}\n" for f in address.Family)


def _replacement(family: address.Family, facts: Facts, held: Mapping[Set, Sequence[Element]]) -> str:
    # Naming the table makes it if it is not there, so that deleting it cannot fail.
    word = _WORD[family]
    head = f"table {word} {TABLE} {{}}\ndelete table {word} {TABLE}\n"
    pods = _of_family(facts.pods, family)
    if not pods:
        return head
    body = (*_sets(family, pods, held), *_chains(family, facts))
    return head + "\n".join((f"table {word} {TABLE} {{", *body, "}\n"))


def _sets(
    family: address.Family,
    pods: Sequence[address.Prefix],
    held: Mapping[Set, Sequence[Element]],
) -> Iterator[str]:
    listed = ", ".join(map(str, merged(pods)))
    yield f"  set pods {{ type {_TYPE[family]}; flags interval; elements = {{ {listed} }}; }}"
    some = SETS[family]
    for one in (some.inside, some.everywhere, some.somewhere, some.hairpin):
        listed = ", ".join(one.text(element) for element in held.get(one, ()))
        yield f"  {one.declaration[:-1]}elements = {{ {listed} }}; }}" if listed else f"  {one.declaration}"


def _chains(family: address.Family, facts: Facts) -> Iterator[str]:
    word = _WORD[family]
    for hook in ("prerouting", "output"):
        # After the Services' own translation: a Service that owns the address and port comes first.
        yield f"  chain {hook} {{"
        yield f"    type nat hook {hook} priority -90; policy accept;"
        # No 127.0.0.1: it would need route_localnet, which lets the link's neighbours reach loopback services.
        yield f"    {word} daddr {'127.0.0.0/8' if family is address.Family.V4 else '::1'} return"
        yield "    fib daddr type local jump to_pods"
        yield "  }"
    if family is address.Family.V6:
        yield from _own_sources()
    if facts.clamps:
        yield from _clamps(family)
    if facts.untracked:
        yield from _untracked(facts.untracked)
    yield "  chain to_pods {"
    yield f"    dnat {word} to {word} daddr . meta l4proto . th dport map @hostports_at"
    yield f"    dnat {word} to meta l4proto . th dport map @hostports"
    yield "  }"
    yield "  chain postrouting {"
    yield "    type nat hook postrouting priority 100; policy accept;"
    # A pod that reaches itself through its host port must not see itself as the peer: it would answer past us.
    yield f"    {word} saddr . {word} daddr @hairpin masquerade fully-random"
    if facts.masquerades:
        # fully-random: two flows that pick the same port at once would lose a packet, by DNS's 5 seconds.
        outside = f"{word} daddr != @inside {word} daddr != {MULTICAST[family]}"
        yield f"    {word} saddr @pods {outside} masquerade fully-random"
    yield "  }"


def _clamps(family: address.Family) -> Iterator[str]:
    """Tell both ends what the smallest link on the way through this node takes, also where no ICMP comes back.

    That is a pod's made before the path shrank, or with --mtu larger than it. The kernel only ever lowers the value.
    Where every way takes what pods send there is no such chain: it is 3 % of a small question and its answer.
    """
    yield "  chain clamp {"
    for end in ("saddr", "daddr"):
        yield f"    {_WORD[family]} {end} @pods tcp option maxseg size set rt mtu"
    yield "  }"
    yield "  chain forward {"
    yield "    type filter hook forward priority -150; policy accept;"
    # Of all packets but the first of a connection nothing more is looked at.
    yield "    tcp flags & (syn | rst) == syn jump clamp"
    yield "  }"


def _untracked(port: int) -> Iterator[str]:
    """Leave the tunnel's outer packets out of tracking: no answer to one ever comes, for each way has ports of its own.

    Only those of this node itself: what a pod sends to such a port is tracked, and masqueraded.
    """
    for hook, where in (("prerouting", " fib daddr type local"), ("output", "")):
        yield f"  chain tunnel_{hook} {{"
        yield f"    type filter hook {hook} priority -300; policy accept;"
        yield f"    udp dport {port}{where} notrack"
        yield "  }"


def _own_sources() -> Iterator[str]:
    """What rp_filter does for IPv4 and the kernel does not for IPv6: a pod speaks with its own address only.

    Before connections are tracked, so that a lie leaves no trace. Link-local and unspecified sources are neighbour
    discovery's.
    """
    yield "  chain sources {"
    yield "    type filter hook prerouting priority -310; policy accept;"
    yield '    iifname != "np*" return'
    names = ", ".join(f'"{name}"' for name in TUNNELS)
    yield f"    iifname {{ {names} }} return"
    yield "    ip6 saddr { ::, fe80::/10 } return"
    yield "    fib saddr . iif oif missing drop"
    yield "  }"


def _frontend(port: HostPort) -> bytes:
    # Every part of a key is padded to four bytes.
    return bytes([_PROTOCOLS[port.protocol], 0, 0, 0]) + port.host_port.to_bytes(2, "big") + bytes(2)


def _backend(port: HostPort) -> bytes:
    return port.pod + port.port.to_bytes(2, "big") + bytes(2)


def _of_family(prefixes: Iterable[address.Prefix], family: address.Family) -> list[address.Prefix]:
    return [prefix for prefix in prefixes if prefix.family is family]


def merged(prefixes: Iterable[address.Prefix]) -> list[address.Prefix]:
    """Return the networks without those inside others and with neighbours joined, in order.

    5,000 nodes' networks that fill one cluster network become one element.
    """
    left = sorted(set(prefixes), key=lambda p: (p.network, p.length))
    joined: list[address.Prefix] = []
    for prefix in left:
        if joined and prefix.network in joined[-1]:
            continue
        joined.append(prefix)
        while len(joined) > 1 and (whole := _union(joined[-2], joined[-1])):
            joined[-2:] = [whole]
    return joined


def _union(low: address.Prefix, high: address.Prefix) -> address.Prefix | None:
    if low.length != high.length or low.length == 0:
        return None
    whole = address.Prefix(low.network, low.length - 1)
    width = len(low.network) * 8
    is_aligned = int.from_bytes(low.network, "big") % (1 << (width - whole.length)) == 0
    return whole if is_aligned and high.network in whole else None
