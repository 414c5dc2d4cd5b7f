"""What connection tracking calls INVALID ends no connection through a Service, and nobody else's goes amiss.

An endpoint's segment from outside of the window is not translated back. A client that gets it knows no such connection,
and its reset kills the one that is there (kubernetes/kubernetes#74839).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6

from netplane.kernel import netns
from netplane.model.address import Family
from netplane_proxy.run.nftables import NftablesTarget
from tests.support.ports import cluster_ip, forwarding, service_port, vip
from tests.support.topology import CLIENT, FACTS, NODE, POD1, POD2, Topology, backend, topology

PORT = 9100
BY_FAMILY = pytest.mark.parametrize("family", list(Family), ids=str)
_PROBE = """
table inet probe {}
delete table inet probe
table inet probe { chain seen { type filter hook prerouting priority 10; ct state invalid counter; }; }
"""
_WITHOUT = "".join(f"flush chain {ip} netplane stray\n" for ip in ("ip", "ip6"))


class Connection(NamedTuple):
    """Both ends of one, and what the server may acknowledge."""

    asking: socket.socket
    accepted: socket.socket
    acknowledged: int


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    with topology(tmp_path_factory.mktemp("stray")) as made:
        yield made


@pytest.fixture
def target(lab: Topology) -> Iterator[NftablesTarget]:
    with contextlib.closing(lab.target()) as opened:
        asyncio.run(opened.cleanup())
        yield opened


def inet(family: Family) -> socket.AddressFamily:
    return socket.AF_INET if family is Family.V4 else socket.AF_INET6


@contextlib.contextmanager
def connected(lab: Topology, client: str, server: str, family: Family) -> Iterator[Connection]:
    """Connect to the Service, and return both ends."""
    with netns.inside(lab.places[server]):
        listener = socket.create_server(("", PORT), family=inet(family))
        ear = socket.socket(inet(family), socket.SOCK_RAW, socket.IPPROTO_TCP)
    with netns.inside(lab.places[client]):
        asking = socket.socket(inet(family))
    with listener, asking, ear:
        listener.settimeout(30)
        asking.settimeout(30)
        ear.settimeout(30)
        asking.connect((vip(family), 80))
        accepted, _ = listener.accept()
        with accepted:
            accepted.settimeout(30)
            ports = accepted.getpeername()[1].to_bytes(2, "big") + PORT.to_bytes(2, "big")
            while (at := (heard := ear.recv(2000)).find(ports)) < 0:
                pass
            yield Connection(asking, accepted, int.from_bytes(heard[at + 4 : at + 8], "big") + 1 & 0xFFFFFFFF)


def send(lab: Topology, place: str, source: str, to: str, segment: TCP) -> None:
    """Send a segment past the stack of a place."""
    whole = (IPv6 if ":" in source else IP)(src=source, dst=to) / segment
    with netns.inside(lab.places[place]):
        raw = socket.socket(inet(Family.V6 if ":" in source else Family.V4), socket.SOCK_RAW, socket.IPPROTO_RAW)
    with raw, contextlib.suppress(PermissionError):  # EPERM: the rules dropped it
        raw.sendto(bytes(whole), (to, 0))


def stray(lab: Topology, place: str, source: str, connection: Connection) -> None:
    """Send what an endpoint should not: wherever the window is, one of these is beyond it."""
    to, port, *_ = connection.accepted.getpeername()
    for part in range(4):
        segment = TCP(sport=PORT, dport=port, seq=part << 30, ack=connection.acknowledged, flags="A")
        send(lab, place, source, to, segment)


def survives(connection: Connection) -> bool:
    """Say something to both sides."""
    try:
        for one, other in (connection[:2], connection[1::-1]) * 2:
            one.sendall(b"?")
            if other.recv(1) != b"?":
                return False
    except OSError:
        return False
    return True


@BY_FAMILY
@pytest.mark.parametrize(
    ("client", "server"), [("pod2", "pod1"), ("node", "pod1"), ("pod2", "node"), ("client", "pod1")]
)
def test_a_stray_segment_of_a_backend_ends_no_connection(
    lab: Topology, target: NftablesTarget, family: Family, client: str, server: str
) -> None:
    where = {"pod1": POD1, "node": NODE}[server]
    asyncio.run(target.replace(forwarding(
        service_port(cluster_ip(family), cluster=[backend(where, family, PORT)]), node=FACTS
    )))  # fmt: skip
    with connected(lab, client, server, family) as connection:
        stray(lab, server, where[family], connection)
        assert survives(connection)
    lab.run("node", "nft", "-f", "-", feed=_WITHOUT)
    with connected(lab, client, server, family) as connection:
        stray(lab, server, where[family], connection)
        assert not survives(connection), "this test sends nothing that harms"


@BY_FAMILY
@pytest.mark.parametrize(("place", "goes"), [("client", True), ("pod1", False)])
def test_of_all_that_fits_no_connection_only_what_endpoints_send_is_dropped(
    lab: Topology, target: NftablesTarget, family: Family, place: str, goes: bool
) -> None:
    asyncio.run(target.replace(forwarding(
        service_port(cluster_ip(family), cluster=[backend(POD1, family)]), node=FACTS
    )))  # fmt: skip
    lab.run("node", "nft", "-f", "-", feed=_PROBE)
    source = {"client": CLIENT, "pod1": POD1}[place][family]
    with netns.inside(lab.places["pod2"]):
        ear = socket.socket(inet(family), socket.SOCK_RAW, socket.IPPROTO_TCP)
    with ear:
        ear.settimeout(0.3)
        # The answer to a question that went another way: what a node sees on an asymmetric route.
        send(lab, place, source, POD2[family], TCP(sport=4000, dport=4001, seq=77, ack=78, flags="SA"))
        heard = False
        with contextlib.suppress(TimeoutError):
            while not heard:
                heard = (4000).to_bytes(2, "big") + (4001).to_bytes(2, "big") in ear.recv(2000)
    counted = lab.run("node", "nft", "list", "table", "inet", "probe")
    lab.run("node", "nft", "delete", "table", "inet", "probe")
    assert "invalid counter" in counted
    assert "counter packets 0 " not in counted, "nothing INVALID was sent"
    assert heard is goes
