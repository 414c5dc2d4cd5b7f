"""Pods known by the interface by which their packets come in, and not by their address: to real connections."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import pytest

from netplane.kernel import netns
from netplane.model.address import Family
from netplane.model.service import Protocol
from netplane_proxy.plan.forwarding import Forwarding
from netplane_proxy.run import iptables, nftables
from netplane_proxy.run.target import Target
from tests.support.ports import cluster_ip, forwarding, node_port, service_port, vip
from tests.support.topology import CLIENT, FACTS, NODE, POD1, POD2, Topology, backend, topology

OPENED: dict[str, Callable[[], Target]] = {
    "nftables": nftables.open_target,
    "iptables-legacy": lambda: iptables.open_target("legacy"),
    "iptables-nft": lambda: iptables.open_target("nft"),
}
families = pytest.mark.parametrize("family", list(Family), ids=str)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    with topology(tmp_path_factory.mktemp("interfaces")) as made:
        yield made


@pytest.fixture(scope="module", params=OPENED)
def target(lab: Topology, request: pytest.FixtureRequest) -> Iterator[Target]:
    with contextlib.closing(netns.run_in(lab.places["node"], OPENED[request.param])) as made:
        yield made
        netns.run_in(lab.places["node"], lambda: asyncio.run(made.cleanup()))


def hold(lab: Topology, target: Target, family: Family, interfaces: str) -> None:
    """Forward a cluster IP, and a NodePort that is bound to its client under Local policy."""
    node = dataclasses.replace(FACTS, pod_cidrs=(), pod_interfaces=interfaces)
    both = [backend(POD1, family), backend(POD2, family)]
    wanted: Forwarding = forwarding(
        service_port(cluster_ip(family), cluster=both),
        service_port(node_port(local=True), cluster=both, local=both[:1], affinity=60, name="bound", family=family),
        node=node,
    )
    netns.run_in(lab.places["node"], lambda: asyncio.run(target.replace(wanted)))


def sources(lab: Topology, family: Family, place: str) -> set[str]:
    """By which addresses backends know who asks at the cluster IP, the gateway's left out: a pod may get itself."""
    answers = lab.ask_often(place, (vip(family), 80), Protocol.TCP, 24)
    assert {one.name for one in answers} == {"pod1", "pod2"}
    return {one.source for one in answers if one.name != place}


@families
@pytest.mark.parametrize(("interfaces", "kept"), [("pod1", {"pod1"}), ("pod*", {"pod1", "pod2"})])
def test_who_comes_in_by_the_pods_interfaces_keeps_its_address(
    lab: Topology, target: Target, family: Family, interfaces: str, kept: set[str]
) -> None:
    hold(lab, target, family, interfaces)
    for place, own in (("pod1", POD1), ("pod2", POD2), ("client", CLIENT)):
        assert (sources(lab, family, place) == {own[family]}) == (place in kept), place
    assert sources(lab, family, "node")


@families
def test_pods_by_interface_have_their_short_cut_under_local_policy_and_stay_bound(
    lab: Topology, target: Target, family: Family
) -> None:
    hold(lab, target, family, "pod2")
    where = NODE[family], 30080
    assert {one.name for one in lab.ask_often("client", where, Protocol.TCP, 6)} == {"pod1"}
    bound = lab.ask_often("pod2", where, Protocol.TCP, 6)
    assert len({one.name for one in bound}) == 1
