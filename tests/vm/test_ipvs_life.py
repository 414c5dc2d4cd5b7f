"""Virtual servers over time, with real connections: affinity, graceful ends, restarts, cleanup. `make vm` runs it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import struct
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from netplane.kernel import netns, sysctl
from netplane.kernel.ipvs.objects import Change, Destination, Load, Virtual
from netplane.kernel.netlink import generic
from netplane.kernel.netlink import wire as netlink
from netplane.model import address
from netplane.model.address import Family
from netplane.model.service import Protocol
from netplane_proxy.plan.forwarding import NodeFacts, PortForwarding
from netplane_proxy.plan.host import LOOPBACK
from netplane_proxy.run import ipvs
from netplane_proxy.run.ipvs.host import LINK, SYSCTLS
from netplane_proxy.run.ipvs.target import IpvsTarget
from tests.support.ports import UDP, cluster_ip, forwarding, node_port, service_port, vip
from tests.support.proxy_process import wait
from tests.support.topology import CLIENT, FACTS, NODE, POD1, POD2, PORT, Answer, Topology, backend

T = TypeVar("T")
families = pytest.mark.parametrize("family", list(Family), ids=str)
protocols = pytest.mark.parametrize("protocol", [Protocol.TCP, UDP], ids=str)


@pytest.fixture
def target(lab: Topology) -> Iterator[IpvsTarget]:
    with contextlib.closing(opened(lab)) as made:
        yield made
        run(lab, made.cleanup)


def opened(lab: Topology) -> IpvsTarget:
    """Open the backend on the node."""
    return netns.run_in(lab.places["node"], ipvs.open_target)


def run(lab: Topology, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run something of the target in the node's namespace."""
    return netns.run_in(lab.places["node"], lambda: asyncio.run(make()))


LOOPS = dataclasses.replace(FACTS, nodeport_addresses=(*FACTS.nodeport_addresses, *LOOPBACK.values()))
"""The node with NodePorts at its loopback addresses."""


def hold(lab: Topology, target: IpvsTarget, *ports: PortForwarding, node: NodeFacts = FACTS) -> int:
    """Make the node forward exactly this."""
    return run(lab, lambda: target.replace(forwarding(*ports, node=node))).operations


def change(lab: Topology, target: IpvsTarget, port: PortForwarding) -> None:
    """Change one Service port."""
    run(lab, lambda: target.commit({port.key: port}, "2"))


def tend(lab: Topology, target: IpvsTarget) -> str:
    """Let the target look after its servers once; return what it found changed by others."""

    async def once() -> str:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2.5):
                return await anext(aiter(target.drift()))
        return ""

    return run(lab, once)


def loads(target: IpvsTarget) -> dict[str, Load]:
    """Return what the kernel holds, by destination."""
    return {str(one): load for held in target._ipvs.servers().values() for one, load in held.loads.items()}


def shown(pods: dict[Family, str], family: Family) -> str:
    """Print a pod as a destination."""
    return str(Destination(*backend(pods, family)))


@contextlib.contextmanager
def connection(lab: Topology, place: str, where: tuple[str, int]) -> Iterator[socket.socket]:
    """Open a connection, and keep it open; the servers answer once and wait a second for a question."""
    with netns.inside(lab.places[place]):
        made = socket.socket(socket.AF_INET6 if ":" in where[0] else socket.AF_INET)
    with made:
        made.settimeout(5)
        made.connect(where)
        yield made


@families
@protocols
def test_pods_the_node_and_strangers_are_served(
    lab: Topology, target: IpvsTarget, family: Family, protocol: Protocol
) -> None:
    both = [backend(POD1, family), backend(POD2, family)]
    frontends = cluster_ip(family, protocol=protocol), node_port(protocol=protocol)
    hold(lab, target, service_port(*frontends, cluster=both))
    for place in ("pod1", "node", "client"):
        for where in ((vip(family), 80), (NODE[family], 30080)):
            answers = lab.ask_often(place, where, protocol, 6)
            assert {answer.name for answer in answers} == {"pod1", "pod2"}, (place, where)
            assert CLIENT[family] not in {answer.source for answer in answers}


@families
def test_a_server_of_the_node_itself_is_reached(lab: Topology, target: IpvsTarget, family: Family) -> None:
    hold(lab, target, service_port(cluster_ip(family), cluster=[backend(NODE, family)]))
    for place in ("pod1", "client", "node"):
        assert lab.ask(place, (vip(family), 80)).name == "node"


