"""By which address pods are seen: never by another's, by the node's outside, by their own where it says so."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from netplane.kernel import netns
from netplane.kernel.link import run as link
from netplane.kernel.link.objects import Address, Route, replace
from tests.support.cni_nodes import Pod, World, ip
from tests.support.cni_traffic import echo, talk

CLIENT = "172.31.0.2", "fd00:31::2"
BOTH = pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("sources") / "world", nodes=1) as made:
        made.machines[0].start()
        yield made


@pytest.fixture(scope="module")
def pods(world: World) -> list[Pod]:
    return [world.machines[0].pod(name) for name in ("liar", "victim", "listener")]


def send(pod: Pod, source: str, to: str, word: bytes) -> None:
    def act() -> None:
        with socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM) as out:
            out.bind((source, 0))
            out.sendto(word, (to, 9300))

    pod.run(act)


def heard(pod: Pod, family: int) -> socket.socket:
    def act() -> socket.socket:
        made = socket.socket(socket.AF_INET6 if family else socket.AF_INET, socket.SOCK_DGRAM)
        made.settimeout(3)
        made.bind((pod.addresses[family], 9300))
        return made

    return pod.run(act)


@BOTH
def test_a_pod_cannot_speak_in_anothers_name(pods: list[Pod], family: int) -> None:
    liar, victim, listener = pods
    for stolen in (victim.addresses[family], ("10.99.9.9", "fd00:99::9")[family]):
        with link.Socket(liar.netns) as links:
            there = links.link("eth0")
            assert there is not None
            links.commit([replace(Address(there.index, ip(stolen), 128 if family else 32, is_quiet=True))])
        with heard(listener, family) as listening:
            send(liar, stolen, listener.addresses[family], b"a lie")
            send(liar, liar.addresses[family], listener.addresses[family], b"the truth")
            word, sender = listening.recvfrom(100)
        assert (word, sender[0]) == (b"the truth", liar.addresses[family])


@BOTH
def test_where_the_outside_is_excluded_it_sees_the_pods_own_address(tmp_path: Path, family: int) -> None:
    families = [6 if family else 4]
    with World(tmp_path / "world", nodes=1, families=families) as world:
        one = world.machines[0]
        one.options = ["--no-masquerade-cidr=172.31.0.0/24,fd00:31::/64"]
        one.start()
        pod = one.pod("p")
        with link.Socket(world.underlay) as router:
            there = router.link("br0")
            assert there is not None
            network, length = (("10.244.1.0", 24), ("fd00:244:0:1::", 64))[family]
            router.commit([replace(Route(ip(network), length, there.index, ip(one.addresses[family])))])
        with echo(world.client) as outside:
            assert talk(outside, pod.netns, CLIENT[family]) == pod.addresses[0]


@BOTH
def test_ports_towards_the_outside_are_chosen_at_random(world: World, pods: list[Pod], family: int) -> None:
    def seen() -> int:
        with socket.socket(socket.AF_INET6 if family else socket.AF_INET, socket.SOCK_DGRAM) as out:
            out.bind((pods[0].addresses[family], 0))
            out.sendto(b"x", (CLIENT[family], 9301))
            return int(out.getsockname()[1])

    client = socket.AF_INET6 if family else socket.AF_INET
    with netns.run_in(world.client, lambda: socket.socket(client, socket.SOCK_DGRAM)) as listening:
        listening.bind((CLIENT[family], 9301))
        listening.settimeout(3)
        same = 0
        for _ in range(8):
            own = pods[0].run(seen)
            _, sender = listening.recvfrom(100)
            assert sender[0] == world.machines[0].addresses[family]
            same += sender[1] == own
    assert same < 4
    name = "ip6" if family else "ip"
    table = subprocess.run(
        ["nsenter", f"--net={world.machines[0].netns}", "nft", "list", "table", name, "netplane_cni"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert table.count("masquerade fully-random") == 2
