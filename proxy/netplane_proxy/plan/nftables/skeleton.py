"""The chains of a table as nft text, a pure function of a few parameters. What they look up is layout's.

The base chains that serve are of type nat: only the first packet of a connection sees their rules. Every packet meets
one look at its state besides (`_strays`), and none of the maps. The text reads top down.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from netplane.kernel.nft.objects import NF_DROP, NFT_GOTO, Element, Verdict, u32
from netplane.model import address
from netplane.model.address import Family, Packed
from netplane_proxy.plan.forwarding import Kind, NodeFacts
from netplane_proxy.plan.nftables import layout
from netplane_proxy.plan.nftables.layout import Layout, Pairs

HASHED = "meta priority . jhash ip6 saddr mod 4294967295 seed 0x5eed"
"""How an IPv6 client and its list are one key of 8 bytes."""

Masquerade = Literal["outside", "all", "never"]


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the chains depend on beside the family.

    `masquerade` says whose connections to cluster IPs get the node's address. `classes` are the affinity time-outs in
    seconds by class number. `loopback` is the node's address from which connections to NodePorts at the loopback
    address are made, None when NodePorts do not stand there. `pods` names the interface by which pods' packets come in,
    where they are known by that (NodeFacts.pod_interfaces).
    """

    mark: int = 0x4000
    masquerade: Masquerade = "outside"
    classes: tuple[tuple[int, int], ...] = ()
    loopback: Packed | None = None
    pods: str = ""


def parameters(node: NodeFacts, family: Family, *, classes: Mapping[int, int]) -> Parameters:
    """Say what a node's facts and the time-outs in use ask of the chains. `classes` are numbers by seconds."""
    ours = [ip for ip in node.nodeport_addresses if address.family(ip) is family]
    speaker = next((ip for ip in node.node_ips if address.family(ip) is family and not _is_loopback(ip)), None)
    return Parameters(
        mark=1 << node.masquerade_bit,
        masquerade="all" if node.masquerade_all else "outside" if node.knows_pods(family) else "never",
        classes=tuple(sorted((number, seconds) for seconds, number in classes.items())),
        loopback=speaker if any(map(_is_loopback, ours)) else None,
        pods=node.pod_interfaces,
    )


def _is_loopback(ip: Packed) -> bool:
    return ip[0] == 127 if len(ip) == 4 else ip == b"\0" * 15 + b"\1"


def is_of_count(name: str) -> bool:
    """Tell whether a chain is one of balance's."""
    return re.fullmatch(r"(lb|sticky)\d+", name) is not None


def recover(chains: Iterable[str]) -> tuple[dict[int, int], set[int]]:
    """Read from a table's chain names which affinity classes (by seconds) and which endpoint counts have chains."""
    classes: dict[int, int] = {}
    counts: set[int] = set()
    for name in chains:
        if found := re.fullmatch(r"remember(\d+)_(\d+)s", name):
            classes[int(found[2])] = int(found[1])
        elif found := re.fullmatch(r"lb(\d+)", name):
            counts.add(int(found[1]))
    return classes, counts


def frame(sets: Layout) -> str:
    """Print what cannot be changed in place: the sets' declarations. Its hash tells whether a table can be adopted."""
    return "".join(f"\t{target.declaration}\n" for target in sets.sets)


def digest(text: str) -> str:
    """Return the hash by which a text is recognised."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def chains(sets: Layout, given: Parameters) -> dict[str, tuple[str, ...]]:
    """Return every chain's lines by its name, in an order in which a chain stands before those that go to it."""
    written = [
        ("refuse", "meta l4proto tcp reject with tcp reset", "reject with {icmp} port-unreachable"),
        *_affinity(sets, given),
        *_kinds(given),
        *_hooks(sets, given),
        *_strays(),
    ]
    four = sets.family is Family.V4
    spelled = {
        **pods(given.pods),
        "{ip}": "ip" if four else "ip6",
        "{icmp}": "icmp" if four else "icmpv6",
        "{mark}": f"{given.mark:#x}",
    }
    found: dict[str, tuple[str, ...]] = {}
    for name, *lines in written:
        found[name] = tuple(_spell(line, spelled) for line in lines)
    return found


