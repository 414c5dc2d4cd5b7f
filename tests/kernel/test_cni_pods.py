"""Pods reach each other and the outside: the real daemon, the real shim, real packets, namespaces as machines."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netplane.kernel import netns
from tests.support.cni_nodes import World, until
from tests.support.cni_traffic import echo, reaches, talk

CLIENT = ("172.31.0.2", "fd00:31::2")


@pytest.fixture(scope="module", params=["vxlan-nftables", "direct-iptables"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    fabric, rules = request.param.split("-")
    folder: Path = tmp_path_factory.mktemp(fabric)
    with World(folder, nodes=2, fabric=fabric) as made:
        for machine in made.machines:
            machine.options = [f"--rules={rules}"]
            machine.start(wait=False)
        until(lambda: all(m.status().get("ready") and m.conflist.exists() for m in made.machines), limit=60)
        yield made


def mapping(host: int, container: int, kind: str = "tcp", **more: str) -> dict[str, Any]:
    row = {"hostPort": host, "containerPort": container, "protocol": kind, **more}
    return {"runtimeConfig": {"portMappings": [row]}}


def test_pods_on_one_node_and_on_two_see_each_others_own_addresses(world: World) -> None:
    one, two = world.machines
    a, b, c = one.pod("a"), one.pod("b"), two.pod("c")
    with echo(b.netns) as on_b, echo(c.netns) as on_c:
        for server, pod in ((on_b, b), (on_c, c)):
            for family in (0, 1):
                for kind in ("tcp", "udp"):
                    assert talk(server, a.netns, pod.addresses[family], kind=kind) == a.addresses[family]


def test_nodes_reach_pods_on_every_node(world: World) -> None:
    one, two = world.machines
    near, far = one.pod("near"), two.pod("far")
    with echo(near.netns) as on_near, echo(far.netns) as on_far:
        for family in (0, 1):
            talk(on_near, one.netns, near.addresses[family])
            talk(on_far, one.netns, far.addresses[family])


def test_the_outside_sees_the_nodes_address(world: World) -> None:
    one = world.machines[0]
    pod = one.pod("outbound")
    with echo(world.client) as outside:
        for family in (0, 1):
            for kind in ("tcp", "udp"):
                assert talk(outside, pod.netns, CLIENT[family], kind=kind) == one.addresses[family]


def test_a_host_port_serves_client_nodes_pods_and_its_own_pod(world: World) -> None:
    one, two = world.machines
    served = one.pod("served", config=mapping(18080, 8080))
    neighbour, remote = one.pod("neighbour"), two.pod("remote")
    with echo(served.netns) as server:
        for family in (0, 1):
            node = one.addresses[family]
            assert talk(server, world.client, node, 18080) == CLIENT[family]
            assert talk(server, two.netns, node, 18080) == two.addresses[family]
            assert talk(server, one.netns, node, 18080) == node
            assert talk(server, neighbour.netns, node, 18080) == neighbour.addresses[family]
            assert talk(server, remote.netns, node, 18080) == two.addresses[family]
            talk(server, served.netns, node, 18080)
        one.delete(served)
    assert not reaches(world.client, one.addresses[0], 18080)


def test_a_host_port_may_be_udp_on_one_address_and_spelt_as_containerd_does(world: World) -> None:
    one = world.machines[0]
    row = {"HostPort": 15353, "ContainerPort": 8080, "Protocol": "UDP", "HostIP": one.addresses[0]}
    pod = one.pod("dns", config={"runtimeConfig": {"portMappings": [row]}})
    with echo(pod.netns) as server:
        assert talk(server, world.client, one.addresses[0], 15353, kind="udp") == CLIENT[0]


def test_udp_flows_follow_a_host_port_to_its_next_pod(world: World) -> None:
    one = world.machines[0]

    def open_flow() -> socket.socket:
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.settimeout(3)
        client.connect((one.addresses[0], 15354))
        return client

    with netns.run_in(world.client, open_flow) as client:
        for name in ("first", "second"):
            pod = one.pod(name, config=mapping(15354, 8080, "udp"))
            with echo(pod.netns) as server:
                client.send(b"the same flow")
                assert server.receive() == CLIENT[0]
                assert client.recv(100) == b"the same flow"
            one.delete(pod)


def test_a_taken_host_port_is_refused_and_nothing_is_left(world: World) -> None:
    one = world.machines[0]
    one.pod("holder", config=mapping(18081, 80))
    other = one.container("other")
    before = one.links()
    answer = one.call("ADD", other, config=mapping(18081, 80))
    assert (answer.code, answer.body["code"]) == (1, 7)
    assert "tcp host port 18081 is held by holder-1" in answer.body["msg"]
    assert one.links() <= before


def test_a_pod_cannot_send_in_anothers_name(world: World) -> None:
    one = world.machines[0]
    liar, victim, target = one.pod("liar"), one.pod("victim"), one.pod("target")

    def ping(family: int, source: str) -> int:
        argv = ["ping", "-c1", "-W1", "-I", source, target.addresses[family]]
        return subprocess.run(["nsenter", f"--net={liar.netns}", *argv], capture_output=True, check=False).returncode

    for family in (0, 1):
        told = ["ip", "addr", "add", victim.addresses[family], "dev", "eth0", *(["nodad"] if family else [])]
        subprocess.run(["nsenter", f"--net={liar.netns}", *told], check=True)
        assert ping(family, victim.addresses[family]) == 1
        until(lambda family=family: ping(family, liar.addresses[family]) == 0)  # type: ignore[misc]


def test_addresses_of_no_pod_are_refused_at_once(world: World) -> None:
    one = world.machines[0]
    pod = one.pod("asking")
    ping = ["nsenter", f"--net={pod.netns}", "ping", "-c1", "-W2", "10.244.1.200"]
    assert b"Unreachable" in subprocess.run(ping, capture_output=True, check=False).stdout


def test_what_the_pod_was_given_is_what_the_result_says(world: World) -> None:
    one = world.machines[0]
    pod = one.pod("told", config={"runtimeConfig": {"mac": "02:00:00:00:be:ef", "ips": ["10.244.1.77"]}})
    host, inside = pod.result["interfaces"]
    mtu = 1450 if world.fabric == "vxlan" else 1500
    assert inside == {"name": "eth0", "mac": "02:00:00:00:be:ef", "sandbox": pod.netns, "mtu": mtu}
    assert host["name"] in one.links()
    assert pod.addresses[0] == "10.244.1.77"
    assert pod.result["routes"] == [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "::/0", "gw": "fe80::1"}]


def test_large_datagrams_and_the_full_mtu_cross_nodes(world: World) -> None:
    one, two = world.machines
    a, c = one.pod("wide-a"), two.pod("wide-c")
    mtu = 1450 if world.fabric == "vxlan" else 1500
    for to, header in ((c.addresses[0], 28), (c.addresses[1], 48)):
        full = ["nsenter", f"--net={a.netns}", "ping", "-c1", "-W2", "-M", "do", "-s", str(mtu - header), to]
        until(lambda ping=full: not subprocess.run(ping, capture_output=True, check=False).returncode)  # type: ignore[misc]
