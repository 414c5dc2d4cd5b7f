"""Nodes come, go and change: paths to their pods follow at once, and nobody else's routes are touched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from netplane.kernel.link import run as link
from netplane.kernel.link.diff import Paths
from netplane.kernel.link.objects import Address, LinkChange, LinkName, Route, add, change, remove
from netplane.kube import types
from netplane_cni.plan import fabric
from tests.support.cni_api import ApiInside
from tests.support.cni_nodes import Machine, World, ip, until
from tests.support.cni_nursery import Nursery
from tests.support.cni_traffic import echo, talk


def paths(machine: Machine) -> Paths:
    with link.Socket(machine.netns) as socket:
        there = socket.link(fabric.DEVICE)
        return socket.paths(protocol=fabric.FABRIC_PROTOCOL, index=there.index if there else 0)


def networks(machine: Machine) -> set[bytes]:
    return {route.network for route in paths(machine).routes if route.type == "unicast"}


@pytest.fixture(params=["vxlan", "direct"])
def world(request: pytest.FixtureRequest, tmp_path: Path, cni_nursery: Nursery) -> Iterator[World]:
    with World(tmp_path / "world", nodes=2, fabric=request.param, nursery=cni_nursery) as made:
        yield made


def test_paths_follow_nodes_that_join_leave_and_move(world: World) -> None:
    one, two = world.machines
    world.tell([one.node()])
    one.start()
    assert networks(one) == set()
    world.tell([one.node(), two.node()])
    until(lambda: networks(one) == {ip("10.244.2.0"), ip("fd00:244:0:2::")})
    moved = two.node()
    moved["status"]["addresses"] = [{"type": "InternalIP", "address": a} for a in ("172.30.0.99", "fd00:30::99")]
    moved["spec"]["podCIDRs"] = ["10.244.7.0/24", "fd00:244:0:7::/64"]
    world.tell([one.node(), moved])
    until(lambda: networks(one) == {ip("10.244.7.0"), ip("fd00:244:0:7::")})
    found = paths(one)
    if world.fabric == "vxlan":
        assert {forward.remote for forward in found.forwards} == {ip("172.30.0.99")}
        assert {neighbour.address for neighbour in found.neighbours} == networks(one)
    else:
        assert {route.via for route in found.routes if route.via} == {ip("172.30.0.99"), ip("fd00:30::99")}
    world.tell([one.node()])
    until(lambda: networks(one) == set() and not paths(one).neighbours and not paths(one).forwards)


def test_a_node_installed_anew_under_its_name_is_reached_again(world: World) -> None:
    one, two = world.machines
    one.start()
    two.start()
    a = one.pod("a")
    two.kill()
    with link.Socket(two.netns) as socket:
        socket.commit([remove(LinkName(fabric.DEVICE))])
    for file in (two.folder / "state").iterdir():
        file.unlink()
    again = two.node()
    again["metadata"]["uid"] = "another"
    world.tell([one.node(), again])
    two.start()
    b = two.pod("b")
    with echo(b.netns) as server:
        assert talk(server, a.netns, b.addresses[0]) == a.addresses[0]


def test_foreign_routes_stay_and_stray_ones_of_ours_go_at_start(world: World) -> None:
    one = world.machines[0]
    foreign = Route(ip("10.99.0.0"), 16, via=ip("172.30.0.1"))
    stray = Route(ip("10.98.0.0"), 16, via=ip("172.30.0.1"), protocol=fabric.FABRIC_PROTOCOL)
    with link.Socket(one.netns) as socket:
        socket.commit([add(foreign), add(stray)])
        one.start()
        found = {route.network for route in socket.routes()}
    assert ip("10.99.0.0") in found
    assert ip("10.98.0.0") not in found


def test_what_others_break_is_repaired(world: World) -> None:
    one, two = world.machines
    one.start()
    two.start()
    a, b = one.pod("a"), two.pod("b")
    with link.Socket(one.netns) as socket:
        there = socket.link(fabric.DEVICE)
        broken = [remove(route) for route in paths(one).routes if route.type == "unicast"]
        broken += [remove(LinkName(fabric.DEVICE))] if there else []
        socket.commit(broken)
    until(lambda: ip("10.244.2.0") in networks(one))
    with echo(b.netns) as server:
        talk(server, a.netns, b.addresses[0])


def test_a_smaller_mtu_of_the_underlay_is_followed(world: World) -> None:
    one = world.machines[0]
    one.start()
    with link.Socket(one.netns) as socket:
        socket.commit([change(LinkChange(name="eth0", mtu=1400))])
    overhead = 50 if world.fabric == "vxlan" else 0
    until(lambda: one.status()["mtu"] == 1400 - overhead)


def test_nodes_that_clash_are_named_and_the_first_keeps_its_place(world: World) -> None:
    one, two = world.machines
    twin, shared = two.node(), two.node()
    twin["metadata"] = {"name": "node-3", "uid": "3"}
    twin["status"]["addresses"] = [{"type": "InternalIP", "address": a} for a in ("172.30.0.13", "fd00:30::13")]
    shared["metadata"] = {"name": "node-4", "uid": "4"}
    shared["spec"]["podCIDRs"] = ["10.244.4.0/24"]
    shared["status"]["addresses"] = [{"type": "InternalIP", "address": one.addresses[0]}]
    world.tell([one.node(), two.node(), twin, shared])
    one.start()
    problems = one.status()["fabric"]["problems"]
    assert problems["node-3"] == "its pod network overlaps that of node-2"
    assert "NAT address" in problems["node-4"]
    assert networks(one) == {ip("10.244.2.0"), ip("fd00:244:0:2::")}


def test_ipv6_alone_joins_nodes_too(tmp_path: Path) -> None:
    with World(tmp_path / "world", nodes=2, families=[6]) as world:
        for machine in world.machines:
            machine.start()
        a, b = (machine.pod("p") for machine in world.machines)
        assert world.machines[0].status()["mtu"] == 1430
        with echo(b.netns) as server:
            assert talk(server, a.netns, b.addresses[0]) == a.addresses[0]


def test_the_daemon_follows_an_api_server_and_outlives_it(tmp_path: Path) -> None:
    with World(tmp_path / "world", nodes=2) as world, ApiInside(world.machines[0].netns) as api:
        one, two = world.machines
        world.kubeconfig = api.kubeconfig(tmp_path / "kubeconfig")
        one.start(wait=False)
        until(
            lambda: one.status().get("waiting_for") == "Node node-1 does not exist yet: does its agent run?", limit=20
        )
        assert one.call("ADD", one.container("early")).body["code"] == 11
        early = one.node()
        early["spec"] = {}
        api.do(api.fake.create(types.NODES, early))
        until(lambda: "no spec.podCIDRs yet" in one.status()["waiting_for"])
        assert not one.conflist.exists()
        assert one.call("STATUS").body["code"] == 50
        api.do(api.fake.patch(types.NODES, "node-1", {"spec": one.node()["spec"]}))
        until(lambda: one.status()["ready"] and one.conflist.exists())
        published = api.do(api.fake.get(types.NODES, "node-1"))["metadata"]["annotations"]
        assert published[fabric.MAC_ANNOTATION] == fabric.computed_mac("node-1").hex(":")
        pod = one.pod("early-again")
        api.do(api.fake.create(types.NODES, two.node()))
        until(lambda: ip("10.244.2.0") in networks(one))
        api.stop()
        later = one.pod("without-api")
        with echo(later.netns) as server:
            talk(server, pod.netns, later.addresses[0])
        api.start()
        api.do(api.fake.delete(types.NODES, "node-2"))
        until(lambda: networks(one) == set(), limit=15)


def test_auto_routes_on_the_link_and_tunnels_to_the_others(tmp_path: Path) -> None:
    with World(tmp_path / "world", nodes=3, fabric="auto", far=(3,)) as world:
        for machine in world.machines:
            machine.start(wait=False)
        until(lambda: all(m.status().get("ready") and m.conflist.exists() for m in world.machines), limit=60)
        one, two, three = world.machines
        ways = {r.network: r.via for r in paths(one).routes if r.type == "unicast"}
        assert ways[ip("10.244.2.0")] == ip(two.addresses[0])
        assert ways[ip("fd00:244:0:2::")] == ip(two.addresses[1])
        assert ways[ip("10.244.3.0")] == ip("10.244.3.0")
        assert {forward.remote for forward in paths(one).forwards} == {ip(three.addresses[0])}
        pods = [machine.pod("p") for machine in world.machines]
        for server in pods:
            with echo(server.netns) as serving:
                for client in pods:
                    for family in (0, 1):
                        assert talk(serving, client.netns, server.addresses[family]) == client.addresses[family]


def test_an_address_that_all_nodes_share_carries_no_tunnel(tmp_path: Path) -> None:
    with World(tmp_path / "world", nodes=2, families=[4]) as world:
        told = []
        for machine in world.machines:
            with link.Socket(machine.netns) as socket:
                there = socket.link("eth0")
                assert there is not None
                socket.commit([add(Address(there.index, ip("10.0.2.15"), 24))])
            node = machine.node()
            node["status"]["addresses"].insert(0, {"type": "InternalIP", "address": "10.0.2.15"})
            told.append(node)
        world.tell(told)
        for machine in world.machines:
            machine.start()
        one, two = world.machines
        a, b = one.pod("a"), two.pod("b")
        with echo(b.netns) as server:
            assert talk(server, a.netns, b.addresses[0]) == a.addresses[0]
        assert {forward.remote for forward in paths(one).forwards} == {ip(two.addresses[0])}
