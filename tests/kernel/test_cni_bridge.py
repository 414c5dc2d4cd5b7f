"""Pods on a bridge by configuration: they share an Ethernet, and all else is as with a route to each."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netplane.kernel import netns
from netplane.kernel.link import run as link
from netplane_cni.plan import attach
from netplane_cni.plan.bridge import BRIDGE
from tests.support.cni_nodes import Machine, Pod, World, until
from tests.support.cni_nursery import Nursery
from tests.support.cni_traffic import echo, reaches, talk

GROUP, PORT = "239.1.2.3", 9000
FAMILIES = {"v4": (4,), "v6": (6,), "dual": (4, 6)}


@pytest.fixture(scope="module", params=list(FAMILIES))
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, cni_nursery: Nursery
) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("bridge")
    with World(folder / "world", nodes=2, families=FAMILIES[request.param], nursery=cni_nursery) as made:
        for machine in made.machines:
            machine.options = ["--wiring=bridge", "--cool-down=0"]
            machine.start(wait=False)
        until(lambda: all(m.status().get("ready") and m.conflist.exists() for m in made.machines), limit=20)
        yield made


def mapping(host: int, container: int) -> dict[str, Any]:
    return {"runtimeConfig": {"portMappings": [{"hostPort": host, "containerPort": container}]}}


def of(world: World, addresses: list[str]) -> list[str]:
    return world.of_families(addresses)


def test_pods_see_each_others_own_addresses_on_one_node_and_on_two(world: World) -> None:
    one, two = world.machines
    a, b, c = one.pod("a"), one.pod("b"), two.pod("c")
    for pod in (b, c):
        with echo(pod.netns) as server:
            for mine, theirs in zip(a.addresses, pod.addresses, strict=True):
                for kind in ("tcp", "udp"):
                    assert talk(server, a.netns, theirs, kind=kind) == mine
                talk(server, one.netns, theirs)
    assert one.call("CHECK", a, config={"prevResult": a.result}).code == 0


def test_the_outside_sees_the_node_and_reaches_host_ports(world: World) -> None:
    one = world.machines[0]
    pod, neighbour = one.pod("served", config=mapping(18080, 8080)), one.pod("neighbour")
    nodes, clients = of(world, one.addresses), of(world, ["172.31.0.2", "fd00:31::2"])
    with echo(pod.netns) as server, echo(world.client, 8081) as outside:
        for node, client, own in zip(nodes, clients, neighbour.addresses, strict=True):
            assert talk(server, world.client, node, 18080) == client
            assert talk(outside, pod.netns, client, 8081) == node
            # By the node, from the same bridge and from the pod itself: answers must take the same way back.
            assert talk(server, neighbour.netns, node, 18080) == own
            talk(server, pod.netns, node, 18080)
    assert one.delete(pod).code == 0
    assert not reaches(world.client, nodes[0], 18080)


def test_the_result_tells_the_bridge_and_the_network(world: World) -> None:
    pod = world.machines[0].pod("told")
    assert [one["name"] for one in pod.result["interfaces"]][::2] == [BRIDGE, "eth0"]
    lengths = {"10.244.1.1": "24", "fd00:244:0:1::1": "64"}
    for row in pod.result["ips"]:
        assert (row["address"].partition("/")[2], row["interface"]) == (lengths[row["gateway"]], 2)


def test_del_leaves_nothing_on_the_bridge(world: World) -> None:
    one = world.machines[0]
    with link.Socket(one.netns) as socket_:
        before = set(socket_.routes(protocol=attach.POD_PROTOCOL))
        switch = socket_.link(BRIDGE)
        assert switch is not None
        known = set(socket_.neighbours(switch.index))
        gone, unpinned = one.pod("gone"), one.pod("unpinned")
        assert len(socket_.neighbours(switch.index)) == len(known) + 2 * len(gone.addresses)
        netns.remove_if_present(unpinned.netns)
        for pod in (gone, unpinned):
            assert one.call("DEL", pod).code == 0
        assert set(socket_.neighbours(switch.index)) == known
        assert set(socket_.routes(protocol=attach.POD_PROTOCOL)) == before


def test_a_daemon_that_starts_again_knows_its_pods(world: World) -> None:
    one = world.machines[0]
    pod = one.pod("stays")
    one.kill()
    for file in (one.folder / "state").glob("leases.journal"):
        file.unlink()
    one.start()
    held = {lease["container"]: lease["addresses"] for lease in one.status()["leases"]}
    assert held[pod.container] == pod.addresses
    assert one.call("DEL", pod).code == 0


def test_addresses_of_no_pod_are_refused_at_once(world: World) -> None:
    pod = world.machines[0].pod("asks")
    to = of(world, ["10.244.1.250", "fd00:244:0:1::fa"])[0]
    with pytest.raises(OSError, match=r"No route to host|Network is unreachable"):
        pod.run(lambda: socket.create_connection((to, 80), timeout=3))


def received(pod: Pod | Machine, *, joins: str = "", on: str = "eth0") -> socket.socket:
    """Open a socket that gets what is sent to everybody, or to a group."""

    def listen() -> socket.socket:
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, on.encode())
        one.bind(("", PORT))
        one.settimeout(1)
        if joins:
            membership = struct.pack("4sii", socket.inet_aton(joins), 0, socket.if_nametoindex(on))
            one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        return one

    return netns.run_in(pod.netns, listen)


def seen_frames(place: str, on: str) -> socket.socket:
    """Open a socket that sees every frame which the interface gets."""
    return netns.run_in(place, lambda: _frames(on))


def _frames(on: str) -> socket.socket:
    one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    one.bind((on, 0x0800))
    one.settimeout(0.3)
    return one


def carries(frames: socket.socket, word: bytes) -> bool:
    """Tell whether a frame with the word has come."""
    try:
        while word not in frames.recv(2048):
            pass
    except TimeoutError:
        return False
    return True


@pytest.fixture
def switched(tmp_path: Path) -> Iterator[Machine]:
    with World(tmp_path / "world", nodes=1, families=[4]) as world:
        world.machines[0].options = ["--wiring=bridge", "--cool-down=0"]
        world.machines[0].start()
        yield world.machines[0]


def test_broadcast_reaches_neighbours_and_multicast_only_who_asked_for_it(switched: Machine) -> None:
    sender, member, other = switched.pod("sender"), switched.pod("member"), switched.pod("other")
    with received(member, joins=GROUP) as joined, received(other) as apart:

        def send(to: str, word: bytes) -> None:
            def speak() -> None:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                    one.sendto(word, (to, PORT))

            sender.run(speak)

        def is_sent_to_all() -> bool:
            # A busy kernel may take a moment to notice that a new port's cable is plugged in.
            send("10.244.1.255", b"to all")
            with contextlib.suppress(TimeoutError):
                return joined.recv(100) == apart.recv(100) == b"to all"
            return False

        until(is_sent_to_all, limit=30)

        def is_sent_to_members_only() -> bool:
            # For some seconds a new bridge does not know yet who has asked, and sends to all.
            with seen_frames(other.netns, "eth0") as wire, seen_frames(switched.netns, BRIDGE) as node:
                send(GROUP, b"to members")
                while joined.recv(100) != b"to members":
                    pass
                return not carries(wire, b"to members") and not carries(node, b"to members")

        until(is_sent_to_members_only, limit=30)


def test_frames_to_an_unknown_address_go_nowhere(switched: Machine) -> None:
    sender, other = switched.pod("sender"), switched.pod("other")
    with seen_frames(other.netns, "eth0") as wire:

        def send() -> None:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as one:
                one.bind(("eth0", 0))
                one.send(bytes.fromhex("02aabbccddee") + bytes.fromhex("020000000001") + b"\x08\x00" + b"nobody" * 10)

        sender.run(send)
        assert not carries(wire, b"nobody")


def test_limits_to_bandwidth_are_set_at_both_ends(switched: Machine) -> None:
    config = {"runtimeConfig": {"bandwidth": {"ingressRate": 8_000_000, "egressRate": 16_000_000}}}
    pod = switched.pod("held", config=config)
    with link.Socket(switched.netns) as node, link.Socket(pod.netns) as inside:
        (name,) = switched.links()
        port, eth0 = node.link(name), inside.link("eth0")
        assert port is not None
        assert eth0 is not None
        assert (node.rate(port.index), inside.rate(eth0.index)) == (1_000_000, 2_000_000)
    assert switched.call("CHECK", pod, config={**config, "prevResult": pod.result}).code == 0


def test_a_pod_that_was_wired_by_a_route_stays_and_leaves_cleanly(switched: Machine) -> None:
    on_bridge = switched.pod("first")
    switched.kill()
    switched.options = ["--cool-down=0"]
    switched.start()
    routed = switched.pod("second")
    for one, other in ((on_bridge, routed), (routed, on_bridge)):
        with echo(one.netns) as server:
            talk(server, other.netns, one.addresses[0])
    for pod in (on_bridge, routed):
        assert switched.delete(pod).code == 0
    until(lambda: switched.links() == set() and switched.status()["leases"] == [])
    argv = ["nsenter", f"--net={switched.netns}", "ip", "route", "show", "proto", str(attach.POD_PROTOCOL)]
    assert subprocess.run(argv, capture_output=True, check=True).stdout == b""
