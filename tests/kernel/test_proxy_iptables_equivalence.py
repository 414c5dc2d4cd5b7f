"""What the kernel did with a packet by iptables rules is what the oracle says, for both variants and both families."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from netplane.model.address import Family
from netplane.model.snapshot import Snapshot
from netplane_proxy.plan import ledger
from netplane_proxy.plan.forwarding import NodeFacts
from netplane_proxy.run import iptables
from tests.support import proxy_equivalence
from tests.support.packet_lab import PacketLab, packet_lab
from tests.support.proxy_equivalence import Node, assert_agree
from tests.support.random_clusters import nodes_with_loopback, snapshots

CLUSTERS = int(os.environ.get("PROXY_CLUSTERS", "20"))
PACKETS_PER_CLUSTER = 250


@pytest.fixture(scope="module")
def lab() -> Iterator[PacketLab]:
    with packet_lab() as made:
        yield made


@pytest.fixture(scope="module", params=["legacy", "nft"])
def node(lab: PacketLab, request: pytest.FixtureRequest) -> Iterator[Node]:
    with contextlib.closing(Node(lab, lambda: iptables.open_target(request.param))) as made:
        yield made
        made.clear()


few = settings(
    max_examples=CLUSTERS,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    print_blob=True,
)


@few
@given(snapshots(), nodes_with_loopback(), st.randoms(use_true_random=False))
def test_by_iptables_the_kernel_does_what_the_oracle_says(
    node: Node, snapshot: Snapshot, facts: NodeFacts, rng: random.Random
) -> None:
    forwarding = ledger.of_snapshot(snapshot, facts)
    node.replace(forwarding)
    assert_agree(node.lab, forwarding, rng, count=PACKETS_PER_CLUSTER)
    proxy_equivalence.assert_agree_at_loopback(node.lab, forwarding)
    assert node.replace(forwarding) == 0


@settings(few, max_examples=max(3, CLUSTERS // 4))
@given(snapshots(), snapshots(), st.randoms(use_true_random=False))
def test_iptables_changed_step_by_step_do_what_the_oracle_says(
    node: Node, before: Snapshot, after: Snapshot, rng: random.Random
) -> None:
    forwarding = node.walk((before, after), rng)
    assert_agree(node.lab, forwarding, rng, count=PACKETS_PER_CLUSTER)
    assert node.replace(forwarding) == 0


@pytest.mark.parametrize("family", list(Family))
def test_by_iptables_each_backend_gets_its_share(node: Node, family: Family) -> None:
    proxy_equivalence.assert_shares_are_fair(node, family)
