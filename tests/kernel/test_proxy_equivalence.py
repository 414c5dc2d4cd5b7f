"""What the kernel did with a packet is what the oracle says, for random clusters, in both families."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from netplane.kernel import netns
from netplane.model import address
from netplane.model.address import Family
from netplane.model.service import Endpoint, Protocol
from netplane.model.snapshot import Snapshot
from netplane_proxy.plan import ledger, oracle
from netplane_proxy.plan.forwarding import Forwarding, NodeFacts
from netplane_proxy.plan.meaning import Meaning
from netplane_proxy.run import nftables
from netplane_proxy.run.target import Result
from tests.support.clusters import NODE, decide, piece, service
from tests.support.packet_lab import PacketLab, packet_lab
from tests.support.proxy_equivalence import assert_agree, differences
from tests.support.random_clusters import (
    at,
    loopback_packets,
    nodes,
    nodes_with_loopback,
    snapshots,
)

CLUSTERS = int(os.environ.get("PROXY_CLUSTERS", "25"))
PACKETS_PER_CLUSTER = 100


class Node:
    """The proxy's rules on the lab's node, driven from any thread."""

    def __init__(self, lab: PacketLab) -> None:
        self.lab = lab
        self._target = netns.run_in(lab.node, nftables.open_target)

    def replace(self, forwarding: Forwarding) -> int:
        """Make the kernel hold this; return how many operations it took."""
        return self._run(lambda: self._target.replace(forwarding)).operations

    def commit(self, changes: ledger.Changes) -> int:
        """Change the kernel by this alone."""
        return self._run(lambda: self._target.commit(changes, "1")).operations

    def close(self) -> None:
        self._target.close()

    def _run(self, make: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        # nft(8) is started from this thread, and must find the node's namespace.
        return netns.run_in(self.lab.node, lambda: asyncio.run(make()))


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with packet_lab() as lab, contextlib.closing(Node(lab)) as made:
        yield made


few = settings(
    max_examples=CLUSTERS,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    print_blob=True,
)


@few
@given(snapshots(), nodes(), st.randoms(use_true_random=False))
def test_the_kernel_does_what_the_oracle_says(
    node: Node, snapshot: Snapshot, facts: NodeFacts, rng: random.Random
) -> None:
    forwarding = ledger.of_snapshot(snapshot, facts)
    node.replace(forwarding)
    assert_agree(node.lab, forwarding, rng, count=PACKETS_PER_CLUSTER)
    assert node.replace(forwarding) == 0


@few
@given(snapshots(), nodes_with_loopback())
def test_the_kernel_does_at_the_loopback_address_what_the_oracle_says(
    node: Node, snapshot: Snapshot, facts: NodeFacts
) -> None:
    forwarding = ledger.of_snapshot(snapshot, facts)
    node.replace(forwarding)
    sent = loopback_packets(forwarding)
    left = node.lab.send(sent)
    found = differences(oracle.Oracle(forwarding), zip(sent, left, strict=True), scope=lambda packet: packet)
    assert not found, "\n".join(found)
    assert all(one.source in NODE.node_ips for one in left if one is not None and one.end == "sent")


@few
@given(snapshots(), snapshots(), st.randoms(use_true_random=False))
def test_a_kernel_changed_step_by_step_does_what_the_oracle_says(
    node: Node, before: Snapshot, after: Snapshot, rng: random.Random
) -> None:
    meaning = Meaning(NODE)
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
    assert_agree(node.lab, meaning.forwarding("1"), rng, count=PACKETS_PER_CLUSTER)
    assert node.replace(meaning.forwarding("1")) == 0


@pytest.mark.parametrize("family", list(Family))
def test_each_backend_gets_its_share(node: Node, family: Family) -> None:
    ends = [Endpoint((at(family, "away", number),)) for number in range(1, 5)]
    cluster_ip = at(family, "cluster", 1)
    node.replace(decide(service(ips=address.text(cluster_ip)), piece(*ends)))
    packet = oracle.Packet(at(family, "here", 9), cluster_ip, Protocol.TCP, 80)
    counts = Counter(left.destination for left in node.lab.send([packet] * 2000) if left)
    assert sum(counts.values()) == 2000
    assert len(counts) == 4
    # Five standard deviations of a fair draw, about 19 each: one failure in a million runs.
    assert all(abs(count - 500) < 100 for count in counts.values()), counts
