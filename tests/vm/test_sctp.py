"""Associations of SCTP by real sockets through every backend: Debian's kernel has it, the development one has not."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from netplane.kernel import netns
from netplane.model.address import Family
from netplane.model.service import Protocol
from netplane_proxy.run import backends
from netplane_proxy.run.target import Target
from tests.support.ports import cluster_ip, forwarding, node_port, service_port, vip
from tests.support.topology import CLIENT, FACTS, NODE, POD1, POD2, Answer, Topology, backend

T = TypeVar("T")
SCTP = Protocol.SCTP
PODS = {"pod1": POD1, "pod2": POD2}
SOURCES = {"client": CLIENT, "node": NODE, "pod1": POD1}
OWN_PORT = 9100
PATIENCE = 30.0
families = pytest.mark.parametrize("family", list(Family), ids=str)


@pytest.fixture(scope="module", autouse=True)
def _serving(lab: Topology) -> None:
    subprocess.run(["modprobe", "sctp"], check=True)
    for name in PODS:
        lab.serve(name, protocols=[SCTP])


@pytest.fixture(params=sorted(backends.BUILT))
def target(lab: Topology, request: pytest.FixtureRequest) -> Iterator[Target]:
    made = netns.run_in(lab.places["node"], backends.BUILT[request.param].open)
    with contextlib.closing(made):
        yield made
        run(lab, made.cleanup)


def run(lab: Topology, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run something of the target in the node's namespace."""
    return netns.run_in(lab.places["node"], lambda: asyncio.run(make()))


def ask(lab: Topology, place: str, where: tuple[str, int], family: Family) -> Answer:
    """Ask once. An endpoint of SCTP names all its addresses to its peer, unless it is bound to one."""
    return lab.ask(place, where, SCTP, source=SOURCES[place][family], patience=PATIENCE)


def endpoint(lab: Topology, place: str, family: Family) -> socket.socket:
    """Make a socket that has one association."""
    with netns.inside(lab.places[place]):
        made = socket.socket(socket.AF_INET if family is Family.V4 else socket.AF_INET6, socket.SOCK_STREAM, SCTP)
    made.settimeout(PATIENCE)
    return made


@contextlib.contextmanager
def association(lab: Topology, family: Family) -> Iterator[tuple[str, socket.socket, socket.socket]]:
    """Associate a client with a pod that serves at a port of its own; yield the pod's name, and both ends."""
    with contextlib.ExitStack() as stack:
        servers = {stack.enter_context(endpoint(lab, name, family)): name for name in PODS}
        for server, name in servers.items():
            server.bind((PODS[name][family], OWN_PORT))
            server.listen()
        client = stack.enter_context(endpoint(lab, "client", family))
        client.bind((CLIENT[family], 0))
        client.connect((vip(family, 2), 80))
        (server,), _, _ = select.select(servers, [], [], PATIENCE)
        accepted, _ = server.accept()
        with accepted:
            accepted.settimeout(PATIENCE)
            yield servers[server], client, accepted


@families
def test_associations_of_sctp_are_served_for_pods_the_node_and_strangers(
    lab: Topology, target: Target, family: Family
) -> None:
    both = [backend(pod, family) for pod in PODS.values()]
    port = service_port(cluster_ip(family, protocol=SCTP), node_port(protocol=SCTP), cluster=both)
    run(lab, lambda: target.replace(forwarding(port, node=FACTS)))
    for place in SOURCES:
        for where in ((vip(family), 80), (NODE[family], 30080)):
            answer = ask(lab, place, where, family)
            assert answer.name in PODS, (place, where)
            assert answer.source != CLIENT[family], (place, where)


@families
def test_an_association_outlives_its_backend_and_new_ones_go_elsewhere(
    lab: Topology, target: Target, family: Family
) -> None:
    frontend = cluster_ip(family, 2, protocol=SCTP)
    whole = service_port(frontend, cluster=[backend(pod, family, OWN_PORT) for pod in PODS.values()])
    run(lab, lambda: target.replace(forwarding(whole, node=FACTS)))
    with association(lab, family) as (name, client, server):
        (other,) = set(PODS) - {name}
        rest = service_port(frontend, cluster=[backend(PODS[other], family)])
        run(lab, lambda: target.commit({rest.key: rest}, "2"))
        assert ask(lab, "client", (vip(family, 2), 80), family).name == other
        for one, peer in ((client, server), (server, client)):
            one.sendall(b"still here")
            assert peer.recv(100) == b"still here"


@families
def test_a_local_policy_keeps_the_client_of_an_association(lab: Topology, target: Target, family: Family) -> None:
    both = [backend(pod, family) for pod in PODS.values()]
    port = service_port(node_port(protocol=SCTP, local=True), cluster=both, local=both[:1])
    run(lab, lambda: target.replace(forwarding(port, node=FACTS)))
    assert ask(lab, "client", (NODE[family], 30080), family) == Answer("pod1", CLIENT[family])
