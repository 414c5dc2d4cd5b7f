"""The iptables rules do with every packet what the oracle says, however they came to be."""

from __future__ import annotations

import dataclasses

from hypothesis import given, settings

from netplane.kernel.xtables import diff
from netplane.model import address
from netplane.model.address import Family
from netplane.model.snapshot import Snapshot
from netplane_proxy.plan import ledger, oracle
from netplane_proxy.plan.forwarding import Backend, Forwarding, NodeFacts
from netplane_proxy.plan.iptables import book, frame
from netplane_proxy.plan.meaning import Meaning
from tests.support.clusters import NODE
from tests.support.random_clusters import nodes, packets, snapshots
from tests.support.xtables_simulator import Simulator, judge

few = settings(max_examples=20, deadline=None)


def assert_agree(made: book.Book, forwarding: Forwarding) -> None:
    """Compare oracle and rules on every packet."""
    asked = oracle.Oracle(forwarding)
    simulators = {family: Simulator(made.sides[family].chains) for family in Family}
    for packet in packets(forwarding):
        said = asked.verdict(packet)
        said = dataclasses.replace(said, outcomes=tuple(sorted(said.outcomes)))
        done = judge(simulators[address.family(packet.destination)], packet)
        assert done == said, f"{packet}: the oracle says {said}, the rules {done}"


def assert_whole(made: book.Book) -> None:
    """No rule leads to a chain that is not there, and no Service port has a chain that nothing leads to."""
    for family, side in made.sides.items():
        always = frame.chains(frame.of_node(made.node, family))
        for table, chains in side.chains.items():
            goals = {rule.rpartition("-j ")[2] for rules in chains.values() for rule in rules if "-j NETPLANE-" in rule}
            assert goals | always[table].keys() == chains.keys()


@few
@given(snapshots(), nodes())
def test_the_iptables_rules_do_what_the_oracle_says(snapshot: Snapshot, node: NodeFacts) -> None:
    forwarding = ledger.of_snapshot(snapshot, node)
    made = book.of(forwarding)
    assert_agree(made, forwarding)
    assert_whole(made)


@few
@given(snapshots(), snapshots(), nodes())
def test_iptables_rules_changed_step_by_step_are_those_made_at_once(
    before: Snapshot, after: Snapshot, node: NodeFacts
) -> None:
    meaning = Meaning(node)
    made = book.Book(node)
    for snapshot in (before, after):
        for key in sorted({*meaning.services, *snapshot.services}):
            meaning.take_service(key, snapshot.services.get(key))
            made.change({port: step.now for port, step in meaning.settle().items()})
        for key in [("default", f"s{index}") for index in range(6)]:
            meaning.take_slice(key, snapshot.slices.get(key))
            made.change({port: step.now for port, step in meaning.settle().items()})
    at_once = book.of(meaning.forwarding("2"))
    for family in Family:
        assert diff.tables(at_once.sides[family].chains, made.sides[family].chains) == {}


@few
@given(snapshots())
def test_a_client_comes_back_to_its_backend_by_iptables(snapshot: Snapshot) -> None:
    forwarding = ledger.of_snapshot(snapshot, NODE)
    asked = oracle.Oracle(forwarding)
    made = book.of(forwarding)
    for packet in packets(forwarding)[::2]:
        said = asked.verdict(packet)
        key = asked.affinity_key(packet)
        if key is None or said.action is not oracle.Action.DNAT:
            continue
        simulator = Simulator(made.sides[address.family(packet.destination)].chains)
        first = simulator.connect(packet, [0, 1])
        chosen = Backend(first.destination, first.port)
        assert {one.backend for one in said.outcomes} >= {chosen}
        assert [one.backend for one in judge(simulator, packet).outcomes] == [chosen]
