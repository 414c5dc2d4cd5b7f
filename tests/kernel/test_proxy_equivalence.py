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
from netplane_proxy.plan.forwarding import Backend, Forwarding, NodeFacts
from netplane_proxy.plan.host import LOOPBACK
from netplane_proxy.plan.meaning import Meaning
from netplane_proxy.run import nftables
from netplane_proxy.run.target import Result
from tests.support.clusters import NODE, decide, piece, service
from tests.support.packet_lab import Left, PacketLab, packet_lab
from tests.support.random_clusters import (
    at,
    loopback_packets,
    nodes,
    nodes_with_loopback,
    packets,
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


def judged(
    asked: oracle.Oracle, packet: oracle.Packet, left: Left | None, bound: dict[oracle.AffinityKey, Backend]
) -> str:
    """Return what is wrong with how a packet left; "" when the oracle says so too. Affinity is taken note of."""
    said = asked.verdict(packet, affinity=bound)
    if said.action is oracle.Action.DROP:
        return "" if left is None else f"{left}"
    if left is None:
        return "vanished"
    if said.action is oracle.Action.REJECT:
        return "" if left.end == "refused" else f"{left}"
    if said.action is oracle.Action.UNTOUCHED:
        is_own = packet.destination in (*NODE.node_ips, *LOOPBACK.values())
        as_is = Left("sent", packet.source, packet.destination, packet.port)
        return "" if (left.end == "delivered" if is_own else left == as_is) else f"{left}"
    by_backend = {outcome.backend: outcome for outcome in said.outcomes}
    outcome = by_backend.get(Backend(left.destination, left.port))
    if left.end != "sent" or outcome is None:
        return f"{left}"
    is_masqueraded = left.source != packet.source
    # The node's own packets carry the address that masquerading would give them.
    if is_masqueraded != outcome.masquerade and not packet.from_node:
        return f"source {address.text(left.source)}"
    key = asked.affinity_key(packet)
    if key is not None:
        bound[key] = outcome.backend
    return ""


def assert_agree(node: Node, forwarding: Forwarding, rng: random.Random) -> None:
    """Send a random part of all packets worth sending, twice for those with affinity, and compare."""
    asked = oracle.Oracle(forwarding)
    chosen = packets(forwarding)
    rng.shuffle(chosen)
    chosen = chosen[:PACKETS_PER_CLUSTER]
    bound: dict[oracle.AffinityKey, Backend] = {}
    for packet, left in zip(chosen, node.lab.send(chosen), strict=True):
        wrong = judged(asked, packet, left, bound)
        assert not wrong, f"{packet}: the oracle says {asked.verdict(packet, affinity=bound)}, the kernel: {wrong}"


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
    assert_agree(node, forwarding, rng)
    assert node.replace(forwarding) == 0


@few
@given(snapshots(), nodes_with_loopback())
def test_the_kernel_does_at_the_loopback_address_what_the_oracle_says(
    node: Node, snapshot: Snapshot, facts: NodeFacts
) -> None:
    forwarding = ledger.of_snapshot(snapshot, facts)
    node.replace(forwarding)
    asked = oracle.Oracle(forwarding)
    sent = loopback_packets(forwarding)
    for packet, left in zip(sent, node.lab.send(sent), strict=True):
        wrong = judged(asked, packet, left, {})
        assert not wrong, f"{packet}: the oracle says {asked.verdict(packet)}, the kernel: {wrong}"
        if left is not None and left.end == "sent":
            assert left.source in NODE.node_ips


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
    assert_agree(node, meaning.forwarding("1"), rng)
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
