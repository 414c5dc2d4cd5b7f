"""The nftables table beside IPVS: its sets, and its chains as text.

`guard` runs before IPVS takes the first packet of a connection (priority 98 on the way in, -98 on the way out), and
`postrouting` after it has chosen and translated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from netplane.kernel.nft.objects import (
    IPV4,
    IPV6,
    MARK,
    NFT_GOTO,
    NFT_JUMP,
    PORT,
    PROTOCOL,
    VERDICT,
    Element,
    Set,
    Table,
    Verdict,
    ip,
)
from netplane.model.address import Family, Packed, Prefix
from netplane.model.service import Protocol
from netplane_proxy.plan import localhost
from netplane_proxy.plan.forwarding import NodeFacts
from netplane_proxy.plan.nftables import skeleton

TABLE = "netplane_ipvs"
GUARDS = ("serve", "refuse", "silent", "split", "split_silent")


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The sets and maps of one family's table.

    `addresses` are all that stand on the dummy link, `owned` the places of all virtual servers of ours: both until the
    last connection there has ended. `nodeports` are those that stand at the loopback address too.
    """

    family: Family
    table: Table
    about: Set
    frontends: Set
    sources: Set
    marks: Set
    source_ranges: Set
    cluster_ips: Set
    addresses: Set
    owned: Set
    hairpin: Set
    nodeports: Set
    service_cidrs: Set
    pod_cidrs: Set

    @property
    def compiled(self) -> tuple[Set, ...]:
        """Those whose elements follow from the meaning."""
        return (
            self.sources,
            self.marks,
            self.source_ranges,
            self.cluster_ips,
            self.addresses,
            self.owned,
            self.hairpin,
            self.nodeports,
            self.pod_cidrs,
            self.frontends,
            self.service_cidrs,
        )

    @property
    def number(self) -> int:
        """The family's number in the kernel."""
        return self.table.family


def _layout(family: Family) -> Layout:
    number = IPV4 if family is Family.V4 else IPV6
    table = Table(number, TABLE)
    source, destination = ip("saddr", number), ip("daddr", number)
    place = destination, PROTOCOL, PORT
    return Layout(
        family,
        table,
        about=Set(table, "about", (MARK,)),
        frontends=Set(table, "frontends", place, (VERDICT,)),
        sources=Set(table, "sources", place, (VERDICT,)),
        marks=Set(table, "marks", place, (MARK,)),
        source_ranges=Set(table, "source_ranges", (*place, source), is_interval=True),
        cluster_ips=Set(table, "cluster_ips", (destination,)),
        addresses=Set(table, "addresses", (destination,)),
        owned=Set(table, "owned", place),
        hairpin=Set(table, "hairpin", (source, destination)),
        nodeports=Set(table, "nodeports", (PROTOCOL, PORT)),
        service_cidrs=Set(table, "service_cidrs", (destination,), is_interval=True),
        pod_cidrs=Set(table, "pod_cidrs", (source,), is_interval=True),
    )


LAYOUTS: dict[Family, Layout] = {family: _layout(family) for family in Family}


def place_key(address: Packed, protocol: Protocol, port: int) -> bytes:
    """Return the key of a place in `frontends`, `sources` and `marks`."""
    return address + bytes((protocol, 0, 0, 0)) + port.to_bytes(2, "big") + b"\0\0"


def guard(name: str, *, has_ranges: bool) -> Verdict:
    """Return the verdict for the first packets to a frontend: one of GUARDS, behind source ranges if it has any."""
    return Verdict(NFT_GOTO, f"ranged_{name}" if has_ranges else name)


def source(name: str) -> Verdict:
    """Return the verdict for the source address of what was aimed at a frontend."""
    return Verdict(NFT_JUMP, name)


def node_elements(node: NodeFacts, sets: Layout) -> list[tuple[Set, Element]]:
    """Return the elements that come of the node's facts."""
    pods = [(sets.pod_cidrs, one) for one in _intervals(node.pod_cidrs, sets.family)]
    return pods + [(sets.service_cidrs, one) for one in _intervals(node.service_cidrs, sets.family)]


def _intervals(prefixes: Iterable[Prefix], family: Family) -> list[Element]:
    """Return networks as intervals that neither overlap nor touch, as the kernel's sets want them."""
    found: list[tuple[int, int]] = []
    for prefix in sorted(prefix for prefix in prefixes if prefix.family is family):
        first, last = int.from_bytes(prefix.network, "big"), int.from_bytes(prefix.last, "big")
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(last, found[-1][1])
        else:
            found.append((first, last))
    width = family.bits // 8
    return [Element(first.to_bytes(width, "big"), key_end=last.to_bytes(width, "big")) for first, last in found]


