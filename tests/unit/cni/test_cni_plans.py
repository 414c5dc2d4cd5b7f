"""What is decided for pods and nodes, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netplane.kernel.link.objects import Link, LinkChange, Route, Veth
from netplane.model import address
from netplane.model.node import Node
from netplane_cni import spec
from netplane_cni.plan import attach, fabric, masquerade, underlay
from netplane_cni.plan.attach import Wiring
from netplane_cni.plan.book import Book
from netplane_cni.plan.ipam import Lease, Pool, asked
from netplane_cni.plan.masquerade import Frontend
from netplane_cni.spec import PortMapping

UNDERLAY = fabric.Underlay(index=2, mtu=1500)


def node(number: int, *, families: tuple[int, ...] = (4, 6), **more: object) -> Node:
    ips = [f"172.30.0.{number}", f"fd00:30::{number}"]
    cidrs = [f"10.244.{number}.0/24", f"fd00:244:0:{number}::/64"]
    pick = [{4: 0, 6: 1}[family] for family in families]
    made = Node(
        f"node-{number}",
        uid=str(number),
        internal_ips=tuple(address.parse(ips[i]) for i in pick),
        pod_cidrs=tuple(address.prefix(cidrs[i]) for i in pick),
    )
    return replace(made, **more)  # type: ignore[arg-type]  # fields of Node, checked by it


def nodes(*found: Node) -> dict[str, Node]:
    return {one.name: one for one in found}


def lease(
    container: str = "c1", *ports: PortMapping, ips: tuple[str, ...] = ("10.244.1.5", "fd00:244:0:1::5")
) -> Lease:
    addresses = tuple(address.parse(ip) for ip in ips)
    return Lease(container, "eth0", "np0", addresses, b"\2\0\0\0\0\5", "boot", ports=ports)


def routes(of: str, to: dict[str, Node], mode: fabric.Mode = "vxlan") -> set[str]:
    settings = fabric.Settings(mode)
    plan = fabric.plan(to, to[of], underlay=UNDERLAY, settings=settings)
    index = 7 if mode == "vxlan" else 0
    found = fabric.paths(plan, to[of], fabric.Where(UNDERLAY, index)).routes
    return {
        str(address.Prefix(r.network, r.length)) + (f" via {address.text(r.via)}" if r.via else f" {r.type}")
        for r in found
    }


# Pods.


def test_a_cable_is_named_by_its_attachment_alone() -> None:
    assert attach.link_name("c1", "eth0") == attach.link_name("c1", "eth0")
    names = {attach.link_name(c, i) for c in ("c1", "c2") for i in ("eth0", "net1")}
    assert len(names) == 4
    assert all(len(name) <= 15 and name.startswith("np") for name in names)


def test_an_alias_tells_its_owner_and_foreign_ones_tell_nothing() -> None:
    assert attach.owner(attach.alias("c/1", "eth0")) == ("c/1", "eth0")
    assert [attach.owner(text) for text in ("", "netplane:", "netplane:x", "docker/eth0")] == [None] * 4


def test_the_pods_end_is_complete_before_its_default_route_is_set() -> None:
    commands = [str(command) for command in attach.in_pod(Wiring(lease(), 1450), 5)]
    assert commands == [
        "change link 1: up",
        "change link 5: up",
        "add address 10.244.1.5/32 dev 5",
        "replace neighbour 169.254.1.1 lladdr 02:6e:70:00:00:01 dev 5",
        "add route 169.254.1.1/32 dev 5",
        "add route 0.0.0.0/0 via 169.254.1.1 dev 5",
        "add address fd00:244:0:1::5/128 dev 5",
        "replace neighbour fe80::1 lladdr 02:6e:70:00:00:01 dev 5",
        "add route ::/0 via fe80::1 dev 5",
    ]


def test_the_nodes_end_is_strict_about_sources_and_leads_to_the_pod_alone() -> None:
    commands = attach.on_node(Wiring(lease(), 1450), 9)
    first = commands[0].thing
    assert isinstance(first, LinkChange)
    assert dict(first.inet)["rp_filter"] == 1
    ways = [c.thing for c in commands if isinstance(c.thing, Route)]
    assert {(address.text(way.network), way.length) for way in ways} == {("10.244.1.5", 32), ("fd00:244:0:1::5", 128)}


def test_a_cable_is_born_with_its_properties_in_the_pods_namespace() -> None:
    (command,) = attach.create(Wiring(lease(), 1400), 33)
    assert command.thing == Veth("np0", "eth0", 33, attach.HOST_MAC, b"\2\0\0\0\0\5", mtu=1400, group=attach.GROUP)


def test_without_default_route_the_result_names_none() -> None:
    assert attach.result(Wiring(lease(), 1450, has_default_route=False), "/n", {}).routes == ()
    assert attach.result(Wiring(lease(), 1450), "/n", {}).interfaces[1] == spec.Interface(
        "eth0", "02:00:00:00:00:05", "/n", 1450
    )


def test_a_pool_keeps_back_what_the_node_needs() -> None:
    four, six = Pool(address.prefix("10.1.0.0/29")), Pool(address.prefix("fd00::/64"))
    assert [number & 0xFF for number in four.bounds()] == [2, 6]
    assert address.parse("fd00::1") not in six
    assert address.parse("fd00::2") in six
    assert address.parse("10.1.0.2") not in six


def test_requested_addresses_must_lie_in_the_pools_one_a_family() -> None:
    pools = [Pool(address.prefix("10.1.0.0/24"))]
    assert asked(pools, [address.parse("10.1.0.9")]) == {address.Family.V4: address.parse("10.1.0.9")}
    with pytest.raises(ValueError, match=r"10\.2\.0\.9 is not in 10\.1\.0\.0/24"):
        asked(pools, [address.parse("10.2.0.9")])
    with pytest.raises(ValueError, match="second address"):
        asked(pools, [address.parse("10.1.0.9"), address.parse("10.1.0.8")])


# Nodes.


def test_other_nodes_are_reached_by_their_tunnel_end_or_directly() -> None:
    known = nodes(node(1), node(2))
    own = {"10.244.1.0/24 unreachable", "fd00:244:0:1::/64 unreachable"}
    assert routes("node-1", known) == own | {
        "10.244.2.0/24 via 10.244.2.0",
        "fd00:244:0:2::/64 via fd00:244:0:2::",
    }
    assert routes("node-1", known, "direct") == own | {
        "10.244.2.0/24 via 172.30.0.2",
        "fd00:244:0:2::/64 via fd00:30::2",
    }


def test_the_tunnel_leaves_room_for_its_headers() -> None:
    for families, mtu in (((4, 6), 1450), ((6,), 1430)):
        known = nodes(node(1, families=families))
        assert fabric.plan(known, known["node-1"], underlay=UNDERLAY, settings=fabric.Settings()).mtu == mtu


def test_nodes_without_pod_network_or_address_are_early_and_no_problem() -> None:
    known = nodes(node(1), node(2, pod_cidrs=()), node(3, internal_ips=()))
    plan = fabric.plan(known, known["node-1"], underlay=UNDERLAY, settings=fabric.Settings())
    assert (plan.peers, plan.problems) == ((), {})


@pytest.mark.parametrize(
    "other, why",
    [
        (node(2, pod_cidrs=(address.prefix("10.244.0.0/16"),)), "its pod network overlaps that of node-1"),
        (node(2, internal_ips=(address.parse("172.30.0.1"),)), "it has the address 172.30.0.1 of this node: a NAT"),
        (node(2, internal_ips=(address.parse("fd00:30::2"),)), "it has no IPv4 address"),
        (
            node(2, annotations={fabric.MAC_ANNOTATION: fabric.computed_mac("node-1").hex(":")}),
            "its tunnel end has the MAC address of node-1",
        ),
    ],
)
def test_a_node_that_cannot_be_reached_is_named_with_the_reason(other: Node, why: str) -> None:
    known = nodes(node(1), other)
    plan = fabric.plan(known, known["node-1"], underlay=UNDERLAY, settings=fabric.Settings())
    assert plan.peers == ()
    assert plan.problems["node-2"].startswith(why)


def test_a_published_mac_address_wins_and_nonsense_is_ignored() -> None:
    published = node(2, annotations={fabric.MAC_ANNOTATION: "02:00:00:00:00:FF"})
    assert fabric.mac_of(published) == b"\2\0\0\0\0\xff"
    for nonsense in ("x", "01:00:00:00:00:00", "02:00:00:00:00"):
        assert fabric.mac_of(node(2, annotations={fabric.MAC_ANNOTATION: nonsense})) == fabric.computed_mac("node-2")


@given(st.permutations(list(range(1, 9))), st.sampled_from(["vxlan", "direct"]))
def test_the_order_of_nodes_does_not_matter(order: list[int], mode: fabric.Mode) -> None:
    clashing = node(8, pod_cidrs=(address.prefix("10.244.3.0/25"),))
    known = {**nodes(*(node(n) for n in order)), "node-8": clashing}
    plan = fabric.plan(known, known["node-1"], underlay=UNDERLAY, settings=fabric.Settings(mode))
    assert plan == fabric.plan(
        dict(sorted(known.items())), known["node-1"], underlay=UNDERLAY, settings=fabric.Settings(mode)
    )
    assert list(plan.problems) == ["node-8"]


def test_one_node_more_is_a_handful_of_commands() -> None:
    from netplane.kernel.link import diff

    known = nodes(*(node(n) for n in range(1, 200)))
    settings, me = fabric.Settings(), known["node-1"]
    before = fabric.paths(fabric.plan(known, me, underlay=UNDERLAY, settings=settings), me, fabric.Where(UNDERLAY, 7))
    known["node-200"] = node(200)
    after = fabric.paths(fabric.plan(known, me, underlay=UNDERLAY, settings=settings), me, fabric.Where(UNDERLAY, 7))
    assert len(diff.paths(after, before)) == 5


# Translation.


def facts(*leases: Lease, inside: tuple[str, ...] = ("10.244.0.0/16",)) -> masquerade.Facts:
    pods = address.prefix("10.244.1.0/24"), address.prefix("fd00:244:0:1::/64")
    return masquerade.Facts(pods, tuple(address.prefix(cidr) for cidr in inside), tuple(leases))


def test_host_ports_are_elements_and_change_no_rule() -> None:
    with_port = facts(
        lease("c1", PortMapping("tcp", 80, 8080), PortMapping("udp", 53, 53, address.parse("172.30.0.1")))
    )
    assert masquerade.skeleton(with_port) == masquerade.skeleton(facts())
    found = {
        f"{target} {target.text(element)}"
        for target, held in masquerade.elements(with_port).items()
        for element in held
        if target.name != "inside"
    }
    assert found == {
        "ip netplane_cni hostports 6 . 80 : 10.244.1.5 . 8080",
        "ip netplane_cni hostports_at 172.30.0.1 . 17 . 53 : 10.244.1.5 . 53",
        "ip netplane_cni hairpin 10.244.1.5 . 10.244.1.5",
        "ip6 netplane_cni hostports 6 . 80 : fd00:244:0:1::5 . 8080",
        "ip6 netplane_cni hairpin fd00:244:0:1::5 . fd00:244:0:1::5",
    }


def test_a_family_without_pods_has_no_table() -> None:
    only_four = masquerade.Facts((address.prefix("10.244.1.0/24"),), ())
    assert masquerade.text(only_four).endswith("table ip6 netplane_cni {}\ndelete table ip6 netplane_cni\n")


def holding(held: Lease) -> Callable[[Frontend], Lease | None]:
    book = Book()
    book.put(held)
    return book.by_port.get


def test_a_host_port_held_by_another_container_is_a_clash_and_ones_own_is_none() -> None:
    holder = lease("c1", PortMapping("tcp", 80, 8080))
    assert (
        masquerade.clash(lease("c2", PortMapping("tcp", 80, 81)), holding(holder)) == "tcp host port 80 is held by c1"
    )
    assert masquerade.clash(lease("c2", PortMapping("udp", 80, 81)), holding(holder)) == ""
    assert masquerade.clash(holder, holding(holder)) == ""
    assert masquerade.clash(lease("c2", PortMapping("tcp", 80, 81)), holding(replace(holder, is_leaving=True))) == ""


def test_without_masquerade_the_hairpin_alone_is_translated() -> None:
    text = masquerade.text(replace(facts(), masquerades=False))
    assert "daddr != @inside" not in text
    assert "@hairpin masquerade fully-random" in text


def test_tcp_is_looked_into_only_where_told() -> None:
    assert "maxseg" not in masquerade.text(facts())
    assert masquerade.text(replace(facts(), clamps=True)).count("hook forward") == 2


def test_pods_cables_and_the_narrowest_other_link_are_told_apart() -> None:
    links = [Link(1, "lo", mtu=65536, is_up=True), Link(2, "eth0", mtu=1500, is_up=True), Link(3, "off0", mtu=900)]
    assert fabric.widths(links) == (0, 1500)
    links += [Link(4, "np4f1e2d3c4b5", mtu=1400, is_up=True), Link(5, "np.vxlan", mtu=1450, is_up=True)]
    assert fabric.widths(links) == (1400, 1450)


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(24, 28)), max_size=40))
def test_merged_networks_hold_the_same_addresses_and_never_overlap(rows: list[tuple[int, int]]) -> None:
    prefixes = [address.prefix(f"10.0.0.{number}/{length}") for number, length in rows]
    merged = masquerade.merged(prefixes)
    for number in range(256):
        ip = bytes([10, 0, 0, number])
        assert sum(ip in prefix for prefix in merged) == any(ip in prefix for prefix in prefixes)


# Addresses of nodes.

NAT, MEETING = address.parse("10.0.2.15"), [address.parse(f"192.168.56.{n}") for n in range(4)]
DEAD = [address.parse(f"172.20.0.{n}") for n in range(4)]
LOCAL = {NAT: address.prefix("10.0.2.0/24"), MEETING[1]: address.prefix("192.168.56.0/24")}


def machine(number: int, *ips: bytes) -> Node:
    return Node(f"node-{number}", internal_ips=ips, pod_cidrs=(address.prefix(f"10.244.{number}.0/24"),))


def test_an_address_that_nodes_share_is_not_used_where_there_is_another() -> None:
    known = nodes(*(machine(n, NAT, MEETING[n]) for n in (1, 2, 3)))
    settled = underlay.settle(known, "node-1", LOCAL)
    assert [node.ip(address.Family.V4) for node in settled.values()] == MEETING[1:]
    only = nodes(machine(1, NAT), machine(2, NAT))
    assert underlay.settle(only, "node-1", LOCAL) == only


def test_the_address_on_whose_network_most_nodes_are_is_used() -> None:
    known = nodes(
        machine(1, NAT, MEETING[1]), machine(2, MEETING[2]), machine(3, address.parse("172.20.0.9"), MEETING[3])
    )
    settled = underlay.settle(known, "node-1", LOCAL)
    assert [node.ip(address.Family.V4) for node in settled.values()] == MEETING[1:]


def test_the_address_by_which_nodes_answer_comes_before_the_one_that_most_have() -> None:
    known = nodes(*(machine(n, DEAD[n], MEETING[n]) for n in (1, 2, 3)))
    local = {**LOCAL, DEAD[1]: address.prefix("172.20.0.0/24")}
    assert underlay.settle(known, "node-1", local)["node-1"].ip(address.Family.V4) == DEAD[1]
    asked = underlay.questions(known, "node-1", local)
    assert set(asked) == {(by, to[n]) for by in (DEAD[1], MEETING[1]) for to in (DEAD, MEETING) for n in (2, 3)}
    answered = [(by, to) for by, to in asked if by == MEETING[1] and to in MEETING]
    settled = underlay.settle(known, "node-1", local, answered)
    assert [node.ip(address.Family.V4) for node in settled.values()] == MEETING[1:]


def test_behind_a_nat_that_leads_to_all_nodes_the_network_they_meet_on_is_used() -> None:
    known = nodes(*(machine(n, DEAD[n], MEETING[n]) for n in (1, 2, 3)))
    local = {**LOCAL, DEAD[1]: address.prefix("172.20.0.0/24")}
    answered = [(by, MEETING[n]) for by in (DEAD[1], MEETING[1]) for n in (2, 3)]
    assert underlay.settle(known, "node-1", local, answered)["node-1"].ip(address.Family.V4) == MEETING[1]


def test_a_node_with_one_address_asks_nobody_and_of_many_nodes_a_few_are_asked() -> None:
    many = nodes(*(machine(n, address.parse(f"192.168.57.{n}")) for n in range(200)))
    assert underlay.questions(many, "node-1", LOCAL) == ()
    two = {**many, "node-1": machine(1, DEAD[1], MEETING[1])}
    local = {**LOCAL, DEAD[1]: address.prefix("172.20.0.0/24")}
    assert len(underlay.questions(two, "node-1", local)) == 2 * underlay.SAMPLE


def test_a_node_that_claims_anothers_address_takes_it_from_nobody() -> None:
    known = nodes(node(1), replace(node(2), internal_ips=node(1).internal_ips[:1]))
    assert underlay.settle(known, "node-1", {})["node-1"] == known["node-1"]


def test_auto_goes_directly_on_the_link_and_through_the_tunnel_elsewhere() -> None:
    near = fabric.Underlay(2, 1500, (address.prefix("192.168.56.0/24"),))
    known = nodes(machine(1, MEETING[1]), machine(2, MEETING[2]), machine(3, address.parse("172.20.0.9")))
    me = known["node-1"]
    plan = fabric.plan(known, me, underlay=near, settings=fabric.Settings("auto"))
    found = fabric.paths(plan, me, fabric.Where(near, 7))
    ways = {str(address.Prefix(r.network, r.length)): (r.index, r.via) for r in found.routes if r.type == "unicast"}
    assert ways == {"10.244.2.0/24": (2, MEETING[2]), "10.244.3.0/24": (7, address.parse("10.244.3.0"))}
    assert {forward.remote for forward in found.forwards} == {address.parse("172.20.0.9")}
    assert plan.mtu == 1450


@pytest.mark.parametrize(
    "release, is_so", [("6.1.0-18-amd64", True), ("5.7.0", True), ("5.4.0-42-generic", False), ("strange", True)]
)
def test_a_kernel_that_cannot_be_tried_is_judged_by_its_age(release: str, is_so: bool) -> None:
    assert fabric.has_sound_checksums(release) is is_so
