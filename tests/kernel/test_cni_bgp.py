"""Nodes that announce their pods by BGP, through real BIRDs: across a router, over faults; and on one link."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from netplane.kernel import bird, netns
from netplane.kernel.link import run as link
from netplane_cni.plan import bgp, fabric
from tests.support.cni_nodes import NETPLANE, Machine, World, ip, until
from tests.support.cni_traffic import echo, talk

NUMBERS = itertools.count()
"""Of pods: those of an attempt before stay."""
ROUTER = """
log stderr { error, fatal, bug };
router id 172.30.0.1;
protocol device { scan time 1; }
protocol kernel { ipv4 { import none; export filter { if source = RTS_BGP then accept; reject; }; }; }
template bgp node { graceful restart on; hold time 9; connect delay time 1; error wait time 1, 2;
  ipv4 { import all; export all; next hop self; }; }
protocol bgp one from node { local 172.30.0.1 as 64513; neighbor 172.30.0.11 as 64512; direct; }
protocol bgp two from node { local 172.30.1.1 as 64513; neighbor 172.30.1.12 as 64512; direct; }
"""


class Router:
    """A BIRD in the namespace between the nodes."""

    def __init__(self, world: World, folder: Path) -> None:
        folder.mkdir()
        (folder / "bird.conf").write_text(ROUTER)
        argv = ["nsenter", f"--net={world.underlay}", bird.find(), "-f", "-c", str(folder / "bird.conf")]
        self.process = subprocess.Popen([*argv, "-s", str(folder / "ctl")])

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)


def learnt(place: str) -> dict[bytes, bytes]:
    with link.Socket(place) as wire:
        return {route.network: route.via for route in wire.routes(protocol=bgp.BIRD_PROTOCOL)}


def pid(machine: Machine) -> int:
    """Return the BIRD of a machine: the one process that has its control socket on its command line."""
    wanted = str(machine.folder / "run" / "bird.ctl")
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # Others come and go.
            if wanted.encode() in entry.read_bytes().split(b"\0"):
                return int(entry.parent.name)
    return 0


def told(machine: Machine) -> tuple[int, int]:
    """Return what differs whenever BIRD is told something."""
    found = (machine.folder / "run" / "bird.conf").stat()
    return found.st_ino, found.st_mtime_ns


def is_settled(machine: Machine) -> bool:
    """Tell whether the daemon has done what it knows of."""
    found = machine.status().get("fabric", {})
    return bool(found.get("committed")) and found["committed"] == found["wanted"]


def end_all(world: World) -> None:
    for machine in world.machines:
        machine.close()
        found = pid(machine)
        if found:
            os.kill(found, signal.SIGKILL)


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two nodes on links of their own, and a router between them that speaks BGP to both."""
    tmp_path = tmp_path_factory.mktemp("routed")
    with World(tmp_path / "world", nodes=2, families=[4], fabric="bgp", far=(2,)) as world:
        router = Router(world, tmp_path / "router")
        try:
            for machine, peer in zip(world.machines, ("172.30.0.1:64513", "172.30.1.1:64513"), strict=True):
                machine.options = [f"--bgp-peer={peer}"]
                machine.start(wait=False)
            until(lambda: all(m.status().get("ready") and m.conflist.exists() for m in world.machines), limit=60)
            until(lambda: len(learnt(world.underlay)) == 2, limit=20)
            until(lambda: all(learnt(m.netns) for m in world.machines), limit=60)
            yield world
        finally:
            end_all(world)
            router.close()


def test_pods_reach_each_other_across_a_router_and_nothing_else_is_announced(routed: World) -> None:
    one, two = routed.machines
    a, b = one.pod("a0"), two.pod("b0")
    with echo(b.netns) as server:
        assert talk(server, a.netns, b.addresses[0]) == a.addresses[0]
    assert learnt(one.netns) == {ip("10.244.2.0"): ip("172.30.0.1")}
    assert learnt(routed.underlay) == {
        ip("10.244.1.0"): ip("172.30.0.11"),
        ip("10.244.2.0"): ip("172.30.1.12"),
    }


