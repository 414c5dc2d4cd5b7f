"""With IPVS, too, the kernel does with a packet what the oracle says. Runs where there is IPVS: `make vm`."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from netplane.model.snapshot import Snapshot
from netplane_proxy.plan import ledger, oracle
from netplane_proxy.plan.forwarding import Forwarding, NodeFacts
from netplane_proxy.run import ipvs
from tests.support import proxy_equivalence
from tests.support.packet_lab import packet_lab
from tests.support.proxy_equivalence import Node
from tests.support.random_clusters import nodes_with_loopback, snapshots

CLUSTERS = int(os.environ.get("PROXY_CLUSTERS", "6"))
PACKETS_PER_CLUSTER = 120


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with packet_lab() as lab, contextlib.closing(Node(lab, ipvs.open_target)) as made:
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


@few
@given(snapshots(), nodes_with_loopback(), st.randoms(use_true_random=False))
def test_with_ipvs_the_kernel_does_what_the_oracle_says(
    node: Node, snapshot: Snapshot, facts: NodeFacts, rng: random.Random
) -> None:
    forwarding = ledger.of_snapshot(snapshot, facts)
    node.clear()  # connections of a former case would keep its addresses
    node.replace(forwarding)
    assert node.replace(forwarding) == 0
    assert_agree(node, forwarding, rng)
    proxy_equivalence.assert_agree_at_loopback(node.lab, forwarding)


@few
@given(snapshots(), snapshots(), st.randoms(use_true_random=False))
def test_virtual_servers_changed_step_by_step_do_what_the_oracle_says(
    node: Node, before: Snapshot, after: Snapshot, rng: random.Random
) -> None:
    node.clear()
    forwarding = node.walk((before, after), rng)
    node.replace(forwarding)  # the idle ones go
    assert node.replace(forwarding) == 0
    assert_agree(node, forwarding, rng)
