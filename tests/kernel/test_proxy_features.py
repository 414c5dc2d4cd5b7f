"""What Services and slices ask for beyond addresses and ports, from an API's JSON to packets on a real kernel.

By each backend that this kernel has; tests/vm has the same claims for IPVS.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from netplane.kube.fake import FakeApi
from netplane.kube.types import ENDPOINTSLICES, NODES, SERVICES, Object
from netplane.model import address
from netplane_proxy.plan import oracle
from tests.support import kube_objects as objects
from tests.support.clusters import NODE
from tests.support.packet_lab import PacketLab, packet_lab
from tests.support.proxy_daemon import PATIENCE, on_node, running

ZONE = "topology.kubernetes.io/zone"


@pytest.fixture
def lab() -> Iterator[PacketLab]:
    with packet_lab() as made:
        yield made


@pytest.fixture(params=["nftables", "iptables"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ends(lab: PacketLab, words: str, count: int = 60) -> set[str]:
    """Send many first packets, and say where they went."""
    seen: Counter[str] = Counter()
    for left in lab.send([oracle.parse(words, NODE)] * count):
        end = "nowhere" if left is None else left.end
        seen[address.text(left.destination) if left is not None and end == "sent" else end] += 1
    return set(seen)


def hinted(*rows: tuple[str, str, str]) -> Object:
    """A slice of endpoints by address, zone hint and node hint."""
    made = objects.endpoint_slice(*(ip for ip, _, _ in rows))
    for row, (_, zone, node) in zip(made["endpoints"], rows, strict=True):
        zones = {"forZones": [{"name": zone}]} if zone else {}
        nodes = {"forNodes": [{"name": node}]} if node else {}
        row["hints"] = zones | nodes
    return made


@pytest.mark.parametrize("distribution", ["PreferClose", "PreferSameZone"])
def test_endpoints_of_this_zone_are_preferred_as_long_as_there_are_some(
    lab: PacketLab, mode: str, distribution: str
) -> None:
    api = FakeApi()
    api.seed(NODES, objects.node(**{ZONE: "zone-a"}))
    api.seed(SERVICES, objects.service(trafficDistribution=distribution))
    api.seed(ENDPOINTSLICES, hinted(("10.244.2.1", "zone-a", ""), ("10.244.2.2", "zone-b", "")))

    async def course() -> None:
        async with running(api, mode):
            assert ends(lab, "10.244.1.5 > 10.96.0.1:80/tcp") == {"10.244.2.1"}
            api.seed(ENDPOINTSLICES, hinted(("10.244.2.2", "zone-b", ""), ("10.244.2.3", "zone-b", "")))
            await api.until(
                lambda: ends(lab, "10.244.1.5 > 10.96.0.1:80/tcp") == {"10.244.2.2", "10.244.2.3"}, seconds=PATIENCE
            )

    on_node(lab, course)


def test_endpoints_of_this_node_are_preferred_then_those_of_its_zone(lab: PacketLab, mode: str) -> None:
    api = FakeApi()
    api.seed(NODES, objects.node(**{ZONE: "zone-a"}))
    api.seed(SERVICES, objects.service(trafficDistribution="PreferSameNode"))
    here, near, far = (
        ("10.244.1.7", "zone-a", "node-1"),
        ("10.244.2.1", "zone-a", "node-2"),
        ("10.244.3.1", "zone-b", "node-3"),
    )
    api.seed(ENDPOINTSLICES, hinted(here, near, far))

    async def course() -> None:
        async with running(api, mode):
            assert ends(lab, "10.244.1.5 > 10.96.0.1:80/tcp") == {"10.244.1.7"}
            api.seed(ENDPOINTSLICES, hinted(near, far))
            await api.until(lambda: ends(lab, "10.244.1.5 > 10.96.0.1:80/tcp") == {"10.244.2.1"}, seconds=PATIENCE)
            api.seed(ENDPOINTSLICES, hinted(far))
            await api.until(lambda: ends(lab, "10.244.1.5 > 10.96.0.1:80/tcp") == {"10.244.3.1"}, seconds=PATIENCE)

    on_node(lab, course)


def balanced(*ingress: Object, **spec: Any) -> Object:
    """A balancer's Service with these addresses in its status."""
    made = objects.service(type="LoadBalancer", **spec)
    made["status"] = {"loadBalancer": {"ingress": list(ingress)}}
    return made


def test_a_balancers_address_in_proxy_mode_is_left_to_the_balancer(lab: PacketLab, mode: str) -> None:
    api = FakeApi()
    api.seed(NODES, objects.node())
    api.seed(ENDPOINTSLICES, objects.endpoint_slice("10.244.2.1", protocol="UDP"))
    vip, proxied, plain = ({"ip": f"192.0.2.{n}"} for n in (1, 2, 3))
    api.seed(SERVICES, balanced({**vip, "ipMode": "VIP"}, {**proxied, "ipMode": "Proxy"}, plain, protocol="UDP"))

    async def course() -> None:
        async with running(api, mode):
            for source in ("10.244.1.5", "172.31.0.2", "node"):
                for number, end in ((1, "10.244.2.1"), (2, "192.0.2.2"), (3, "10.244.2.1")):
                    assert ends(lab, f"{source} > 192.0.2.{number}:80/udp", 1) == {end}, source
            api.seed(SERVICES, balanced({**vip, "ipMode": "Proxy"}, protocol="UDP"))
            await api.until(lambda: ends(lab, "10.244.1.5 > 192.0.2.1:80/udp", 1) == {"192.0.2.1"}, seconds=PATIENCE)

    on_node(lab, course)