def pods(interfaces: str) -> dict[str, str]:
    """Return what tells pods' packets from others, by what stands for it in lines."""
    if not interfaces:
        return {"{pods}": "{ip} saddr @pod_cidrs", "{others}": "{ip} saddr != @pod_cidrs"}
    return {"{pods}": f'iifname "{interfaces}"', "{others}": f'iifname != "{interfaces}"'}


def _spell(line: str, words: dict[str, str]) -> str:
    for word, meaning in words.items():
        line = line.replace(word, meaning)
    return line


def text(sets: Layout, given: Parameters) -> str:
    """Print the table with its sets and chains, but for those of endpoint counts, which are balance's."""
    body = "".join(
        f"\tchain {name} {{\n{''.join(f'{chr(9) * 2}{line}{chr(10)}' for line in lines)}\t}}\n"
        for name, lines in chains(sets, given).items()
    )
    return f"table {sets.table} {{\n{frame(sets)}{body}}}\n"


def verdicts(sets: Layout, given: Parameters) -> Pairs:
    """Return the elements of the two verdict maps, but for those of endpoint counts."""
    found: Pairs = [
        (sets.balance, Element(_code(layout.REJECT), Verdict(NFT_GOTO, "refuse"))),
        (sets.balance, Element(_code(layout.DROP), Verdict(NF_DROP))),
    ]
    for number, seconds in given.classes:
        for kind in Kind:
            key = u32(kind << layout.KIND_SHIFT | number << layout.CLASS_SHIFT)
            chain = f"remember{number}_{seconds}s_{_RECORDED[kind]}"
            found.append((sets.remember, Element(key, Verdict(NFT_GOTO, chain))))
    return found


def _code(code: int) -> bytes:
    return u32(code << layout.CODE_SHIFT)


_RECORDED = {
    Kind.INTERNAL: "cluster",
    Kind.INTERNAL_LOCAL: "local",
    Kind.EXTERNAL: "cluster",
    Kind.EXTERNAL_LOCAL: "either",
}

_TO_CLUSTER = f"meta priority set meta priority & {layout.LOCAL - 1:#x}"
_TO_LOCAL = f"{_TO_CLUSTER} | {layout.LOCAL:#x}"
_MASQUERADE = "meta mark set meta mark | {mark}"

Written = Iterator[tuple[str, ...]]


def _affinity(sets: Layout, given: Parameters) -> Written:
    """Yield how the chosen endpoint is remembered, after translation: for which list, for how long."""
    for number, seconds in given.classes:
        name = f"remember{number}_{seconds}s"
        if sets.family is Family.V4:
            lines = [f"update @affinity {{ ip saddr . meta priority timeout {seconds}s : ip daddr . th dport }}"]
        else:
            lines = [
                f"update @affinity_ip {{ {HASHED} timeout {seconds}s : ip6 daddr }}",
                f"update @affinity_port {{ {HASHED} timeout {seconds}s : th dport }}",
            ]
        yield name, *lines
        yield f"{name}_cluster", _TO_CLUSTER, f"goto {name}"
        yield f"{name}_local", _TO_LOCAL, f"goto {name}"
        yield (
            f"{name}_either",
            f"{{pods}} goto {name}_cluster",
            f"fib saddr type local goto {name}_cluster",
            f"goto {name}_local",
        )


def _kinds(given: Parameters) -> Written:
    """Yield what each kind of frontend does: which list serves, and who is masqueraded."""
    internal = {"outside": ("{others} " + _MASQUERADE,), "all": (_MASQUERADE,), "never": ()}
    by_code = f"meta priority & {layout.CODE_MASK:#x} vmap @balance"
    yield "to_cluster", f"{_TO_CLUSTER} map @lists", by_code, "goto refuse"
    yield "to_local", f"{_TO_LOCAL} map @lists", by_code, "goto refuse"
    yield "internal", *internal[given.masquerade], "goto to_cluster"
    yield "internal_local", *internal[given.masquerade], "goto to_local"
    yield "external", _MASQUERADE, "goto to_cluster"
    yield (
        "external_local",
        "{pods} goto to_cluster",
        "fib saddr type local goto external",
        "goto to_local",
    )
    yield "allowed", "{ip} daddr . meta l4proto . th dport . {ip} saddr @source_ranges return", "drop"
    kinds = ", ".join(f"{kind << layout.KIND_SHIFT:#x} : goto {kind.name.lower()}" for kind in Kind)
    yield (
        "frontend",
        f"meta priority & {layout.KIND_MASK | layout.RANGES:#x} vmap {{ {kinds} }}",
        "jump allowed",  # The others have source ranges.
        f"meta priority & {layout.KIND_MASK:#x} vmap {{ {kinds} }}",
    )


