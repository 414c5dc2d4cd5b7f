"""The nftables rules do with every packet what the oracle says, however they came to be."""

from __future__ import annotations

import dataclasses

from hypothesis import given, settings

from netplane.model import address
from netplane.model.address import Family
from netplane.model.service import Protocol
from netplane.model.snapshot import Snapshot
from netplane_proxy.plan import ledger, oracle
from netplane_proxy.plan.forwarding import Backend, Forwarding, NodeFacts
from netplane_proxy.plan.meaning import Meaning
from tests.support.clusters import NODE
from tests.support.nft_simulator import Simulator
from tests.support.nft_tables import Tables, judge
from tests.support.random_clusters import (
    at,
    loopback_packets,
    nodes,
    nodes_with_loopback,
    packets,
    snapshots,
)


def assert_agree(tables: Tables, forwarding: Forwarding) -> None:
    """Compare oracle and rules on every packet."""
    asked = oracle.Oracle(forwarding)
    simulators = {family: tables.simulator(family) for family in Family}
    for packet in packets(forwarding) + loopback_packets(forwarding):
        said = asked.verdict(packet)
        said = dataclasses.replace(said, outcomes=tuple(sorted(said.outcomes)))
        done = judge(simulators[address.family(packet.destination)], packet)
        assert done == said, f"{packet}: the oracle says {said}, the rules {done}"
    assert_agree_on_strays(asked, simulators, forwarding)


def assert_agree_on_strays(asked: oracle.Oracle, simulators: dict[Family, Simulator], forwarding: Forwarding) -> None:
    """Compare what becomes of INVALID packets, of those who serve and of those who do not."""
    serving = {one for row in forwarding.ports.values() for one in (*row.cluster, *row.local)}
    others = [Backend(at(family, place, 9), 8080) for family in Family for place in ("here", "client")]
    for sender in sorted(serving) + others:
        for protocol in Protocol:
            said = asked.stray(sender, protocol)
            for hook in ("postrouting", "input"):
                done = simulators[address.family(sender.ip)].stray(sender.ip, protocol, sender.port, hook)
                assert done == ("drop" if said.action is oracle.Action.DROP else "accept"), said


@settings(max_examples=30, deadline=None)
@given(snapshots(), nodes())
def test_the_rules_do_what_the_oracle_says(snapshot: Snapshot, node: NodeFacts) -> None:
    forwarding = ledger.of_snapshot(snapshot, node)
    tables = Tables()
    tables.replace(forwarding)
    assert_agree(tables, forwarding)


@settings(max_examples=30, deadline=None)
@given(snapshots(), nodes_with_loopback())
def test_the_rules_at_the_loopback_address_do_what_the_oracle_says(snapshot: Snapshot, node: NodeFacts) -> None:
    forwarding = ledger.of_snapshot(snapshot, node)
    tables = Tables()
    tables.replace(forwarding)
    assert_agree(tables, forwarding)


@settings(max_examples=30, deadline=None)
@given(snapshots(), snapshots(), nodes())
def test_rules_changed_step_by_step_do_what_the_oracle_says(before: Snapshot, after: Snapshot, node: NodeFacts) -> None:
    meaning = Meaning(node)
    tables = Tables()
    tables.replace(meaning.forwarding("0"))
    for snapshot in (before, after):
        for key in sorted({*meaning.services, *snapshot.services}):
            meaning.take_service(key, snapshot.services.get(key))
            tables.commit({port: step.now for port, step in meaning.settle().items()})
        for key in [("default", f"s{index}") for index in range(6)]:
            meaning.take_slice(key, snapshot.slices.get(key))
            tables.commit({port: step.now for port, step in meaning.settle().items()})
    assert_agree(tables, meaning.forwarding("2"))


@settings(max_examples=30, deadline=None)
@given(snapshots(), snapshots(), nodes())
def test_adopted_rules_do_what_the_oracle_says(before: Snapshot, after: Snapshot, node: NodeFacts) -> None:
    tables = Tables()
    tables.replace(ledger.of_snapshot(before, NODE))
    forwarding = ledger.of_snapshot(after, node)
    tables.replace(forwarding)
    assert_agree(tables, forwarding)
    assert tables.replace(forwarding) == 0


@settings(max_examples=30, deadline=None)
@given(snapshots())
def test_a_client_comes_back_to_its_backend_as_long_as_it_serves(snapshot: Snapshot) -> None:
    forwarding = ledger.of_snapshot(snapshot, NODE)
    rows = {spot: row for spot, (row, _) in ledger.by_place(forwarding.ports).items()}
    asked = oracle.Oracle(forwarding)
    tables = Tables()
    tables.replace(forwarding)
    for packet in packets(forwarding)[::2]:
        family = address.family(packet.destination)
        place = next((spot for spot in rows if spot[1][1:] == (packet.protocol, packet.port) and spot[0] is family
                      and spot[1].address in (packet.destination, b"")), None)  # fmt: skip
        said = asked.verdict(packet)
        if place is None or not rows[place].affinity_seconds or said.action is not oracle.Action.DNAT:
            continue
        simulator = tables.simulator(family)
        first = simulator.connect(
            packet.source, packet.destination, packet.protocol, packet.port, from_node=packet.from_node, draw=1
        )
        chosen = Backend(first.destination, first.port)
        assert {one.backend for one in said.outcomes} >= {chosen}
        assert [one.backend for one in judge(simulator, packet).outcomes] == [chosen]