async def check(port: int) -> tuple[int, int]:
    """Ask as a balancer does: the status, and how many endpoints are here. Status 0 when nobody listens."""
    try:
        reader, writer = await asyncio.open_connection("172.30.0.11", port)
    except (ConnectionRefusedError, ConnectionResetError):
        return 0, 0
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    if not answer:
        return 0, 0  # It was closed between the two.
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["localEndpoints"]


def test_a_balancer_is_told_by_http_whether_this_node_has_endpoints(lab: PacketLab, mode: str) -> None:
    api = FakeApi()
    api.seed(NODES, objects.node())
    local = {"externalTrafficPolicy": "Local", "healthCheckNodePort": 31999}
    api.seed(SERVICES, balanced({"ip": "192.0.2.1"}, **local))
    api.seed(ENDPOINTSLICES, objects.endpoint_slice("10.244.2.1", node="node-2"))

    async def becomes(*wanted: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while await check(31999) != wanted:  # noqa: ASYNC110 - the node's own ports tell nobody that they open
                await asyncio.sleep(0.02)

    async def course() -> None:
        async with running(api, mode):
            await becomes(503, 0)
            api.seed(ENDPOINTSLICES, objects.endpoint_slice("10.244.1.7", "10.244.1.8", node="node-1"))
            await becomes(200, 2)
            assert ends(lab, "172.31.0.2 > 192.0.2.1:80/tcp") == {"10.244.1.7", "10.244.1.8"}
            api.drop(SERVICES, "web", "default")
            await becomes(0, 0)

    on_node(lab, course)


@pytest.mark.parametrize("target", ["10.96.0.53:80", "172.30.0.11:30053"])
def test_a_udp_client_that_keeps_sending_moves_to_the_new_endpoint(lab: PacketLab, mode: str, target: str) -> None:
    api = FakeApi()
    api.seed(NODES, objects.node())
    packet = oracle.parse(f"172.31.0.2 > {target}/udp", NODE)

    def seed(*ips: str) -> None:
        api.seed(ENDPOINTSLICES, objects.endpoint_slice(*ips, of="dns", protocol="UDP"))

    async def course() -> None:
        made = objects.service("dns", "10.96.0.53", protocol="UDP", type="NodePort")
        made["spec"]["ports"][0]["nodePort"] = 30053
        api.seed(SERVICES, made)
        seed("10.244.2.1")
        async with running(api, mode) as daemon:
            flow = lab.flow(packet)
            assert address.text(flow.send()) == "10.244.2.1"
            seed("10.244.2.1", "10.244.2.2")
            await api.until(lambda: daemon.report()["committed"] == str(api.revision), seconds=PATIENCE)
            assert address.text(flow.send()) == "10.244.2.1"
            seed("10.244.2.2")
            await api.until(lambda: address.text(flow.send()) == "10.244.2.2", seconds=PATIENCE)

    on_node(lab, course)


def test_a_udp_client_that_was_there_first_reaches_a_service_that_comes(lab: PacketLab, mode: str) -> None:
    api = FakeApi()
    api.seed(NODES, objects.node())
    packet = oracle.parse("10.244.1.5 > 192.0.2.53:80/udp", NODE)

    async def course() -> None:
        async with running(api, mode):
            flow = lab.flow(packet)
            assert address.text(flow.send()) == "192.0.2.53"
            api.seed(SERVICES, objects.service("dns", "10.96.0.53", protocol="UDP", externalIPs=["192.0.2.53"]))
            api.seed(ENDPOINTSLICES, objects.endpoint_slice("10.244.2.7", of="dns", protocol="UDP"))
            await api.until(lambda: address.text(flow.send()) == "10.244.2.7", seconds=PATIENCE)

    on_node(lab, course)


def test_a_restart_moves_no_udp_flow(lab: PacketLab, mode: str) -> None:
    api = FakeApi()
    api.seed(NODES, objects.node())
    api.seed(SERVICES, objects.service("dns", "10.96.0.53", protocol="UDP"))
    api.seed(ENDPOINTSLICES, objects.endpoint_slice("10.244.2.1", "10.244.2.2", of="dns", protocol="UDP"))
    packet = oracle.parse("10.244.1.5 > 10.96.0.53:80/udp", NODE)

    async def course() -> None:
        async with running(api, mode):
            flows = [lab.flow(packet) for _ in range(20)]
            before = [flow.send() for flow in flows]
            assert set(map(address.text, before)) == {"10.244.2.1", "10.244.2.2"}
        async with running(api, mode):
            for _ in range(3):  # the look at flows that were there is taken beside all else
                assert [flow.send() for flow in flows] == before

    on_node(lab, course)


def test_a_client_is_bound_for_as_long_as_its_service_says(lab: PacketLab, mode: str) -> None:
    api = FakeApi()
    api.seed(NODES, objects.node())
    config = {"clientIP": {"timeoutSeconds": 2}}
    api.seed(SERVICES, objects.service(sessionAffinity="ClientIP", sessionAffinityConfig=config))
    api.seed(ENDPOINTSLICES, objects.endpoint_slice("10.244.2.1", "10.244.2.2"))
    question = "10.244.1.5 > 10.96.0.1:80/tcp"

    async def course() -> None:
        async with running(api, mode):
            (first,) = ends(lab, question, 10)
            async with asyncio.timeout(PATIENCE):
                while ends(lab, question, 1) == {first}:  # noqa: ASYNC110 - a client's rest is time
                    await asyncio.sleep(2.2)

    on_node(lab, course)
