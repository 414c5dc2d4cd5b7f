"""The text of the iptables rules, and what they make of the packets of every golden case.

After a wanted change: `NETPLANE_GOLDEN=write pytest tests/golden/test_iptables_golden.py`, and look at the difference.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from netplane.kernel.xtables import diff, objects
from netplane.model import address
from netplane.model.address import Family
from netplane_proxy.plan import ledger, oracle
from netplane_proxy.plan.iptables import book
from tests.golden.test_proxy_cases import CASES, snapshot
from tests.support import golden
from tests.support.clusters import NODE, backend
from tests.support.ports import UDP, balancer, cluster_ip, forwarding, node_port, service_port
from tests.support.xtables_simulator import Simulator, judge

FOLDER = Path(__file__).parent / "iptables"


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_by_iptables_packets_go_where_the_case_says(path: Path) -> None:
    case = yaml.safe_load(path.read_text())
    made = book.of(ledger.of_snapshot(snapshot(case["objects"]), NODE))
    for text, expected in case["packets"].items():
        packet = oracle.parse(text, NODE)
        done = judge(Simulator(made.sides[address.family(packet.destination)].chains), packet)
        assert str(done).partition(" (")[0] == expected, text


@pytest.mark.parametrize(("interfaces", "match"), [("cbr0", "-i cbr0"), ("veth*", "-i veth+")])
def test_pods_known_by_interface_are_matched_by_it_and_by_nothing_else(interfaces: str, match: str) -> None:
    ends = [backend(f"10.244.{node}.5:8080") for node in (1, 2)]
    ports = service_port(cluster_ip(Family.V4), node_port(local=True), cluster=ends, local=ends[:1], hairpin=[])
    nodes = NODE, dataclasses.replace(NODE, pod_cidrs=(), pod_interfaces=interfaces)
    plain, named = (objects.text(diff.tables(book.of(forwarding(ports, node=node)).sides[Family.V4].chains, {}))
                    for node in nodes)  # fmt: skip
    assert named == plain.replace("-s 10.244.0.0/16", match) != plain


def test_the_text_is_what_people_know() -> None:
    """One Service of everything: the listing is that of iptables-save, for it is compared with it."""
    ends = [backend(f"10.244.{node}.5:8080") for node in (1, 2, 3)]
    allowed = balancer(Family.V4, 2, local=True, ranges=["172.31.0.0/24"])
    ports = [
        service_port(cluster_ip(Family.V4), cluster=ends, name="web", hairpin=[ends[0].ip]),
        service_port(cluster_ip(Family.V4, 2), node_port(30080, local=True), allowed, cluster=ends, local=ends[:1],
                     name="outside", hairpin=[]),
        service_port(cluster_ip(Family.V4, 3, protocol=UDP), cluster=ends[:2], affinity=60, name="sticky", hairpin=[]),
        service_port(cluster_ip(Family.V4, 4), node_port(30084), name="nobody"),
    ]  # fmt: skip
    made = book.of(forwarding(*ports, node=NODE)).sides[Family.V4]
    printed = objects.text(diff.tables(made.chains, {}))
    golden.check(FOLDER / "everything.txt", printed)