def text(sets: Layout, node: NodeFacts) -> str:
    """Print the table without elements."""
    declared = "".join(f"\t{one.declaration}\n" for one in (sets.about, *sets.compiled))
    family, icmp = ("ip", "icmp") if sets.family is Family.V4 else ("ip6", "icmpv6")
    chains = "".join(
        f"\tchain {name} {{\n{''.join(f'{chr(9) * 2}{line}{chr(10)}' for line in lines)}\t}}\n"
        for name, *lines in (*_guards(), *_hooks(), *_sources(node, sets.family), *_loopback(node, sets.family))
    )
    written = f"table {sets.table} {{\n{declared}{chains}}}\n"
    for word, meaning in {**skeleton.pods(node.pod_interfaces), "{ip}": family, "{icmp}": icmp}.items():
        written = written.replace(word, meaning)
    return written


def digest(sets: Layout, node: NodeFacts) -> str:
    """Return the hash by which the table's text is recognised."""
    return hashlib.sha256(text(sets, node).encode()).hexdigest()[:12]


_PLACE = "{ip} daddr . meta l4proto . th dport"
_NEW = "ct state new"

Written = Iterator[tuple[str, ...]]


def _guards() -> Written:
    inside = "{pods} goto inside", "fib saddr type local goto inside"
    yield "refuse", "meta l4proto tcp reject with tcp reset", "reject with {icmp} port-unreachable"
    yield "serve", "accept"
    yield "silent", "drop"
    # IPVS takes a packet's mark before its address: this one is of the server that has the whole cluster's backends.
    yield "inside", f"meta mark set {_PLACE} map @marks accept"
    yield "split", *inside, "accept"
    yield "split_silent", *inside, "drop"
    yield "allowed", f"{_PLACE} . {{ip}} saddr @source_ranges return", "drop"
    for name in GUARDS:
        yield f"ranged_{name}", "jump allowed", f"goto {name}"


def _hooks() -> Written:
    yield (
        "guard",
        f"{_PLACE} vmap @frontends",
        "meta l4proto { tcp, udp, sctp } {ip} daddr @cluster_ips goto refuse",
        "{ip} daddr @service_cidrs {ip} daddr != @cluster_ips goto refuse",
        # Nobody's port of an address that is here only for IPVS: not the node's own services.
        "meta l4proto { tcp, udp, sctp } {ip} daddr @addresses goto refuse",
    )
    yield "input", "type filter hook input priority 90; policy accept;", f"{_NEW} goto guard"
    yield "output", "type filter hook output priority -150; policy accept;", f"{_NEW} goto guard"
    yield (
        "forward",
        "type filter hook forward priority 0; policy accept;",
        f"{_NEW} {{ip}} daddr @service_cidrs goto refuse",
    )


def _sources(node: NodeFacts, family: Family) -> Written:
    """Yield who gets the node's address: only the first packet of a connection comes here."""
    yield "conceal", "masquerade fully-random"
    if node.masquerade_all:
        internal = "goto conceal"
    elif node.knows_pods(family):
        internal = "{others} goto conceal"
    else:
        # The node's own connections begin with the cluster IP as source, which nobody could answer.
        internal = "fib saddr type local goto conceal"
    yield "internal", internal
    yield "external", "goto conceal"
    # The mark has done its work.
    yield (
        "external_local",
        "meta mark set 0",
        "{pods} return",
        "fib saddr type local goto conceal",
    )
    # nft 1.0.6 knows the type of `ct original proto-dst` only after a match of the protocol.
    original = "ct original {ip} daddr . meta l4proto . ct original proto-dst vmap @sources"
    yield (
        "postrouting",
        "type nat hook postrouting priority 100; policy accept;",
        *(f"meta l4proto {protocol} {original}" for protocol in ("tcp", "udp", "sctp")),
        "{ip} saddr . {ip} daddr @hairpin goto conceal",
    )


def _loopback(node: NodeFacts, family: Family) -> Written:
    """Yield what lets the node reach NodePorts at its loopback address: IPVS sends nothing from there to elsewhere."""
    own = localhost.speaker(node, family)
    if own is not None:
        yield from ((name, *rules) for name, rules in localhost.chains(family, own).items())
