"""The chains that choose one of N backends: two for every N that some list has, made when the first one has it.

They are packed by hand, so that a list of a new length needs no run of nft(8) while packets flow.
"""

from __future__ import annotations

from netplane.kernel.nft import expressions as nft
from netplane.kernel.nft.objects import NFT_GOTO, Among, Chain, Element, Rule, Verdict, u32
from netplane.model.address import Family
from netplane.model.service import Protocol
from netplane_proxy.plan.nftables import layout
from netplane_proxy.plan.nftables.layout import Layout, Pairs
from netplane_proxy.plan.nftables.skeleton import HASHED

_INET_PROTO = 12
_PROTOCOLS = Among(0, _INET_PROTO, 1, tuple(bytes((protocol,)) for protocol in sorted(Protocol)))
_SEED = 0x5EED
_ALL_HASHES = 0xFFFFFFFF
_SOURCE_AT = {Family.V4: 12, Family.V6: 8}

_TO_LIST = Rule(
    f"meta priority set meta priority & {layout.LIST_MASK:#x}",
    (
        nft.load_meta(nft.META_PRIORITY, 0),
        nft.mask(0, u32(layout.LIST_MASK)),
        nft.store_meta(nft.META_PRIORITY, 0),
    ),
)


def chains(sets: Layout, count: int) -> tuple[Chain, Chain]:
    """Return the chain that chooses one of `count` backends with equal odds, and that which asks the affinity first."""
    any_of = Chain(sets.table, f"lb{count}", (_TO_LIST, _random(sets, count)))
    to_any = Rule(f"goto lb{count}", (nft.goto(f"lb{count}"),))
    return any_of, Chain(sets.table, f"sticky{count}", (_TO_LIST, _known(sets), to_any))


def verdicts(sets: Layout, count: int) -> Pairs:
    """Return the elements that lead to them."""
    return [
        (sets.balance, Element(u32(count << layout.CODE_SHIFT), Verdict(NFT_GOTO, f"lb{count}"))),
        (sets.balance, Element(u32((layout.STICKY | count) << layout.CODE_SHIFT), Verdict(NFT_GOTO, f"sticky{count}"))),
    ]


def text(sets: Layout, count: int) -> str:
    """Print both chains as nft text."""
    made = chains(sets, count)
    body = "".join(
        f"\tchain {chain.name} {{\n{''.join(f'{chr(9) * 2}{rule.text}{chr(10)}' for rule in chain.rules)}\t}}\n"
        for chain in made
    )
    return f"table {sets.table} {{\n{body}}}\n"


def _random(sets: Layout, count: int) -> Rule:
    return Rule(
        f"{_to(sets)} meta priority . numgen random mod {count} map @{sets.endpoints.name}",
        (
            nft.load_meta(nft.META_L4PROTO, 0),
            _PROTOCOLS,
            nft.load_meta(nft.META_PRIORITY, 0),
            nft.random(count, 1),
            nft.lookup(sets.endpoints.name, 0, 0),
            nft.dnat(sets.table.family, 0, sets.slots.address // 4),
        ),
    )


def _known(sets: Layout) -> Rule:
    begin = nft.load_meta(nft.META_L4PROTO, 0), _PROTOCOLS
    if sets.family is Family.V4:
        (affinity,) = sets.affinity
        return Rule(
            f"{_to(sets)} ip saddr . meta priority map @{affinity.name}",
            (
                *begin,
                nft.load_network(_SOURCE_AT[sets.family], 4, 0),
                nft.load_meta(nft.META_PRIORITY, 1),
                nft.lookup(affinity.name, 0, 0),
                nft.dnat(sets.table.family, 0, 1),
            ),
        )
    ip, port = sets.affinity
    return Rule(
        f"{_to(sets)} {HASHED} map @{ip.name} : {HASHED} map @{port.name}",
        (*begin, *_hashed(ip.name, 0), *_hashed(port.name, 4), nft.dnat(sets.table.family, 0, 4)),
    )


def _hashed(name: str, at: int) -> tuple[bytes, ...]:
    source = at + 6
    return (
        nft.load_meta(nft.META_PRIORITY, at),
        nft.load_network(_SOURCE_AT[Family.V6], 16, source),
        nft.jhash(source, 16, at + 1, _ALL_HASHES, _SEED),
        nft.lookup(name, at, at),
    )


def _to(sets: Layout) -> str:
    # nft takes a port in dnat only after a match of the protocol, though only these three get here.
    ip = "ip" if sets.family is Family.V4 else "ip6"
    return f"meta l4proto {{ tcp, udp, sctp }} dnat {ip} to"
