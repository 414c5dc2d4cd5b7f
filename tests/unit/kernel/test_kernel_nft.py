"""Sets, elements and batches: their text, their netlink form there and back, and what a diff does."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netplane.kernel.errors import KernelError
from netplane.kernel.netlink import wire as netlink
from netplane.kernel.nft import diff, fake, objects, wire
from netplane.kernel.nft.objects import (
    IPV4,
    IPV6,
    MARK,
    NFT_GOTO,
    NUMBER,
    PORT,
    PRIORITY,
    PROTOCOL,
    VERDICT,
    Batch,
    Element,
    Set,
    Table,
    Verdict,
    ip,
    u32,
)

TABLE = Table(IPV4, "t")
PLACES = Set(TABLE, "places", (ip("daddr", IPV4), PROTOCOL, PORT), (PRIORITY,))
ENDS = Set(Table(IPV6, "t"), "ends", (PRIORITY, NUMBER), (ip("daddr", IPV6), PORT))
PORTS = Set(TABLE, "ports", (PRIORITY, NUMBER), (PORT,), timeout=60)
JUMPS = Set(TABLE, "jumps", (MARK,), (VERDICT,))
NETS = Set(TABLE, "nets", (ip("saddr", IPV4),), is_interval=True)
PAIRS = Set(TABLE, "pairs", (PORT, ip("saddr", IPV4)), is_interval=True)

PLACE = bytes((10, 96, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0))


def key(width: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=width, max_size=width)


verdicts = st.sampled_from([Verdict(0), Verdict(NFT_GOTO, "lb3"), Verdict(-5)])
comments = st.text("abc/-:", max_size=60)
ELEMENTS: dict[Set, st.SearchStrategy[Element]] = {
    PLACES: st.tuples(key(12), key(4), comments).map(lambda one: Element(*one)),
    ENDS: st.tuples(key(8), key(20)).map(lambda one: Element(*one)),
    PORTS: st.tuples(key(8), key(2)).map(lambda one: Element(*one)),
    JUMPS: st.tuples(key(4), verdicts).map(lambda one: Element(*one)),
    PAIRS: st.builds(lambda a, b: Element(min(a, b), key_end=max(a, b)), key(8), key(8)),
}


@pytest.mark.parametrize("target", ELEMENTS, ids=lambda one: one.name)
def test_elements_survive_their_netlink_form(target: Set) -> None:
    @given(st.lists(ELEMENTS[target], max_size=20, unique_by=lambda element: element.key))
    def check(elements: list[Element]) -> None:
        batch = Batch()
        batch.add(target, elements)
        found, _ = wire.messages(batch)
        assert wire.elements(target, [message.body for message in found]) == elements

    check()


@given(st.sets(st.integers(0, 1 << 32), max_size=20))
def test_intervals_survive_their_netlink_form(bounds: set[int]) -> None:
    edges = sorted(bounds)
    pairs = list(zip(edges[::2], edges[1::2], strict=False))
    want = [Element(a.to_bytes(4, "big"), key_end=(b - 1).to_bytes(4, "big")) for a, b in pairs]
    batch = Batch()
    batch.add(NETS, want)
    found, _ = wire.messages(batch)
    assert wire.elements(NETS, [message.body for message in found]) == want


def test_a_batch_of_any_size_fits_into_messages() -> None:
    batch = Batch()
    elements = [Element(u32(1) + u32(n), bytes(20)) for n in range(10_000)]
    batch.add(ENDS, elements)
    found, places = wire.messages(batch)
    assert max(len(message.body) for message in found) < 1 << 16
    assert [place.start for place in places[1:]] == [place.stop for place in places[:-1]]
    assert wire.elements(ENDS, [message.body for message in found]) == elements


def test_removals_carry_keys_alone() -> None:
    batch = Batch()
    batch.remove(PLACES, [Element(PLACE, u32(1), "default/web:http")])
    found, _ = wire.messages(batch)
    assert wire.elements(PLACES, [found[0].body]) == [Element(PLACE)]


def test_only_the_last_message_asks_for_an_answer() -> None:
    batch = Batch()
    batch.remove(PLACES, [Element(PLACE)])
    batch.add(PLACES, [Element(PLACE, u32(2))])
    found, _ = wire.messages(batch)
    data, flags, at = wire.transaction(found, 7), [], 0
    while at < len(data):
        size, _, flag, sequence, _ = netlink.HEADER.unpack_from(data, at)
        flags.append((sequence, bool(flag & netlink.ACK)))
        at += size
    assert flags == [(7, False), (8, False), (9, True), (10, False)]


@pytest.mark.parametrize(
    ("target", "element", "text"),
    [
        (PLACES, Element(PLACE, u32(0x20000007), "default/web"), '10.96.0.1 . 6 . 80 comment "default/web" : 2000:7'),
        (ENDS, Element(u32(7) + u32(2), bytes(15) + b"\1\x1f\x90\0\0"), "0:7 . 2 : ::1 . 8080"),
        (JUMPS, Element(u32(3), Verdict(NFT_GOTO, "lb3")), "0x00000003 : goto lb3"),
        (NETS, Element(bytes((10, 0, 0, 0)), key_end=bytes((10, 0, 0, 9))), "10.0.0.0-10.0.0.9"),
        (PAIRS, Element(b"\0\x50\0\0\n\0\0\0", key_end=b"\0\x50\0\0\n\0\0\5"), "80 . 10.0.0.0-10.0.0.5"),
    ],
)
def test_elements_print_as_nft_takes_them(target: Set, element: Element, text: str) -> None:
    assert target.text(element) == text


def test_declarations_print_as_nft_takes_them() -> None:
    assert PLACES.declaration == "map places { typeof ip daddr . meta l4proto . th dport : meta priority; }"
    assert NETS.declaration == "set nets { typeof ip saddr; flags interval; }"
    timed = "map ports { typeof meta priority . numgen inc mod 2 : th dport; flags dynamic,timeout; timeout 60s; }"
    assert PORTS.declaration == timed


def test_a_batch_prints_as_commands() -> None:
    batch = Batch()
    batch.remove(PLACES, [Element(PLACE, u32(1), "x")])
    batch.add(PLACES, [Element(PLACE, u32(2))])
    assert str(batch).splitlines() == [
        "delete element ip t places { 10.96.0.1 . 6 . 80 : 0:1 }",
        "add element ip t places { 10.96.0.1 . 6 . 80 : 0:2 }",
    ]
    assert len(batch) == 2


@given(st.text(max_size=300))
def test_any_text_becomes_a_comment_that_cannot_leave_its_quotes(text: str) -> None:
    made = objects.comment(text)
    assert len(made) < objects.COMMENT_MAX
    assert objects.quoted(made) == f'"{made}"'
    assert not set('"\\\n') & set(made)


def test_text_that_is_no_comment_is_not_quoted() -> None:
    with pytest.raises(ValueError, match="cannot be an nft comment"):
        objects.quoted('" ; flush ruleset ; "')


Rows = dict[int, tuple[int, str]]
small = st.dictionaries(st.integers(0, 6), st.tuples(st.integers(0, 3), st.sampled_from(["", "c"])), max_size=6)


def elements(rows: Rows) -> list[Element]:
    return [Element(PLACE[:8] + bytes((0, n, 0, 0)), u32(value), comment) for n, (value, comment) in rows.items()]


def holding(have: list[Element]) -> fake.Kernel:
    kernel = fake.Kernel()
    kernel.declare(PLACES)
    batch = Batch()
    batch.add(PLACES, have)
    kernel.commit(batch)
    return kernel


@given(small, small)
def test_a_diff_turns_what_is_there_into_what_is_wanted(
    want: dict[int, tuple[int, str]], have: dict[int, tuple[int, str]]
) -> None:
    kernel = holding(elements(have))
    batch = diff.elements(PLACES, elements(want), kernel.dump(PLACES))
    kernel.commit(batch)
    assert sorted(kernel.dump(PLACES)) == sorted(elements(want))
    touched = sum(len(found) for _, _, found in batch.runs)
    differing = {n for n in {*want, *have} if want.get(n) != have.get(n)}
    assert touched == len(differing) + len([n for n in differing if n in want and n in have])
    assert not len(diff.elements(PLACES, elements(want), kernel.dump(PLACES)))


@given(small, small)
def test_a_diff_does_not_depend_on_order(want: Rows, have: Rows) -> None:
    first = str(diff.elements(PLACES, elements(want), elements(have)))
    again = diff.elements(PLACES, elements(want)[::-1], elements(have)[::-1])
    assert str(again) == first


def test_a_failed_commit_changes_nothing() -> None:
    kernel = holding(elements({1: (1, "")}))
    batch = Batch()
    batch.add(PLACES, elements({2: (2, "")}))
    batch.remove(PLACES, elements({3: (3, "")}))
    before = kernel.dump(PLACES), kernel.generation()
    with pytest.raises(KernelError) as caught:
        kernel.commit(batch)
    assert caught.value.errno == errno.ENOENT
    assert "delete element ip t places" in str(caught.value)
    assert (kernel.dump(PLACES), kernel.generation()) == before