@families
@protocols
def test_with_ipvs_the_node_reaches_node_ports_at_its_loopback_address(
    lab: Topology, target: IpvsTarget, family: Family, protocol: Protocol
) -> None:
    here = address.text(LOOPBACK[family])
    many = [backend(one, family) for one in (POD1, POD2, NODE)]
    served = service_port(node_port(protocol=protocol), cluster=many)
    local = service_port(node_port(30081, protocol=protocol, local=True), cluster=many[:1], name="local")
    nobody = service_port(node_port(30082, protocol=protocol), name="nobody", family=family)
    hold(lab, target, served, local, node=LOOPS)
    change(lab, target, nobody)
    assert hold(lab, target, served, local, nobody, node=LOOPS) == 0
    assert {one.name for one in lab.ask_often("node", (here, 30080), protocol, 9)} == {"pod1", "pod2", "node"}
    assert lab.ask("node", (here, 30081), protocol).name == "pod1"
    assert lab.fate("node", (here, 30082), protocol) == "refused"
    assert lab.ask("node", (here, PORT), protocol) == Answer("node", here)
    assert lab.ask("node", (NODE[family], 30080), protocol).name
    assert lab.run("node", "cat", "/proc/sys/net/ipv4/conf/all/route_localnet").strip() == "0"
    run(lab, lambda: target.commit({local.key: None, nobody.key: None}, "3"))
    assert hold(lab, target, served, node=LOOPS) == 0
    assert hold(lab, target, served) > 0  # told to have none there from now on
    assert lab.fate("node", (here, 30080), protocol) == "refused"
    assert lab.ask("node", (NODE[family], 30080), protocol).name


@families
def test_local_policy_keeps_the_client_and_the_node(lab: Topology, target: IpvsTarget, family: Family) -> None:
    both = [backend(POD1, family), backend(POD2, family)]
    frontends = cluster_ip(family), node_port(local=True)
    hold(lab, target, service_port(*frontends, cluster=both, local=both[:1]))
    where = NODE[family], 30080
    assert lab.ask_often("client", where, Protocol.TCP, 4) == {Answer("pod1", CLIENT[family]): 4}
    assert {one.name for one in lab.ask_often("node", where, Protocol.TCP, 6)} == {"pod1", "pod2"}
    assert Answer("pod1", POD2[family]) in lab.ask_often("pod2", where, Protocol.TCP, 6)


@families
def test_affinity_keeps_a_client_until_its_backend_is_gone(lab: Topology, target: IpvsTarget, family: Family) -> None:
    pods = {"pod1": backend(POD1, family), "pod2": backend(POD2, family)}
    hold(lab, target, service_port(cluster_ip(family), cluster=list(pods.values()), affinity=3600))
    (first,) = {answer.name for answer in lab.ask_often("client", (vip(family), 80), Protocol.TCP, 6)}
    (other,) = set(pods) - {first}
    change(lab, target, service_port(cluster_ip(family), cluster=[pods[other]], affinity=3600))
    assert {answer.name for answer in lab.ask_often("client", (vip(family), 80), Protocol.TCP, 4)} == {other}


def test_affinity_ends_when_a_client_was_silent_for_long_enough(lab: Topology, target: IpvsTarget) -> None:
    services = [
        service_port(
            cluster_ip(family, protocol=UDP), cluster=[backend(POD1, family), backend(POD2, family)], affinity=10
        )
        for family in Family
    ]
    hold(lab, target, *services)

    def ask() -> list[str]:
        return [lab.ask("client", (vip(family), 80), UDP).name for family in Family]

    # A client stays bound while IPVS remembers a flow of its, which is five minutes otherwise.
    with flows_last(lab, 5):
        first = ask()
        assert [ask() for _ in range(3)] == [first] * 3
        wait(lambda: not bound(lab))
        assert bound(lab) == []
        # The next in turn is the other one, for nobody else asks.
        assert all(now != before for now, before in zip(ask(), first, strict=True))


@contextlib.contextmanager
def flows_last(lab: Topology, seconds: int) -> Iterator[None]:
    """Let IPVS remember UDP flows so long, and five minutes afterwards."""
    place = lab.places["node"]
    netns.run_in(place, lambda: remember_flows(seconds))
    try:
        yield
    finally:
        netns.run_in(place, lambda: remember_flows(300))


def remember_flows(seconds: int) -> None:
    """Set for how long IPVS remembers UDP flows in this namespace (IPVS_CMD_SET_CONFIG)."""
    set_config, udp = 12, 6
    with contextlib.closing(generic.Family("IPVS", module="ip_vs")) as made:
        made.ask(set_config, netlink.attribute(udp, struct.pack("=I", seconds)), "set how long flows are remembered")


def bound(lab: Topology) -> list[str]:
    """Return what IPVS remembers of clients that are bound to a backend: their flows, and what binds them."""
    listing = lab.run("node", "cat", "/proc/net/ip_vs_conn")
    return [line for line in listing.splitlines() if line.startswith("UDP")]


