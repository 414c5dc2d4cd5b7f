"""The fake nf_tables does as the kernel does with the same transactions, and our hand-packed rules are nft's own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netplane.kernel import netns
from netplane.kernel.errors import KernelError
from netplane.kernel.netlink import wire as netlink
from netplane.kernel.nft import expressions, fake
from netplane.kernel.nft.objects import (
    IPV4,
    MARK,
    NFT_GOTO,
    NUMBER,
    PORT,
    PRIORITY,
    PROTOCOL,
    VERDICT,
    Batch,
    Chain,
    Element,
    Rule,
    Set,
    Table,
    Verdict,
    ip,
    u32,
)
from netplane.kernel.nft.run import RULE_CHAIN, RULE_EXPRESSIONS, RULE_TABLE, Kernel, Socket
from netplane.model.address import Family
from netplane_proxy.plan.nftables import balance, skeleton
from netplane_proxy.plan.nftables.layout import LAYOUTS, Layout

TABLE = Table(IPV4, "parity")
PLAIN = Set(TABLE, "plain", (ip("daddr", IPV4), PROTOCOL, PORT))
MAP = Set(TABLE, "data", (PRIORITY, NUMBER), (ip("daddr", IPV4), PORT))
JUMPS = Set(TABLE, "jumps", (MARK,), (VERDICT,))
RANGES = Set(TABLE, "ranges", (ip("daddr", IPV4),), is_interval=True)
PAIRS = Set(TABLE, "pairs", (PORT, ip("saddr", IPV4)), is_interval=True)
SETS = (PLAIN, MAP, JUMPS, RANGES, PAIRS)
TEXT = f"table {TABLE} {{\n" + "".join(f"\t{one.declaration}\n" for one in SETS) + "\tchain one {\n\t}\n}\n"

few = st.integers(0, 3)


def address(number: int) -> bytes:
    return bytes((10, 0, 0, number))


def element(target: Set) -> st.SearchStrategy[Element]:
    """Elements of a set, few enough to meet again."""
    if target is PLAIN:
        return st.builds(
            lambda a, p, c: Element(address(a) + bytes((6, 0, 0, 0)) + bytes((0, p, 0, 0)), None, c), few, few, comments
        )
    if target is MAP:
        return st.builds(lambda a, n, to: Element(u32(a) + u32(n), address(to) + b"\x1f\x90\0\0"), few, few, few)
    if target is JUMPS:
        verdicts = st.sampled_from([Verdict(0), Verdict(NFT_GOTO, "one"), Verdict(NFT_GOTO, "two")])
        return st.builds(lambda n, verdict: Element(u32(n), verdict), few, verdicts)
    # Never overlapping: what the kernel says to that differs from set to set and from version to version.
    ends = st.sampled_from([(0, 1), (3, 3), (5, 8)])
    if target is RANGES:
        return ends.map(lambda both: Element(address(both[0]), key_end=address(both[1])))
    head = st.sampled_from([b"\0\x50\0\0", b"\0\x51\0\0"])
    return st.builds(lambda h, both: Element(h + address(both[0]), key_end=h + address(both[1])), head, ends)


comments = st.sampled_from(["", "default/web:http"])


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """A transaction of up to four runs; sometimes it gives a chain its rules."""
    batch = Batch()
    if draw(st.integers(0, 4)) == 0:
        batch.replace_chain(Chain(TABLE, "two", (Rule("drop", (expressions.goto("one"),)),)))
    for _ in range(draw(st.integers(1, 4))):
        target = draw(st.sampled_from(SETS))
        found = draw(st.lists(element(target), max_size=3, unique_by=lambda one: one.key))
        (batch.add if draw(st.booleans()) else batch.remove)(target, found)
    return batch


def outcome(kernel: Kernel, batch: Batch) -> str:
    try:
        kernel.commit(batch)
    except KernelError as error:
        return f"{error.errno}"
    return "done"


def listing(kernel: Kernel) -> dict[str, list[Element]]:
    return {one.name: sorted(kernel.dump(one), key=lambda element: element.key) for one in SETS}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Socket]:
    place = str(tmp_path_factory.mktemp("parity") / "ns")
    netns.create(place)
    try:
        with contextlib.closing(netns.run_in(place, Socket)) as opened:
            yield opened
    finally:
        netns.remove_if_present(place)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(batches(), min_size=1, max_size=8))
def test_fake_and_kernel_list_alike_after_the_same_transactions(real: Socket, sequence: list[Batch]) -> None:
    pretended = fake.Kernel()
    for kernel in (real, pretended):
        asyncio.run(kernel.load(f"table {TABLE} {{}}\ndelete table {TABLE}\n{TEXT}"))
    for batch in sequence:
        before = listing(real)
        ours, theirs = outcome(real, batch), outcome(pretended, batch)
        assert ours == theirs, f"{batch}\nkernel {ours}, fake {theirs}"
        assert listing(real) == listing(pretended)
        if ours != "done":
            assert listing(real) == before
    assert real.tables() == pretended.tables()
    assert real.chains(TABLE) == pretended.chains(TABLE)


def rules(kernel: Socket, table: Table, names: set[str]) -> list[tuple[str, list[tuple[int, bytes]]]]:
    """The expressions of some chains as the kernel lists them, but for the names of unnamed sets."""
    found = []
    for body in kernel.rules():
        spots = {kind: (a, b) for kind, a, b in netlink.attributes(body, 4, len(body))}
        of, chain = (netlink.string(body, *spots[kind]) for kind in (RULE_TABLE, RULE_CHAIN))
        if (body[0], of) == (table.family, table.name) and chain in names:
            a, b = spots[RULE_EXPRESSIONS]
            parts = [(kind, body[c:d].replace(b"__set1", b"__set0")) for kind, c, d in netlink.attributes(body, a, b)]
            found.append((chain, parts))
    return found


@pytest.mark.parametrize("sets", LAYOUTS.values(), ids=str)
@pytest.mark.parametrize("count", [1, 3, 1000])
def test_rules_packed_by_hand_are_what_nft_makes_of_their_text(real: Socket, sets: Layout, count: int) -> None:
    names = {chain.name for chain in balance.chains(sets, count)}
    fresh = f"table {sets.table} {{}}\ndelete table {sets.table}\n{skeleton.text(sets, skeleton.Parameters())}"
    asyncio.run(real.load(fresh + balance.text(sets, count)))
    by_nft = rules(real, sets.table, names)
    asyncio.run(real.load(fresh))
    batch = Batch()
    for chain in balance.chains(sets, count):
        batch.replace_chain(chain)
    real.commit(batch)
    assert len(by_nft) == 5
    assert rules(real, sets.table, names) == by_nft


def test_a_refusal_names_the_element(real: Socket) -> None:
    asyncio.run(real.load(f"table {TABLE} {{}}\ndelete table {TABLE}\n{TEXT}"))
    batch = Batch()
    batch.add(MAP, [Element(u32(1) + u32(n), address(n) + b"\0\x50\0\0") for n in range(200)])
    batch.remove(MAP, [Element(u32(1) + u32(5)), Element(u32(9) + u32(7)), Element(u32(1) + u32(6))])
    with pytest.raises(KernelError) as caught:
        real.commit(batch)
    assert str(caught.value).startswith("delete element ip parity data { 0:9 . 7 }: ENOENT")
    assert real.dump(MAP) == []


def test_every_family_of_the_layout_is_listed_as_it_was_written(real: Socket) -> None:
    for family in Family:
        sets = LAYOUTS[family]
        asyncio.run(
            real.load(
                f"table {sets.table} {{}}\ndelete table {sets.table}\n{skeleton.text(sets, skeleton.Parameters())}"
            )
        )
        wide = sets.slots.address
        want = {
            sets.frontends: Element(bytes(range(wide)) + bytes((6, 0, 0, 0, 0, 80, 0, 0)), u32(7), "a/b:c"),
            sets.endpoints: Element(u32(7) + u32(0), bytes(range(wide)) + b"\0\x50\0\0"),
            sets.hairpin: Element(bytes(range(wide)) * 2),
            sets.pod_cidrs: Element(bytes(wide), key_end=b"\xff" * wide),
            sets.balance: Element(u32(0xFFF << 20), Verdict(0)),
        }
        batch = Batch()
        for target, one in want.items():
            batch.add(target, [one])
        real.commit(batch)
        for target, one in want.items():
            assert real.dump(target) == [one]
