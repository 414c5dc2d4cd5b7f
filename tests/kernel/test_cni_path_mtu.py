"""Large transfers arrive whatever the links on the way take: over tunnels, to the outside, through narrow routers."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from netplane.kernel import netns, offload
from netplane.kernel.link import run as link
from netplane.kernel.link.objects import LinkChange, change
from netplane_cni.plan import fabric
from tests.support.cni_nodes import Machine, Pod, World, ip, until
from tests.support.cni_nursery import Nursery

SIZE = 4_000_000
IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2
CLIENT = "172.31.0.2"


@pytest.fixture
def world(tmp_path: Path, cni_nursery: Nursery) -> Iterator[World]:
    with World(tmp_path / "world", nodes=2, families=[4], far=(2,), nursery=cni_nursery) as made:
        yield made


def started(world: World, *options: str) -> tuple[Pod, Pod]:
    for machine in world.machines:
        machine.options = list(options)
        machine.start(wait=False)
    until(lambda: all(m.status().get("ready") and m.conflist.exists() for m in world.machines), limit=60)
    one, two = world.machines
    return one.pod("a"), two.pod("b")


def exchange(client: str, server: str, to: str) -> tuple[int, int]:
    """Send both ways at once with DF set, and return the largest segment that each end found to fit."""
    with netns.run_in(server, lambda: socket.create_server((to, 9000))) as listening:
        listening.settimeout(20)
        asking = netns.run_in(client, socket.socket)
        asking.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        asking.settimeout(20)
        asking.connect((to, 9000))
        answering, _ = listening.accept()
        answering.settimeout(20)
        answering.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        with asking, answering:
            threads = [threading.Thread(target=one.sendall, args=(bytes(SIZE),)) for one in (asking, answering)]
            threads += [threading.Thread(target=drain, args=(one,)) for one in (asking, answering)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(20)
                assert not thread.is_alive(), "the transfer hangs"
            sizes = [one.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) for one in (asking, answering)]
    return sizes[0], sizes[1]


def drain(connection: socket.socket) -> None:
    left = SIZE
    while left and (part := connection.recv(min(left, 1 << 16))):
        left -= len(part)
    assert left == 0


def set_mtu(place: str, names: list[str], mtu: int) -> None:
    with link.Socket(place) as socket_:
        for name in names:
            there = socket_.link(name)
            assert there is not None
            socket_.commit([change(LinkChange(there.index, mtu=mtu))])


def drop_icmp(place: str) -> None:
    text = (
        "table ip quiet { chain out { type filter hook output priority 0; icmp type destination-unreachable drop; }; }"
    )
    subprocess.run(["nsenter", f"--net={place}", "nft", "-f", "-"], input=text.encode(), check=True)


def test_pods_on_two_nodes_and_the_outside_exchange_full_packets(world: World) -> None:
    a, b = started(world)
    assert max(exchange(a.netns, b.netns, b.addresses[0])) <= 1450 - 40
    assert max(exchange(a.netns, world.client, CLIENT)) <= 1450 - 40


def test_pods_with_links_wider_than_the_tunnel_are_told_by_their_first_packet(world: World) -> None:
    a, b = started(world, "--mtu=1500")
    for machine in world.machines:
        drop_icmp(machine.netns)
    # Each end leaves room for the timestamps that both put into every packet.
    assert exchange(a.netns, b.netns, b.addresses[0]) == (1450 - 40 - 12, 1450 - 40 - 12)


def test_to_the_outside_a_wide_pod_uses_the_whole_path(world: World) -> None:
    a, _ = started(world, "--mtu=1500")
    assert exchange(a.netns, world.client, CLIENT) == (1500 - 40 - 12, 1500 - 40 - 12)


def test_a_path_that_shrinks_under_pods_still_carries_them(world: World) -> None:
    a, b = started(world)
    for machine in world.machines:
        set_mtu(machine.netns, ["eth0"], 1300)
        until(lambda m=machine: m.status()["mtu"] == 1250 and is_clamped(m), limit=30)  # type: ignore[misc]  # bound here
    assert max(exchange(a.netns, b.netns, b.addresses[0])) <= 1250 - 40


def test_a_router_between_nodes_that_is_narrower_than_they_know_is_crossed(world: World) -> None:
    set_mtu(world.underlay, ["br1", "n2"], 1400)
    a, b = started(world)
    exchange(a.netns, b.netns, b.addresses[0])


def test_a_path_that_swallows_large_packets_without_a_word_is_found_and_held_to(world: World) -> None:
    # The far node's own link believes in 1500, its other end drops what is more than 1400 and a VLAN's tag.
    set_mtu(world.underlay, ["br1", "n2"], 1400)
    drop_icmp(world.underlay)
    a, b = started(world)
    one, two = world.machines
    until(lambda: one.status()["fabric"]["narrow"] == {two.addresses[0]: 1400}, limit=30)
    until(lambda: two.status()["fabric"]["narrow"] == {one.addresses[0]: 1404}, limit=30)
    until(lambda: route_mtu(one) == 1350 and is_clamped(one) and is_clamped(two), limit=30)
    assert exchange(a.netns, b.netns, b.addresses[0]) == (1350 - 40 - 12, 1350 - 40 - 12)
    one.kill()
    with link.Socket(world.underlay) as wire:
        wire.commit([change(LinkChange(name="n2", is_up=False))])  # so that it cannot be measured again
    one.start()
    assert route_mtu(one) == 1350


def is_clamped(machine: Machine) -> bool:
    """Tell whether the node looks into pods' first TCP packets."""
    argv = ["nsenter", f"--net={machine.netns}", "nft", "list", "chain", "ip", "netplane_cni", "clamp"]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def test_where_every_way_takes_what_pods_send_no_packet_is_looked_into(world: World) -> None:
    a, b = started(world)
    one, two = world.machines
    assert not is_clamped(one)
    exchange(a.netns, b.netns, b.addresses[0])
    set_mtu(one.netns, ["eth0"], 1400)
    until(lambda: is_clamped(one), limit=30)
    assert not is_clamped(two)
    set_mtu(one.netns, ["eth0"], 1500)
    until(lambda: not is_clamped(one), limit=30)


def route_mtu(machine: Machine) -> int:
    """Return what the route to the other node's pods says that the path takes."""
    with link.Socket(machine.netns) as socket_:
        return next(r.mtu for r in socket_.routes(protocol=fabric.FABRIC_PROTOCOL) if r.network == ip("10.244.2.0"))


def test_a_datagram_too_large_for_the_tunnel_is_answered_with_its_size(world: World) -> None:
    a, b = started(world, "--mtu=1500")
    ping = ["nsenter", f"--net={a.netns}", "ping", "-c1", "-W2", "-M", "do", "-s", "1472", b.addresses[0]]
    done = subprocess.run(ping, capture_output=True, text=True, check=False)
    assert "mtu = 1450" in done.stdout + done.stderr or "mtu=1450" in done.stdout + done.stderr


@pytest.mark.parametrize("who, is_on", [("software", False), ("offload", True), ("auto", True)])
def test_checksums_in_the_tunnel_are_computed_where_told(world: World, who: str, is_on: bool) -> None:
    a, b = started(world, f"--tunnel-checksum={who}")
    for machine in world.machines:
        assert machine.run(lambda: offload.has_checksum("np.vxlan")) is is_on
    exchange(a.netns, b.netns, b.addresses[0])