@families
def test_a_connection_outlives_its_backend_and_a_restart_and_the_backend_goes_with_it(
    lab: Topology, target: IpvsTarget, family: Family
) -> None:
    pods = {"pod1": POD1, "pod2": POD2}
    hold(lab, target, service_port(cluster_ip(family), cluster=[backend(pod, family) for pod in pods.values()]))
    with connection(lab, "client", (vip(family), 80)) as made:
        name = made.recv(200).decode().split()[0]
        (other,) = set(pods) - {name}
        rest = service_port(cluster_ip(family), cluster=[backend(pods[other], family)])
        change(lab, target, rest)
        assert loads(target)[shown(pods[name], family)] == Load(0, 1)
        with contextlib.closing(opened(lab)) as restarted:
            assert hold(lab, restarted, rest) == 0
            assert loads(restarted)[shown(pods[name], family)].weight == 0
            assert {one.name for one in lab.ask_often("client", (vip(family), 80), Protocol.TCP, 4)} == {other}
            made.send(b"?")
            assert made.recv(10) == b""  # the other end has heard the question, and closed
            # A reset, for IPVS remembers it for ten seconds alone, and an orderly end for two minutes.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            made.close()
            end = time.monotonic() + 25
            while shown(pods[name], family) in loads(restarted) and time.monotonic() < end:
                assert tend(lab, restarted) == ""
            assert set(loads(restarted)) == {shown(pods[other], family)}


def test_another_mode_takes_over_and_no_connection_is_cut(lab: Topology, target: IpvsTarget) -> None:
    port = service_port(cluster_ip(Family.V4), cluster=[backend(POD1, Family.V4)])
    where = vip(Family.V4), 80
    hold(lab, target, port)
    with connection(lab, "client", where) as made, contextlib.closing(lab.target()) as other:
        assert made.recv(200).startswith(b"pod1")
        run(lab, lambda: other.replace(forwarding(port, node=FACTS)))

        def talk() -> None:
            for place in ("client", "node", "pod2"):
                assert lab.ask(place, where).name == "pod1"
            made.send(b"?")
            assert made.recv(10) == b""
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            made.close()

        async def both() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(ipvs.retire(limit=30))
                await asyncio.sleep(0.5)
                await asyncio.to_thread(talk)

        run(lab, both)
        assert target._ipvs.servers() == {}
        assert lab.ask("client", where).name == "pod1"
        run(lab, other.cleanup)


@families
def test_what_has_no_connections_goes_at_the_next_look(lab: Topology, target: IpvsTarget, family: Family) -> None:
    both = [backend(POD1, family), backend(POD2, family)]
    hold(lab, target, service_port(cluster_ip(family), cluster=both))
    change(lab, target, service_port(cluster_ip(family), cluster=both[:1]))
    assert tend(lab, target) == ""
    assert set(loads(target)) == {shown(POD1, family)}


def test_a_foreign_flush_is_noticed_and_repaired(lab: Topology, target: IpvsTarget) -> None:
    port = service_port(cluster_ip(Family.V4), cluster=[backend(POD1, Family.V4)])
    hold(lab, target, port)
    target._ipvs.commit([Change("remove", one) for one in target._ipvs.servers()])
    assert "virtual server" in tend(lab, target)
    assert hold(lab, target, port) > 0
    assert lab.ask("client", (vip(Family.V4), 80)).name == "pod1"


def test_a_server_of_somebody_else_is_left_alone(lab: Topology, target: IpvsTarget) -> None:
    foreign = Virtual(2, 6, bytes([192, 0, 2, 77]), 99)
    target._ipvs.commit([Change("add", foreign)])
    hold(lab, target, service_port(cluster_ip(Family.V4), cluster=[backend(POD1, Family.V4)]))
    run(lab, target.cleanup)
    assert set(target._ipvs.servers()) == {foreign}
    target._ipvs.commit([Change("remove", foreign)])


def test_cleanup_leaves_no_trace(lab: Topology, target: IpvsTarget) -> None:
    def parameters() -> dict[str, str]:
        return netns.run_in(lab.places["node"], lambda: {name: sysctl.read(name) for name in SYSCTLS})

    before = parameters()
    ports = [service_port(cluster_ip(one), node_port(local=True), cluster=[backend(POD1, one)]) for one in Family]
    hold(lab, target, *ports)
    assert parameters() == {name: str(value) for name, value in SYSCTLS.items()} != before
    run(lab, target.cleanup)
    assert parameters() == before
    assert target._ipvs.servers() == {}
    assert LINK not in lab.run("node", "ip", "link")
    assert "netplane" not in lab.run("node", "nft", "list", "tables")