def _hooks(sets: Layout, given: Parameters) -> Written:
    """Yield the base chains and what they begin with."""
    yield (
        "services",
        "meta priority set {ip} daddr . meta l4proto . th dport map @frontends goto frontend",
        "{ip} daddr @nodeport_ips meta priority set meta l4proto . th dport map @nodeports goto frontend",
        "{ip} daddr @cluster_ips goto refuse",
        "{ip} daddr @service_cidrs goto refuse",
    )
    if given.loopback is not None:
        yield from _loopback(sets, given.loopback)
    yield "prerouting", "type nat hook prerouting priority -100; policy accept;", "goto services"
    yield "output", "type nat hook output priority -100; policy accept;", "goto services"
    remember = ("jump remember_any",) if given.classes else ()
    if given.classes:
        yield "remember_class", f"meta priority & {layout.KIND_MASK | layout.CLASS_MASK:#x} vmap @remember"
        yield "remember_any", *_original(sets)
    yield (
        "input",
        "type nat hook input priority 100; policy accept;",
        *(f"ct status dnat {line}" for line in remember),
    )
    # The register is the packet's own field: give it back before the packet leaves.
    yield (
        "translated",
        *remember,
        "meta priority set none",
        "{ip} saddr . {ip} daddr @hairpin " + _MASQUERADE,
    )
    yield (
        "postrouting",
        "type nat hook postrouting priority 100; policy accept;",
        "ct status dnat jump translated",
        "meta mark & {mark} == 0 return",
        "meta mark set meta mark ^ {mark}",
        "masquerade fully-random",
    )


def _strays() -> Written:
    """Yield what keeps endpoints' packets of no known connection from clients: see forwarding.may_stray.

    At postrouting they pass whether they are forwarded or the node's own; at input the client is the node itself.
    """
    yield (
        "stray",
        "meta l4proto { tcp, sctp } {pods} drop",
        "{ip} saddr . meta l4proto . th sport @hosts drop",
    )
    for hook in ("postrouting", "input"):
        yield f"stray_{hook}", f"type filter hook {hook} priority 0; policy accept;", "ct state invalid goto stray"


def _loopback(sets: Layout, speaker: Packed) -> Written:
    """Yield what lets the node reach NodePorts at its loopback address.

    A loopback address can neither leave the node nor be answered to, so connections to a NodePort there are made from
    the node's own address, before anything is tracked, and answers get the loopback address back at the very end. It
    is stateless: every packet of a connection meets it, but only those sent from the loopback address.
    """
    here = "127.0.0.1" if sets.family is Family.V4 else "::1"
    own = address.text(speaker)
    yield (
        "from_loopback",
        "type route hook output priority -350; policy accept;",
        f"{{ip}} saddr {here} {{ip}} daddr {here} meta priority set meta l4proto . th dport map @nodeports"
        f" {{ip}} saddr set {own} meta priority set none",
    )
    yield (
        "to_loopback",
        "type filter hook input priority 110; policy accept;",
        f"{{ip}} saddr {here} {{ip}} daddr {own} meta priority set meta l4proto . th sport map @nodeports"
        f" {{ip}} daddr set {here}",
    )


def _original(sets: Layout) -> Iterator[str]:
    """Yield the look-ups of the frontend that a translated connection was aimed at.

    nft 1.0.6 knows the type of `ct original proto-dst` only after a match of the protocol.
    """
    for protocol in ("tcp", "udp", "sctp"):
        place = "ct original {ip} daddr . meta l4proto . ct original proto-dst"
        yield f"meta l4proto {protocol} meta priority set {place} map @frontends goto remember_class"
    for protocol in ("tcp", "udp", "sctp"):
        aim = f"ct original {{ip}} daddr @nodeport_ips meta l4proto {protocol}"
        yield f"{aim} meta priority set meta l4proto . ct original proto-dst map @nodeports goto remember_class"
