"""With IPVS, too, the kernel does with a packet what the oracle says. Runs where there is IPVS: `make vm`."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import random
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from netplane.kernel import netns
from netplane.model.snapshot import Snapshot
from netplane_proxy.plan import ledger, oracle
from netplane_proxy.plan.forwarding import Forwarding, NodeFacts
from netplane_proxy.plan.meaning import Meaning
from netplane_proxy.run import ipvs
from tests.support import proxy_equivalence
from tests.support.clusters import NODE
from tests.support.packet_lab import PacketLab, packet_lab
from tests.support.random_clusters import nodes, snapshots

CLUSTERS = int(os.environ.get("PROXY_CLUSTERS", "6"))
PACKETS_PER_CLUSTER = 120
T = TypeVar("T")


class Node:
    """The proxy's backend on the lab's node, driven from any thread."""

    def __init__(self, lab: PacketLab) -> None:
        self.lab = lab
        self.target = netns.run_in(lab.node, ipvs.open_target)

    def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return netns.run_in(self.lab.node, lambda: asyncio.run(make()))

    def replace(self, forwarding: Forwarding) -> int:
        """Make the kernel hold this; return how many operations it took."""
        return self.run(lambda: self.target.replace(forwarding)).operations

    def commit(self, changes: ledger.Changes) -> int:
        """Change the kernel by this alone."""
        return self.run(lambda: self.target.commit(changes, "1")).operations

    def clear(self) -> None:
        """Remove everything: connections of a former case would keep its addresses."""
        self.run(self.target.cleanup)


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with packet_lab() as lab:
        made = Node(lab)
        with contextlib.closing(made.target):
            yield made


def assert_agree(node: Node, forwarding: Forwarding, rng: random.Random) -> None:
    """Compare; IPVS binds a client at each frontend on its own, as with kube-proxy."""
    rows = forwarding.ports.values()
    addresses = {frontend.address for row in rows for frontend in row.frontends if frontend.address is not None}

    def expected(said: oracle.Verdict, packet: oracle.Packet) -> oracle.Verdict:
        if said.action is oracle.Action.UNTOUCHED and packet.destination in addresses:
            # The address stands on this node for IPVS to see its packets; its other ports must not be the node's own.
            return oracle.Verdict(oracle.Action.REJECT)
        return said

    proxy_equivalence.assert_agree(
        node.lab,
        forwarding,
        rng,
        count=PACKETS_PER_CLUSTER,
        again=20,
        expected=expected,
        scope=lambda packet: (packet.destination, packet.port),
    )


few = settings(
    max_examples=CLUSTERS,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.generate],
)


def without_loopback(facts: NodeFacts) -> NodeFacts:
    """Return the node without NodePorts at its loopback addresses, where IPVS cannot serve."""
    kept = tuple(ip for ip in facts.nodeport_addresses if ip in facts.node_ips)
    return dataclasses.replace(facts, nodeport_addresses=kept)


@few
@given(snapshots(), nodes().map(without_loopback), st.randoms(use_true_random=False))
def test_with_ipvs_the_kernel_does_what_the_oracle_says(
    node: Node, snapshot: Snapshot, facts: NodeFacts, rng: random.Random
) -> None:
    forwarding = ledger.of_snapshot(snapshot, facts)
    node.clear()
    node.replace(forwarding)
    assert node.replace(forwarding) == 0
    assert_agree(node, forwarding, rng)


@few
@given(snapshots(), snapshots(), st.randoms(use_true_random=False))
def test_virtual_servers_changed_step_by_step_do_what_the_oracle_says(
    node: Node, before: Snapshot, after: Snapshot, rng: random.Random
) -> None:
    meaning = Meaning(without_loopback(NODE))
    node.clear()
    node.replace(meaning.forwarding("0"))
    for snapshot in (before, after):
        keys = [*{*meaning.services, *snapshot.services}, *[("default", f"s{index}") for index in range(6)]]
        rng.shuffle(keys)
        for key in keys:
            if key[1].startswith("s"):
                meaning.take_slice(key, snapshot.slices.get(key))
            else:
                meaning.take_service(key, snapshot.services.get(key))
            node.commit({port: step.now for port, step in meaning.settle().items()})
    node.replace(meaning.forwarding("1"))  # the idle ones go
    assert node.replace(meaning.forwarding("1")) == 0
    assert_agree(node, meaning.forwarding("1"), rng)
