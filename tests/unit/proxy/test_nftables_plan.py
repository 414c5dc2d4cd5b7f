"""The compiler to nftables: elements of a Service port, numbers that stay, and as little change as can be."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netplane.kernel.nft import objects
from netplane.kernel.nft.objects import Element, Set
from netplane.model import address
from netplane.model.address import Family
from netplane.model.service import Protocol
from netplane_proxy.plan.forwarding import Backend, PortForwarding, PortKey
from netplane_proxy.plan.nftables import book, layout, rows, skeleton
from netplane_proxy.plan.nftables.book import Book, Change, Ids
from netplane_proxy.plan.nftables.layout import LAYOUTS
from tests.support.clusters import NODE
from tests.support.ports import balancer, cluster_ip, node_port, service_port

V4, V6 = Family.V4, Family.V6
SETS = LAYOUTS[V4]


def backends(*numbers: int) -> tuple[Backend, ...]:
    return tuple(Backend(bytes((10, 244, 1, number)), 8080) for number in sorted(numbers))


def web(*numbers: int, affinity: int = 0, name: str = "web") -> PortForwarding:
    return service_port(cluster_ip(V4), cluster=backends(*numbers), affinity=affinity, name=name, family=V4)


def bare(*numbers: int) -> PortForwarding:
    return web(*numbers)._replace(hairpin=())


def lines(change: Change) -> list[str]:
    return str(change.batch()).splitlines()


numbers = st.lists(st.integers(1, 12), max_size=12, unique=True)


def indexes(order: bytes) -> list[int]:
    return [order[at + 3] for at in range(0, len(order), 8)]


@given(numbers, numbers)
def test_whoever_stays_keeps_the_index_unless_a_hole_must_be_filled(before: list[int], after: list[int]) -> None:
    first = indexes(rows.arrange(b"", backends(*before), 8))
    then = indexes(rows.arrange(rows.arrange(b"", backends(*before), 8), backends(*after), 8))
    assert sorted(then) == sorted(after)
    moved = [one for at, one in enumerate(then) if one in first and first.index(one) != at]
    gone, come = len(set(before) - set(after)), len(set(after) - set(before))
    assert len(moved) <= max(0, gone - come)


@given(numbers, numbers)
def test_a_turnover_is_what_any_change_is(before: list[int], after: list[int]) -> None:
    def is_pod(ip: bytes) -> bool:
        return ip[3] % 3 > 0

    former, port = rows.row(bare(*before), list_id=7, affinity_class=0), bare(*after)
    now = rows.row(port, list_id=7, affinity_class=0, cluster=former.cluster)
    made = rows.turnover(former, port)
    if len(before) != len(after):
        assert made is None
        return
    assert made is not None
    assert made.row == now
    assert (made.removed, made.added) == rows.step(former, now)
    assert rows.hosts(former.port, made.gone, is_pod) == rows.uses(former.port, is_pod, but=port)
    assert rows.hosts(port, made.came, is_pod) == rows.uses(port, is_pod, but=former.port)


def test_more_than_a_turnover_is_none() -> None:
    there = rows.row(bare(1, 2), list_id=7, affinity_class=0)
    sticky = rows.row(bare(1, 2)._replace(affinity_seconds=10), list_id=7, affinity_class=1)
    now = bare(1, 3)
    local = now._replace(frontends=(cluster_ip(V4, local=True),))
    assert rows.turnover(there, now) is not None
    assert rows.turnover(sticky, now._replace(affinity_seconds=10)) is None
    assert rows.turnover(there, now._replace(affinity_seconds=10)) is None
    assert rows.turnover(there, now._replace(hairpin=(bytes((10, 244, 1, 3)),))) is None
    assert rows.turnover(there, now._replace(frontends=(cluster_ip(V4, 2),))) is None
    assert rows.turnover(there, now._replace(local=backends(3))) is None
    assert rows.turnover(rows.row(local, list_id=7, affinity_class=0), local._replace(cluster=backends(1, 4))) is None


@given(numbers)
def test_the_same_backends_stay_as_they_are(some: list[int]) -> None:
    order = rows.arrange(b"", backends(*some), 8)[::-1]
    order = b"".join(order[at : at + 8][::-1] for at in range(0, len(order), 8))
    assert rows.arrange(order, backends(*some), 8) == order


def test_an_order_that_names_one_twice_is_mended() -> None:
    one, two = (rows.slot(backend) for backend in backends(1, 2))
    assert rows.arrange(one + one + two, backends(1, 2), 8) == one + two


def test_a_swap_of_one_endpoint_is_one_removal_and_one_addition() -> None:
    kept = Book(NODE)
    kept.change({web().key: web(1, 2, 3)._replace(hairpin=())})
    change = kept.change({web().key: web(1, 3, 4)._replace(hairpin=())})
    assert lines(change) == [
        "delete element ip netplane endpoints { 0:1 . 1 : 10.244.1.2 . 8080 }",
        "add element ip netplane endpoints { 0:1 . 1 : 10.244.1.4 . 8080 }",
    ]


def test_a_removed_endpoint_leaves_its_index_to_the_last() -> None:
    kept = Book(NODE)
    kept.change({web().key: web(1, 2, 3)._replace(hairpin=())})
    change = kept.change({web().key: web(2, 3)._replace(hairpin=())})
    moved = [line for line in lines(change) if " endpoints {" in line]
    assert moved == [
        "delete element ip netplane endpoints { 0:1 . 0 : 10.244.1.1 . 8080 }",
        "delete element ip netplane endpoints { 0:1 . 2 : 10.244.1.3 . 8080 }",
        "add element ip netplane endpoints { 0:1 . 0 : 10.244.1.3 . 8080 }",
    ]
    assert "add element ip netplane lists { 0:1 : 20:1 }" in lines(change)


def test_nothing_changed_is_nothing_to_do() -> None:
    kept = Book(NODE)
    kept.change({web().key: web(1, 2)})
    assert lines(kept.change({web().key: web(2, 1)})) == []


def test_the_chains_for_a_new_length_come_with_the_first_list_of_it() -> None:
    kept = Book(NODE)
    assert [chain.name for chain in kept.change({web().key: web(1, 2, 3)}).chains] == ["lb3", "sticky3"]
    assert kept.change({web(name="other").key: web(4, 5, 6, name="other")}).chains == []
    assert [chain.name for chain in kept.change({web().key: web(*range(1, 41))}).chains] == ["lb40", "sticky40"]


@pytest.mark.parametrize(
    ("port", "codes"),
    [
        (service_port(cluster_ip(V4)), {0: layout.REJECT}),
        (service_port(cluster_ip(V4), cluster=backends(1, 2)), {0: 2}),
        (service_port(cluster_ip(V4), cluster=backends(1, 2), affinity=9), {0: layout.STICKY | 2}),
        (service_port(cluster_ip(V4, local=True), cluster=backends(1)), {layout.LOCAL: layout.DROP}),
        (service_port(cluster_ip(V4, local=True)), {layout.LOCAL: layout.REJECT}),
        (
            service_port(cluster_ip(V4), node_port(local=True), cluster=backends(1, 2), local=backends(1)),
            {0: 2, layout.LOCAL: 1},
        ),
    ],
)
def test_a_list_says_how_many_serve_or_why_nobody_does(port: PortForwarding, codes: dict[int, int]) -> None:
    row = rows.row(port, list_id=5, affinity_class=1 if port.affinity_seconds else 0)
    found = {
        objects.number(element.key): objects.number(element.data) >> layout.CODE_SHIFT
        for target, element in rows.elements(row)
        if target is SETS.lists and isinstance(element.data, bytes)
    }
    assert found == {5 | which: code for which, code in codes.items()}


def test_a_list_beyond_the_layout_is_cut() -> None:
    many = tuple(Backend(bytes((10, 244, n >> 8, n & 255)), 80) for n in range(3000))
    row = rows.row(service_port(cluster_ip(V4), cluster=many), list_id=1, affinity_class=0)
    assert len(row.cluster) == 8 * layout.MAX_BACKENDS
    assert layout.STICKY | layout.MAX_BACKENDS < layout.REJECT


def test_names_are_told_apart_even_when_cut() -> None:
    def named(port: str) -> str:
        return rows.name(PortKey("n" * 63, "s" * 63, port, Protocol.TCP, V4))

    assert len(named("a" * 15)) < objects.COMMENT_MAX
    assert named("a" * 15) != named("a" * 14 + "b")
    assert rows.name(PortKey("default", "web", "http", Protocol.TCP, V4)) == "default/web:http"


def test_ids_rest_before_they_are_used_again() -> None:
    ids = Ids({1, 2, 5})
    first = ids.take()
    assert first == 6
    ids.give_back(2)
    assert ids.take() == 7
    taken = [ids.take() for _ in range(2000)]
    assert len(set(taken)) == 2000
    for number in taken:
        ids.give_back(number)
    assert ids.take() in (3, 4)


def test_ids_that_are_used_up_say_so() -> None:
    ids = Ids({layout.IDS - 1})
    for _ in range(layout.IDS - 2):
        ids.take()
    with pytest.raises(ValueError, match="do not fit"):
        ids.take()


def test_a_cluster_ip_stays_until_its_last_port_goes() -> None:
    two = {name: service_port(cluster_ip(V4, port=port), name=name) for name, port in (("a", 80), ("b", 81))}
    kept = Book(NODE)
    kept.change({port.key: port for port in two.values()})
    gone = kept.change({two["a"].key: None})
    assert not any(target is SETS.cluster_ips for target, _ in gone.removed)
    gone = kept.change({two["b"].key: None, two["a"].key: two["a"]})
    assert not any(target is SETS.cluster_ips for target, _ in (*gone.removed, *gone.added))
    gone = kept.change({two["a"].key: None})
    assert [element.key for target, element in gone.removed if target is SETS.cluster_ips] == [bytes((10, 96, 0, 1))]


def test_affinity_classes_are_shared_and_run_out_gracefully() -> None:
    kept = Book(NODE)
    for seconds in range(1, 300):
        port = web(1, affinity=seconds, name=f"s{seconds}")
        kept.change({port.key: port})
    classes = [row.affinity_class for row in kept.rows.values()]
    assert len(set(classes)) == layout.CLASSES == max(classes)
    assert kept.rows[web(name="s299").key].affinity_class == kept.rows[web(name="s255").key].affinity_class


def test_clients_of_a_gone_backend_are_named() -> None:
    kept = Book(NODE)
    kept.change({web().key: web(1, 2, affinity=9)})
    assert kept.change({web().key: web(1, 2, 3, affinity=9)}).bereaved == {}
    left = frozenset(map(rows.slot, backends(1, 3)))
    assert kept.change({web().key: web(1, 3, affinity=9)}).bereaved == {(V4, 1): left}
    assert kept.change({web().key: web(1, 3)}).bereaved == {(V4, 1): frozenset()}
    kept.change({web().key: web(1, 3, affinity=9)})
    assert kept.change({web().key: None}).bereaved == {(V4, 1): frozenset()}


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(8, 32)), max_size=8))
def test_intervals_hold_the_same_addresses_and_never_touch(networks: list[tuple[int, int]]) -> None:
    prefixes = [address.prefix(f"10.{second}.0.0/{length}") for second, length in networks]
    found = book.intervals(prefixes, V4)
    for before, after in itertools.pairwise(found):
        assert before.key_end is not None
        assert int.from_bytes(before.key_end, "big") + 1 < int.from_bytes(after.key, "big")
    for prefix in prefixes:
        assert any(one.key <= prefix.network and prefix.last <= (one.key_end or b"") for one in found)
    for one in found:
        assert any(prefix.network == one.key for prefix in prefixes)


def test_chains_tell_their_classes_and_lengths_to_a_later_run() -> None:
    given_ = skeleton.Parameters(classes=((1, 10800), (7, 5)))
    names = [*skeleton.chains(SETS, given_), "lb3", "sticky3", "lb12", "sticky12"]
    assert skeleton.recover(names) == ({10800: 1, 5: 7}, {3, 12})


def held(changes: list[dict[PortKey, PortForwarding | None]]) -> dict[Set, dict[bytes, Element]]:
    kept = Book(NODE)
    found: dict[Set, dict[bytes, Element]] = {}
    for one in changes:
        change = kept.change(one)
        for target, element in change.removed:
            assert found[target].pop(element.key) == element
        for target, element in change.added:
            assert element.key not in found.setdefault(target, {})
            found[target][element.key] = element
    return {target: elements for target, elements in found.items() if elements}


PORTS = st.sampled_from(["a", "b", "c"])
WAYS = st.sampled_from(
    [
        None,
        (),
        (1,),
        (1, 2, 3),
        (2, 3, 4, 5),
    ]
)


def shaped(name: str, some: tuple[int, ...], shape: int, affinity: int) -> PortForwarding:
    number = "abc".index(name) + 1
    shapes = [
        (cluster_ip(V4, number),),
        (cluster_ip(V4, number), node_port(30000 + number, local=True)),
        (cluster_ip(V4, number, local=True), balancer(V4, number, ranges=["10.0.0.0/8", "192.168.0.0/16"])),
        (cluster_ip(V4, number), balancer(V4, number, ranges=["10.0.0.0/8"])),
    ]
    return service_port(
        *shapes[shape], cluster=backends(*some), local=backends(*some[:1]), affinity=affinity, name=name, family=V4
    )


@given(
    st.lists(
        st.dictionaries(PORTS, st.tuples(WAYS, st.integers(0, 3), st.sampled_from([0, 0, 9])), max_size=3), max_size=8
    )
)
def test_any_way_to_the_same_meaning_ends_in_the_same_elements_but_for_numbers(
    steps: list[dict[str, tuple[tuple[int, ...] | None, int, int]]],
) -> None:
    def change(name: str, way: tuple[int, ...] | None, shape: int, affinity: int) -> PortForwarding | None:
        return None if way is None else shaped(name, way, shape, affinity)

    def key(name: str) -> PortKey:
        return shaped(name, (), 0, 0).key

    history = [{key(name): change(name, *what) for name, what in step.items()} for step in steps]
    final: dict[PortKey, PortForwarding | None] = {}
    for one in history:
        final |= one
    walked, direct = held(history), held([dict(sorted(final.items()))])
    ignored = SETS.balance
    assert {t.name: len(e) for t, e in walked.items() if t is not ignored} == {
        t.name: len(e) for t, e in direct.items() if t is not ignored
    }
    for target in (SETS.cluster_ips, SETS.hairpin, SETS.source_ranges):
        assert walked.get(target) == direct.get(target)
    assert set(walked.get(SETS.frontends, {})) == set(direct.get(SETS.frontends, {}))
    assert sorted(str(e.data) for e in walked.get(SETS.endpoints, {}).values()) == sorted(
        str(e.data) for e in direct.get(SETS.endpoints, {}).values()
    )
