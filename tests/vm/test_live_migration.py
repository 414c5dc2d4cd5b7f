"""One backend takes over from another on a living node: no connection is cut, and no new one refused."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import pytest

from netplane.model import address
from netplane.model.address import Family
from netplane.model.service import Protocol
from netplane_proxy.plan.host import LOOPBACK
from tests.support import kube_objects, static_api
from tests.support.ports import vip
from tests.support.proxy_process import ECHO_PORT, Nursery, Proxies, Steady, proxies, traces, wait
from tests.support.topology import NODE, POD1, POD2, Topology, topology

PORT, NODE_PORT = 80, 30080
PATHS = tuple(
    path
    for family in Family
    for path in (
        ("client", (NODE[family], NODE_PORT)),
        ("pod2", (vip(family), PORT)),
        ("node", (vip(family), PORT)),
        ("node", (address.text(LOOPBACK[family]), NODE_PORT)),
    )
)
ASKERS_OF_DNS = "client", "pod1"
TOUR = ("nftables", "ipvs", "iptables", "ipvs", "nftables")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    with topology(tmp_path_factory.mktemp("migration")) as made:
        yield made


@pytest.fixture(scope="module")
def rig(lab: Topology, tmp_path_factory: pytest.TempPathFactory, proxy_nursery: Nursery) -> Iterator[Proxies]:
    with proxies(lab, tmp_path_factory.mktemp("proxies"), proxy_nursery) as made:
        node = kube_objects.node(ip=NODE[Family.V4])
        node["status"]["addresses"].append({"type": "InternalIP", "address": NODE[Family.V6]})
        made.put(node)
        for number, (name, protocol) in enumerate((("web", "TCP"), ("dns", "UDP")), start=1):
            made.put(service(name, number, protocol))
            for family in Family:
                made.put(pods(name, family, protocol))
        yield made


def service(name: str, number: int, protocol: str) -> static_api.Object:
    """A Service of both families; one by TCP has a NodePort."""
    ips = [vip(family, number) for family in Family]
    made = kube_objects.service(name, ips[0], protocol=protocol, clusterIPs=ips)
    if protocol == "TCP":
        made["spec"]["type"] = "NodePort"
        made["spec"]["ports"][0]["nodePort"] = NODE_PORT
    return made


def pods(name: str, family: Family, protocol: str) -> static_api.Object:
    """A Service's slice of one family."""
    made = kube_objects.endpoint_slice(POD1[family], POD2[family], of=name, node="node-1")
    made["metadata"]["name"] = f"{name}-{family.name.lower()}"
    made["addressType"] = str(family)
    made["ports"] = [{"name": "", "port": ECHO_PORT, "protocol": protocol}]
    return made


PACE = 0.8
"""How long clients pause between questions, in seconds: there are two dozen, and one emulated processor."""


@contextlib.contextmanager
def busy(lab: Topology, *, stays: bool) -> Iterator[list[Steady]]:
    """Let everybody talk all the time."""
    with contextlib.ExitStack() as stack:
        made = [Steady(lab, place, where, stays=stays, pace=PACE) for place, where in PATHS]
        if not stays:  # Flows of UDP have no end, and nobody waits for one: they have to live on all the time.
            made += [
                Steady(lab, place, (vip(family, 2), PORT), stays=True, protocol=Protocol.UDP, pace=PACE)
                for place in ASKERS_OF_DNS for family in Family
            ]  # fmt: skip
        for one in made:
            stack.enter_context(one)
        for one in made:
            one.more(1)
        yield made


@pytest.mark.timeout(800)
def test_backends_take_over_from_each_other_and_no_connection_is_lost(lab: Topology, rig: Proxies) -> None:
    proxy = rig.start(TOUR[0])
    with busy(lab, stays=False) as new:
        for former, later in itertools.pairwise(TOUR):
            with busy(lab, stays=True) as old:
                proxy.stop()
                proxy = rig.start(later)
                for one in (*old, *new):
                    one.more(3)
            # What held on to the former one is gone.
            wait(lambda mode=former: not traces(lab, mode), seconds=180, pause=1)  # type: ignore[misc]  # bound early
            assert traces(lab, former) == [], (former, later, proxy.log.read_text())
            for one in new:
                one.more(2)
    proxy.stop()
    for one in new:
        assert one.failures == [], one.name
        assert one.answered == {"pod1", "pod2"} or "udp" in one.name, one.name
    rig.command("cleanup")
    assert [trace for mode in set(TOUR) for trace in traces(lab, mode)] == []
