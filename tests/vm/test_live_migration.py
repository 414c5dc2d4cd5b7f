"""One backend takes over from another on a living node: no connection is cut, and no new one refused."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import pytest

from netplane.model.address import Family
from netplane.model.service import Protocol
from tests.support import kube_objects, static_api
from tests.support.proxy_process import ECHO_PORT, Nursery, Proxies, Steady, proxies, wait
from tests.support.topology import POD1, POD2, Topology, topology

WEB = "10.96.0.1", 80
DNS = "10.96.0.2", 80
NODE_PORT = "172.30.0.11", 30080
PODS = POD1[Family.V4], POD2[Family.V4]
PATHS = ("client", WEB), ("client", NODE_PORT), ("pod2", WEB), ("node", WEB)
TOUR = ("nftables", "ipvs", "iptables", "ipvs", "nftables")
TRACES = {
    "nftables": ("nft list tables", "table ip netplane\n"),
    "ipvs": ("nft list tables", "netplane_ipvs"),
    "iptables": ("iptables-save", "NETPLANE-"),
}
"""What shows that something of a mode is there: what is asked, and a word of the answer."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    with topology(tmp_path_factory.mktemp("migration")) as made:
        yield made


@pytest.fixture(scope="module")
def rig(lab: Topology, tmp_path_factory: pytest.TempPathFactory, proxy_nursery: Nursery) -> Iterator[Proxies]:
    with proxies(lab, tmp_path_factory.mktemp("proxies"), proxy_nursery) as made:
        made.put(kube_objects.node())
        made.put(web())
        made.put(kube_objects.service("dns", DNS[0], protocol="UDP"))
        for name, protocol in (("web", "TCP"), ("dns", "UDP")):
            piece = kube_objects.endpoint_slice(*PODS, of=name, node="node-1")
            piece["ports"] = [{"name": "", "port": ECHO_PORT, "protocol": protocol}]
            made.put(piece)
        yield made


def web() -> static_api.Object:
    """A Service with a NodePort."""
    made = kube_objects.service("web", WEB[0])
    made["spec"]["type"] = "NodePort"
    made["spec"]["ports"][0]["nodePort"] = NODE_PORT[1]
    return made


@contextlib.contextmanager
def busy(lab: Topology, *, stays: bool) -> Iterator[list[Steady]]:
    """Let everybody talk all the time."""
    with contextlib.ExitStack() as stack:
        made = [Steady(lab, place, where, stays=stays) for place, where in PATHS]
        if not stays:  # Flows of UDP have no end, and nobody waits for one: they have to live on all the time.
            made += [Steady(lab, place, DNS, stays=True, protocol=Protocol.UDP) for place in ("client", "pod1")]
        for one in made:
            stack.enter_context(one)
        for one in made:
            one.more(1)
        yield made


def traces(lab: Topology, mode: str) -> bool:
    """Tell whether something of a mode is on the node."""
    command, word = TRACES[mode]
    return word in lab.run("node", *command.split())


@pytest.mark.timeout(400)
def test_backends_take_over_from_each_other_and_no_connection_is_lost(lab: Topology, rig: Proxies) -> None:
    proxy = rig.start(TOUR[0])
    with busy(lab, stays=False) as new:
        for former, later in itertools.pairwise(TOUR):
            with busy(lab, stays=True) as old:
                proxy.stop()
                proxy = rig.start(later)
                for one in (*old, *new):
                    one.more(10)
            # What held on to the former one is gone.
            wait(lambda mode=former: not traces(lab, mode))  # type: ignore[misc]  # bound early
            assert not traces(lab, former), (former, later, proxy.log.read_text())
            for one in new:
                one.more(3)
    proxy.stop()
    for one in new:
        assert one.failures == [], one.name
        assert one.answered == {"pod1", "pod2"} or "udp" in one.name, one.name
    rig.command("cleanup")
    assert not any(traces(lab, mode) for mode in TRACES)
