"""What Services mean does not depend on how one learned of them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from netplane.model import address
from netplane.model.snapshot import Snapshot
from netplane_proxy.plan import ledger, oracle
from netplane_proxy.plan.forwarding import NodeFacts
from netplane_proxy.plan.meaning import Meaning
from tests.support.clusters import NODE
from tests.support.random_clusters import nodes, packets, snapshots


def take_all(meaning: Meaning, snapshot: Snapshot, order: list[int], *, settle_after: set[int]) -> None:
    """Bring the meaning to the snapshot, one fact at a time, settling in between where told."""
    wanted = [("service", key) for key in (*meaning.services, *snapshot.services)]
    wanted += [("slice", key) for key in ([("default", f"s{index}") for index in range(6)])]
    for step, at in enumerate(order):
        kind, key = wanted[at % len(wanted)]
        if kind == "service":
            meaning.take_service(key, snapshot.services.get(key))
        else:
            meaning.take_slice(key, snapshot.slices.get(key))
        if step in settle_after:
            meaning.settle()


@settings(max_examples=40, deadline=None)
@given(st.data(), snapshots(), snapshots(), nodes())
def test_any_order_batch_and_repetition_ends_in_the_same_rows(
    data: st.DataObject, before: Snapshot, after: Snapshot, node: NodeFacts
) -> None:
    meaning = Meaning(NODE)
    for snapshot in (before, after):
        count = len(meaning.services) + len(snapshot.services) + 6
        order = data.draw(st.permutations(range(count))) + data.draw(st.lists(st.integers(0, count - 1), max_size=5))
        take_all(meaning, snapshot, order, settle_after=data.draw(st.sets(st.integers(0, len(order)))))
    meaning.take_node(node)
    meaning.settle()
    assert meaning.forwarding("1").ports == ledger.of_snapshot(after, node).ports


@settings(max_examples=40, deadline=None)
@given(snapshots(), snapshots())
def test_the_steps_of_a_change_lead_from_the_old_rows_to_the_new(before: Snapshot, after: Snapshot) -> None:
    meaning = Meaning(NODE)
    rows: dict[object, object] = {}
    for snapshot in (before, after):
        for key in {*meaning.services, *snapshot.services}:
            meaning.take_service(key, snapshot.services.get(key))
        for index in range(6):
            meaning.take_slice(("default", f"s{index}"), snapshot.slices.get(("default", f"s{index}")))
        for port, step in meaning.settle().items():
            assert rows.get(port) == step.former
            assert step.former != step.now
            if step.now is None:
                del rows[port]
            else:
                rows[port] = step.now
    assert rows == ledger.of_snapshot(after, NODE).ports


@settings(max_examples=40, deadline=None)
@given(snapshots(), nodes())
def test_no_place_has_two_owners(snapshot: Snapshot, node: NodeFacts) -> None:
    ports = ledger.of_snapshot(snapshot, node).ports
    places = [(row.key.family, frontend.place) for row in ports.values() for frontend in row.frontends]
    assert len(places) == len(set(places))


@settings(max_examples=40, deadline=None)
@given(snapshots(), nodes())
def test_local_policy_never_leaves_the_node_for_outsiders(snapshot: Snapshot, node: NodeFacts) -> None:
    forwarding = ledger.of_snapshot(snapshot, node)
    asked = oracle.Oracle(forwarding)
    here = address.prefix("10.244.1.0/24"), address.prefix("fd00:244:0:1::/64")
    for packet in packets(forwarding):
        verdict = asked.verdict(packet)
        assert verdict.reason
        assert (verdict.action is oracle.Action.DNAT) == bool(verdict.outcomes)
        if "keeps to this node's backends and the client's address" in verdict.reason:
            assert not any(outcome.masquerade for outcome in verdict.outcomes if outcome.backend.ip != packet.source)
            assert all(address.any_contains(here, outcome.backend.ip) for outcome in verdict.outcomes)
