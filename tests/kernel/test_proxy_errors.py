"""ICMP errors about a connection through a Service reach who they are for: a path's MTU is found in both directions."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest

from netplane.kernel import netns
from netplane.model.address import Family
from tests.support.ports import cluster_ip, forwarding, service_port, vip
from tests.support.topology import FACTS, POD1, Topology, backend, topology

pytestmark = [
    pytest.mark.parametrize("family", list(Family), ids=str),
]
SMALL = 1300
PORT = 9000
MTU_OPTION = {Family.V4: (socket.IPPROTO_IP, 14), Family.V6: (socket.IPPROTO_IPV6, 24)}
DATA = bytes(200_000)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    """The node's way to the first pod is narrower than either end of it thinks."""
    with topology(tmp_path_factory.mktemp("errors")) as made:
        made.run("node", "ip", "link", "set", "pod1", "mtu", str(SMALL))
        yield made


@pytest.mark.parametrize("place", ["client", "pod2"])
def test_a_client_learns_the_mtu_behind_a_service(lab: Topology, family: Family, place: str) -> None:
    kind = socket.AF_INET if family is Family.V4 else socket.AF_INET6
    with contextlib.closing(lab.target()) as target, contextlib.ExitStack() as stack:
        port = service_port(cluster_ip(family), cluster=[backend(POD1, family, PORT)])
        asyncio.run(target.replace(forwarding(port, node=FACTS)))
        with netns.inside(lab.places["pod1"]):
            listener = stack.enter_context(socket.create_server((POD1[family], PORT), family=kind))
        listener.settimeout(5)
        with netns.inside(lab.places[place]):
            asking = stack.enter_context(socket.socket(kind, socket.SOCK_STREAM))
        asking.settimeout(5)
        asking.connect((vip(family), 80))
        accepted, _ = listener.accept()
        stack.enter_context(accepted)
        accepted.settimeout(5)
        asking.setblocking(False)
        sent = received = 0
        while received < len(DATA):
            with contextlib.suppress(BlockingIOError):
                sent += asking.send(DATA[sent : sent + 60_000])
            received += len(accepted.recv(1 << 20))
        assert asking.getsockopt(*MTU_OPTION[family]) == SMALL
