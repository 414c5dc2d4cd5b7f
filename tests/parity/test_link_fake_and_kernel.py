"""The fake answers as the kernel does: after the same commands both list the same, and refuse the same."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from netplane.kernel import netns
from netplane.kernel.errors import KernelError
from netplane.kernel.link import diff, fake, run
from netplane.kernel.link.objects import (
    Address,
    Bridge,
    Command,
    Forward,
    Link,
    LinkChange,
    LinkGroup,
    LinkName,
    Neighbour,
    Route,
    Thing,
    TokenBucket,
    Veth,
    Vxlan,
    add,
    change,
    remove,
    replace,
)

OURS = 201
MAC_A, MAC_B = bytes.fromhex("02000000000a"), bytes.fromhex("02000000000b")


def ip(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


@dataclass
class Pair:
    host: run.Links
    pod: run.Links
    pod_namespace: int


@pytest.fixture(params=["fake", "kernel"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    if request.param == "fake":
        pod = fake.Fake()
        yield Pair(fake.Fake({7: pod}), pod, 7)
        return
    paths = [str(tmp_path / name) for name in ("host", "pod")]
    for path in paths:
        netns.create(path)
    opened = os.open(paths[1], os.O_RDONLY)
    try:
        with run.Socket(paths[0]) as host, run.Socket(paths[1]) as inner:
            yield Pair(host, inner, opened)
    finally:
        os.close(opened)
        for path in paths:
            netns.remove_if_present(path)


def wired(pair: Pair) -> Link:
    veth = Veth("np1", "eth0", pair.pod_namespace, MAC_A, MAC_B, peer_index=2, mtu=1450, group=9)
    pair.host.commit([add(veth)])
    link = pair.host.link("np1")
    assert link is not None
    return link


def up(link: run.Links, index: int) -> None:
    link.commit([change(LinkChange(index=index, addr_gen_none=True)), change(LinkChange(index=index, is_up=True))])


def tunnel(pair: Pair) -> int:
    pair.host.commit([add(Vxlan("np.vxlan", 7, 4789, ip("10.9.0.1"), mac=MAC_A, mtu=1400))])
    link = pair.host.link("np.vxlan")
    assert link is not None
    # Without one address in the namespace the kernel has no table of local ones and finds every gateway invalid.
    up(pair.host, 1)
    up(pair.host, link.index)
    return link.index


def refused(links: run.Links, command: Command) -> str:
    with pytest.raises(KernelError) as caught:
        links.commit([command])
    return str(caught.value).split(" (")[0]


def test_a_veth_has_the_properties_asked_for_at_both_ends(pair: Pair) -> None:
    host = wired(pair)
    peer = pair.pod.link("eth0")
    assert host == Link(host.index, "np1", "veth", MAC_A, 1450, group=9, peer_index=2)
    assert peer == Link(2, "eth0", "veth", MAC_B, 1450, peer_index=host.index)


def test_a_link_of_the_same_name_is_refused(pair: Pair) -> None:
    wired(pair)
    assert refused(pair.host, add(Bridge("np1"))) == "add link np1 type bridge: EEXIST"


def test_removing_one_end_removes_the_other(pair: Pair) -> None:
    wired(pair)
    pair.host.commit([remove(LinkName("np1"))])
    assert pair.host.link("np1") is None
    assert pair.pod.link("eth0") is None


def test_a_group_is_removed_at_once_and_nothing_else(pair: Pair) -> None:
    wired(pair)
    pair.host.commit([add(Bridge("br0", MAC_A)), remove(LinkGroup(9)), remove(LinkGroup(9))])
    assert {link.name for link in pair.host.links()} == {"lo", "br0"}


def test_a_tunnel_tells_its_parameters(pair: Pair) -> None:
    index = tunnel(pair)
    link = pair.host.link("np.vxlan")
    assert link is not None
    assert link.vxlan == Vxlan("np.vxlan", 7, 4789, ip("10.9.0.1"), mac=MAC_A, mtu=1400)
    assert (link.index, link.is_up) == (index, True)


def test_a_link_is_changed_by_name_or_index(pair: Pair) -> None:
    host = wired(pair)
    pair.host.commit(
        [
            change(LinkChange(name="np1", mtu=1300, group=4)),
            change(LinkChange(index=host.index, alias="pod web", rename="np2")),
        ]
    )
    assert pair.host.link("np2") == Link(host.index, "np2", "veth", MAC_A, 1300, group=4, alias="pod web", peer_index=2)


def test_addresses_are_listed_by_link(pair: Pair) -> None:
    wired(pair)
    up(pair.pod, 2)
    given = [Address(2, ip("10.1.0.2"), 32, is_quiet=True), Address(2, ip("fd00::2"), 128, is_quiet=True)]
    pair.pod.commit([add(address) for address in given])
    assert sorted(pair.pod.addresses(2)) == sorted(given)
    assert refused(pair.pod, add(given[0])) == "add address 10.1.0.2/32 dev 2: EEXIST"
    pair.pod.commit([remove(given[0]), remove(given[0])])
    assert pair.pod.addresses(2) == given[1:]


def paths_of_node(index: int) -> diff.Paths:
    return diff.Paths(
        frozenset(
            {
                Route(ip("10.2.0.0"), 24, index, ip("10.2.0.0"), OURS, onlink=True),
                Route(ip("fd00:2::"), 64, index, ip("fd00:2::"), OURS, onlink=True),
                Route(ip("10.1.0.0"), 24, protocol=OURS, type="unreachable"),
                Route(ip("fd00:1::"), 64, protocol=OURS, type="blackhole"),
                Route(ip("10.3.0.5"), 32, index, protocol=OURS),
                Route(ip("10.4.0.0"), 24, index, protocol=OURS, mtu=1300),
                Route(ip("fd00:4::"), 64, index, protocol=OURS, mtu=1300),
                Route(ip("fd00:4::"), 64, metric=1 << 20, protocol=OURS, type="unreachable"),
            }
        ),
        frozenset({Neighbour(index, ip("10.2.0.0"), MAC_B), Neighbour(index, ip("fd00:2::"), MAC_B)}),
        frozenset({Forward(index, MAC_B, ip("172.30.0.12"))}),
    )


def test_paths_are_listed_as_they_were_given(pair: Pair) -> None:
    index = tunnel(pair)
    want = paths_of_node(index)
    pair.host.commit(diff.paths(want, diff.Paths()))
    have = pair.host.paths(protocol=OURS, index=index)
    assert have == want
    assert diff.paths(want, have) == ()
    pair.host.commit(diff.paths(diff.Paths(), have))
    assert pair.host.paths(protocol=OURS, index=index) == diff.Paths()


def test_what_changes_is_replaced(pair: Pair) -> None:
    index = tunnel(pair)
    before = paths_of_node(index)
    after = diff.Paths(
        frozenset({Route(ip("10.2.0.0"), 24, index, ip("10.2.0.9"), OURS, onlink=True)}),
        frozenset({Neighbour(index, ip("10.2.0.0"), MAC_A)}),
        frozenset({Forward(index, MAC_B, ip("172.30.0.99"))}),
    )
    pair.host.commit(diff.paths(before, diff.Paths()))
    pair.host.commit(diff.paths(after, before))
    assert pair.host.paths(protocol=OURS, index=index) == after


def test_only_the_owners_routes_are_listed(pair: Pair) -> None:
    index = tunnel(pair)
    pair.host.commit([add(Route(ip("10.7.0.0"), 24, index, protocol=OURS + 1))])
    assert pair.host.paths(protocol=OURS, index=index).routes == frozenset()


def test_a_link_that_goes_down_takes_its_routes_along(pair: Pair) -> None:
    index = tunnel(pair)
    pair.host.commit([add(Route(ip("10.7.0.0"), 24, index, protocol=OURS)), change(LinkChange(index, is_up=False))])
    assert pair.host.paths(protocol=OURS, index=index).routes == frozenset()


def test_removing_what_is_not_there_succeeds(pair: Pair) -> None:
    index = tunnel(pair)
    paths = paths_of_node(index)
    things: list[Thing] = [*paths.routes, *paths.neighbours, *paths.forwards]
    pair.host.commit([remove(thing) for thing in things])
    pair.host.commit([remove(LinkName("none")), remove(LinkGroup(77)), remove(Address(index, ip("10.0.0.1"), 32))])


def test_what_needs_a_missing_link_is_refused(pair: Pair) -> None:
    assert refused(pair.host, add(Address(99, ip("10.0.0.1"), 32))) == "add address 10.0.0.1/32 dev 99: ENODEV"
    assert refused(pair.host, add(Route(ip("10.0.0.0"), 8, 99))) == "add route 10.0.0.0/8 dev 99: ENODEV"
    assert refused(pair.host, change(LinkChange(name="none", is_up=True))) == "change link none: up: ENODEV"


def test_all_commands_are_tried_and_the_first_refusal_is_raised(pair: Pair) -> None:
    wired(pair)
    with pytest.raises(KernelError, match="add link np1 type bridge"):
        pair.host.commit([add(Bridge("np1")), add(Bridge("br1")), add(Address(99, ip("10.0.0.1"), 32))])
    assert pair.host.link("br1") is not None


def test_many_commands_go_in_order(pair: Pair) -> None:
    index = tunnel(pair)
    routes = [Route(ip(f"10.{n // 256}.{n % 256}.0"), 24, index, protocol=OURS) for n in range(1000)]
    pair.host.commit([replace(route) for route in routes])
    assert pair.host.paths(protocol=OURS).routes == frozenset(routes)


def test_a_token_bucket_is_set_replaced_listed_and_removed(pair: Pair) -> None:
    host = wired(pair)
    assert pair.host.rate(host.index) == 0
    for rate in (1_000_000, 10_000_000_000):
        pair.host.commit([replace(TokenBucket(host.index, rate, 100_000, 200_000))])
        assert pair.host.rate(host.index) == rate
    assert pair.pod.rate(2) == 0
    pair.host.commit([remove(TokenBucket(host.index, 0, 0, 0))] * 2)
    assert pair.host.rate(host.index) == 0
    assert refused(pair.host, replace(TokenBucket(77, 1000, 1000, 1000))).endswith("ENODEV")
