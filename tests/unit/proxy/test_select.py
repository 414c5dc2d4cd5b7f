"""Which endpoints serve here: readiness, termination, policy and hints, as Kubernetes has it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netplane.model import address
from netplane.model.address import Family
from netplane.model.service import Endpoint
from netplane_proxy.plan import select
from tests.support.clusters import HERE, backend, draining, endpoint, local, piece, port

WEB = port("80/tcp")


def choose(*endpoints: Endpoint, zone: str = "zone-a") -> select.Choice:
    found = select.candidates(WEB, Family.V4, [piece(*endpoints)], HERE)
    return select.choose(found, node_name=HERE, zone=zone)


def hosts(choice: tuple[select.Backend, ...]) -> list[int]:
    return [one.ip[-1] for one in choice]


def zoned(ip: str, *zones: str) -> Endpoint:
    return endpoint(ip, zone_hints=frozenset(zones))


def noded(ip: str, *nodes: str) -> Endpoint:
    return endpoint(ip, node_hints=frozenset(nodes), zone_hints=frozenset(["zone-a"]))


ENDPOINTS = st.builds(
    Endpoint,
    st.sampled_from([10, 10, 10, 10, 10, 127]).flatmap(
        lambda first: st.integers(1, 9).map(lambda last: (bytes((first, 244, 1, last)),))
    ),
    ready=st.sampled_from([True, True, True, False]),
    node_name=st.sampled_from(["", HERE, "node-b"]),
    zone_hints=st.sampled_from([frozenset[str](), frozenset[str](), frozenset(["zone-a"])]),
    node_hints=st.sampled_from([frozenset[str](), frozenset[str](), frozenset([HERE])]),
)


@given(st.lists(st.lists(ENDPOINTS, max_size=4), max_size=3))
def test_the_short_way_chooses_as_the_long_one(pieces: list[list[Endpoint]]) -> None:
    slices = [piece(*endpoints, ports="8080/tcp 9090/udp") for endpoints in pieces]
    chosen = select.plain(WEB, Family.V4, slices, HERE)
    found = select.candidates(WEB, Family.V4, slices, HERE)
    is_plain = all(one.ready and not one.zone_hints and not one.node_hints for some in pieces for one in some)
    assert (chosen is not None) == (is_plain and len(found) == sum(map(len, pieces)))  # None is special or twice there.
    if chosen is not None:
        assert chosen == select.choose(found, node_name=HERE, zone="zone-a")
        assert chosen.cluster == select.serving(found)


def test_only_ready_endpoints_serve() -> None:
    unready = endpoint("10.244.1.2", ready=False, serving=False)
    assert hosts(choose(endpoint("10.244.1.1"), unready).cluster) == [1]


def test_terminating_backends_serve_only_when_none_are_ready() -> None:
    going = draining(endpoint("10.244.1.2"))
    assert hosts(choose(endpoint("10.244.1.1"), going).cluster) == [1]
    assert hosts(choose(going).cluster) == [2]


def test_an_endpoint_that_terminates_without_serving_never_serves() -> None:
    gone = endpoint("10.244.1.2", ready=False, serving=False, terminating=True)
    assert choose(gone).cluster == ()


def test_local_and_cluster_fall_back_to_terminating_each_on_its_own() -> None:
    choice = choose(endpoint("10.244.1.1"), draining(local("10.244.1.2")))
    assert (hosts(choice.cluster), hosts(choice.local)) == ([1], [2])


def test_a_terminating_endpoint_that_is_published_as_ready_counts_as_ready() -> None:
    published = endpoint("10.244.1.2", ready=True, serving=True, terminating=True)
    assert hosts(choose(endpoint("10.244.1.1"), published).cluster) == [1, 2]


def test_zone_hints_keep_traffic_in_the_zone() -> None:
    assert hosts(choose(zoned("10.244.1.1", "zone-a"), zoned("10.244.1.2", "zone-b")).cluster) == [1]


def test_one_endpoint_without_hint_voids_them() -> None:
    assert hosts(choose(zoned("10.244.1.1", "zone-a"), endpoint("10.244.1.2")).cluster) == [1, 2]


def test_hints_that_leave_the_zone_empty_are_void() -> None:
    assert hosts(choose(zoned("10.244.1.1", "zone-b"), zoned("10.244.1.2", "zone-c")).cluster) == [1, 2]


def test_a_node_without_zone_ignores_zone_hints() -> None:
    assert hosts(choose(zoned("10.244.1.1", "zone-a"), zoned("10.244.1.2", "zone-b"), zone="").cluster) == [1, 2]


def test_unready_endpoints_have_no_say_in_hints() -> None:
    unready = endpoint("10.244.1.3", ready=False, serving=False)
    assert hosts(choose(zoned("10.244.1.1", "zone-a"), zoned("10.244.1.2", "zone-b"), unready).cluster) == [1]


def test_node_hints_come_before_zone_hints() -> None:
    assert hosts(choose(noded("10.244.1.1", HERE), noded("10.244.1.2", "node-2")).cluster) == [1]


def test_node_hints_for_others_fall_back_to_the_zone() -> None:
    assert hosts(choose(noded("10.244.1.1", "node-3"), noded("10.244.1.2", "node-2")).cluster) == [1, 2]


def test_hints_do_not_narrow_local_policy() -> None:
    away = local("10.244.1.1", zone_hints=frozenset(["zone-b"]))
    assert hosts(choose(away, zoned("10.244.1.2", "zone-a")).local) == [1]


def test_a_named_port_takes_the_number_each_slice_gives() -> None:
    slices = [
        piece(endpoint("10.244.1.1"), ports="http=8080/tcp", name="old"),
        piece(endpoint("10.244.1.2"), ports="http=9090/tcp", name="new"),
    ]
    found = select.candidates(port("http=80/tcp"), Family.V4, slices, HERE)
    assert [one.backend for one in found] == [backend("10.244.1.1:8080"), backend("10.244.1.2:9090")]


def test_a_slice_port_of_another_name_or_protocol_does_not_serve() -> None:
    slices = [piece(endpoint("10.244.1.1"), ports="http=8080/udp admin=8080/tcp")]
    assert select.candidates(port("http=80/tcp"), Family.V4, slices, HERE) == ()


def test_an_endpoint_that_moves_between_slices_counts_once_and_at_its_best() -> None:
    unready = endpoint("10.244.1.1", ready=False, serving=False)
    old, new = piece(unready, name="old"), piece(endpoint("10.244.1.1"), name="new")
    for slices in ([old, new], [new, old]):
        found = select.candidates(WEB, Family.V4, slices, HERE)
        assert [one.is_ready for one in found] == [True]


def test_slices_of_the_other_family_do_not_serve() -> None:
    slices = [piece(endpoint("10.244.1.1")), piece(endpoint("fd00:244::1"))]
    assert len(select.candidates(WEB, Family.V6, slices, HERE)) == 1


@pytest.mark.parametrize(
    "ip",
    [
        "0.0.0.0",
        "127.0.0.1",
        "127.9.9.9",
        "169.254.169.254",
        "224.0.0.1",
        "239.1.1.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "febf::1",
        "ff02::1",
    ],
)
def test_no_endpoint_has_an_address_that_leads_into_the_node_or_to_nobody(ip: str) -> None:
    good = "10.244.1.1" if "." in ip else "fd00:244::1"
    family = Family.V4 if "." in ip else Family.V6
    found = select.candidates(WEB, family, [piece(endpoint(good), local(ip))], HERE)
    assert [one.backend.ip for one in found] == [address.parse(good)]
    assert select.candidates(WEB, family, [piece(local(ip))], HERE) == ()


@pytest.mark.parametrize(
    "ip", ["0.1.2.3", "126.0.0.1", "169.253.0.1", "240.0.0.1", "64:ff9b::1", "fec0::1", "fd00::1", "::2", "fe00::1"]
)
def test_addresses_near_the_special_ones_are_endpoints(ip: str) -> None:
    family = address.family(address.parse(ip))
    assert len(select.candidates(WEB, family, [piece(endpoint(ip))], HERE)) == 1