def test_a_killed_daemon_leaves_routes_and_sessions_and_is_followed_by_one_that_takes_them_over(routed: World) -> None:
    one, two = routed.machines
    a, b = one.pod("a1"), two.pod("b1")
    before, known = pid(one), told(one)
    one.kill()
    with echo(b.netns) as server:
        assert talk(server, a.netns, b.addresses[0]) == a.addresses[0]
        one.start()
        assert pid(one) == before
        assert talk(server, a.netns, b.addresses[0]) == a.addresses[0]
    until(lambda: is_settled(one))
    assert told(one) == known, "what BIRD has been told already it is told again"


def test_routers_are_called_and_do_not_call(routed: World) -> None:
    # A call that meets an established session would be taken for a restart of the router, and end the session.
    one = routed.machines[0]
    until(lambda: len(learnt(routed.underlay)) == 2)

    def call() -> None:
        socket.create_connection((one.addresses[0], 179), 15, source_address=("172.30.0.1", 0)).close()

    with pytest.raises(ConnectionRefusedError):
        netns.run_in(routed.underlay, call)


def test_a_killed_bird_is_started_again_and_pods_do_not_notice(routed: World) -> None:
    one, two = routed.machines
    a, b = one.pod(f"a2-{next(NUMBERS)}"), two.pod(f"b2-{next(NUMBERS)}")
    until(lambda: len(learnt(routed.underlay)) == 2 and learnt(one.netns) and pid(one))
    before = pid(one)
    os.kill(before, signal.SIGKILL)
    with echo(b.netns) as server:
        until(lambda: pid(one) not in (0, before))
        for _ in range(20):
            assert learnt(one.netns) == {ip("10.244.2.0"): ip("172.30.0.1")}
            assert ip("10.244.1.0") in learnt(routed.underlay)
            assert talk(server, a.netns, b.addresses[0]) == a.addresses[0]
            time.sleep(0.1)


def test_a_node_told_another_fabric_takes_its_routes_back(routed: World) -> None:
    one = routed.machines[0]
    until(lambda: len(learnt(routed.underlay)) == 2)
    one.kill(signal.SIGTERM)
    assert ip("10.244.1.0") in learnt(routed.underlay)
    routed.fabric = "vxlan"
    one.options = []
    one.start()
    until(lambda: ip("10.244.1.0") not in learnt(routed.underlay))
    until(lambda: learnt(one.netns) == {} and pid(one) == 0)


def ways(machine: Machine) -> dict[bytes, bytes]:
    with link.Socket(machine.netns) as wire:
        return {route.network: route.via for route in wire.routes(protocol=fabric.FABRIC_PROTOCOL) if route.via}


def test_nodes_on_one_link_need_no_router_and_forget_who_leaves(tmp_path: Path) -> None:
    with World(tmp_path / "world", nodes=3, fabric="bgp") as world:
        try:
            for machine in world.machines:
                machine.start(wait=False)
            one, two, three = world.machines
            until(lambda: len(ways(one)) == 4 and len(ways(two)) == 4, limit=60)
            until(lambda: all(m.status().get("ready") and m.conflist.exists() for m in world.machines), limit=60)
            assert ways(one)[ip("10.244.2.0")] == ip(two.addresses[0])
            assert ways(one)[ip("fd00:244:0:2::")] == ip(two.addresses[1])
            until(lambda: is_settled(one))
            known = told(one)
            world.tell([one.node(), two.node()])
            # The file of nodes is looked at every half second.
            until(lambda: set(ways(one)) == {ip("10.244.2.0"), ip("fd00:244:0:2::")})
            until(lambda: is_settled(one))
            assert told(one) == known, "BIRD, which reads its configuration whole, was told of a node"
            a, b = one.pod("a"), two.pod("b")
            with echo(b.netns) as server:
                for family in (0, 1):
                    assert talk(server, a.netns, b.addresses[family]) == a.addresses[family]
            assert three.netns
        finally:
            end_all(world)


def test_a_peer_that_is_none_is_one_line(tmp_path: Path) -> None:
    argv = ["netplane", "cni", "daemon", "--fabric=bgp", "--bgp-peer=router:1", f"--state-dir={tmp_path}"]

    done = subprocess.run([NETPLANE, *argv[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "'router:1' is no BGP peer: write ADDRESS:AS" in done.stderr


def test_without_bird_the_daemon_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bird, "PATH", str(tmp_path))
    with pytest.raises(OSError, match="apt-get install bird2"):
        bird.find()
