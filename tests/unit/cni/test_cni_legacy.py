"""The rules for iptables' legacy variant: their text, and that steps lead where a look at all of it would."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from netplane.kernel.conntrack import Flow
from netplane.kernel.errors import CommandFailed
from netplane.kernel.xtables import fake
from netplane.kernel.xtables.objects import Command
from netplane.model import address
from netplane_cni.plan import legacy, masquerade
from netplane_cni.plan.ipam import Lease
from netplane_cni.run.legacy import Legacy
from netplane_cni.run.translation import Translation
from netplane_cni.spec import PortMapping
from tests.support.cni_memory import Flows

PODS = address.prefix("10.244.1.0/24"), address.prefix("fd00:244:0:1::/64")
NODE = address.parse("172.30.0.11")
CLIENT = address.parse("10.9.0.1")


def lease(number: int, *ports: PortMapping) -> Lease:
    ips = address.parse(f"10.244.1.{number}"), address.parse(f"fd00:244:0:1::{number}")
    return Lease(f"c{number}", "eth0", f"np{number}", ips, b"\2" * 6, "boot", ports=ports)


WEB = lease(5, PortMapping("tcp", 80, 8080), PortMapping("tcp", 81, 8080))
DNS = lease(6, PortMapping("udp", 53, 5353, NODE))
SIGNALS = lease(7, PortMapping("sctp", 80, 80))


def facts(*leases: Lease, masquerades: bool = True, pods: tuple[address.Prefix, ...] = PODS) -> masquerade.Facts:
    inside = (address.prefix("10.244.0.0/16"),)
    return masquerade.Facts(pods, inside, leases, masquerades, (NODE,))


class Node:
    def __init__(self) -> None:
        self.kernel, self.flows = fake.Kernel(), Flows()
        self.facts = facts()
        self.rules = Translation(Legacy(self.kernel), self.flows, lambda: self.facts)

    async def holds(self, want: masquerade.Facts) -> bool:
        tables = legacy.tables(want)
        saved = [await self.kernel.save(command, legacy.PREFIX) for command in tables]
        return [legacy.changes(*pair) for pair in zip(tables.values(), saved, strict=True)] == [("", 0)] * 2


def test_a_nodes_rules_are_these() -> None:
    nat = legacy.tables(facts(WEB, DNS))["iptables"]["nat"]
    assert nat["PREROUTING"] == nat["OUTPUT"] == ("-m addrtype --dst-type LOCAL -j NP-CNI-PORTS",)
    assert nat["NP-CNI-PORTS"] == ("-d 127.0.0.0/8 -j RETURN", "-j NP-CNI-AT", "-j NP-CNI-ALL")
    assert nat["NP-CNI-AT"] == ("-d 172.30.0.11/32 -p udp -m udp --dport 53 -j DNAT --to-destination 10.244.1.6:5353",)
    assert nat["NP-CNI-ALL"] == (
        "-p tcp -m tcp --dport 80 -j DNAT --to-destination 10.244.1.5:8080",
        "-p tcp -m tcp --dport 81 -j DNAT --to-destination 10.244.1.5:8080",
    )
    assert nat["NP-CNI-HAIRPIN"] == (
        "-s 10.244.1.5/32 -d 10.244.1.5/32 -j MASQUERADE --random-fully",
        "-s 10.244.1.6/32 -d 10.244.1.6/32 -j MASQUERADE --random-fully",
    )
    assert nat["NP-CNI-OUTSIDE"] == (
        "-d 10.244.0.0/16 -j RETURN",
        "-d 224.0.0.0/4 -j RETURN",
        "-j MASQUERADE --random-fully",
    )
    six = legacy.tables(facts(WEB))["ip6tables"]
    assert six["nat"]["NP-CNI-ALL"][0].endswith("--to-destination [fd00:244:0:1::5]:8080")
    assert six["raw"]["NP-CNI-SOURCES"][-1] == "-m rpfilter --invert -j DROP"


def test_without_masquerade_only_a_pods_way_to_itself_is() -> None:
    nat = legacy.tables(facts(WEB, masquerades=False))["iptables"]["nat"]
    assert nat["NP-CNI-POSTROUTING"] == ("-j NP-CNI-HAIRPIN",)
    assert "NP-CNI-OUTSIDE" not in nat


def test_segments_are_held_only_where_pods_may_send_more_than_a_way_takes() -> None:
    assert "mangle" not in legacy.tables(facts())["iptables"]
    held = legacy.tables(replace(facts(), clamps=True))["iptables"]["mangle"]
    assert held["FORWARD"] == ("-j NP-CNI-SEGMENTS",)
    clamp = "-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu"
    assert held["NP-CNI-SEGMENTS"] == (f"-s 10.244.1.0/24 {clamp}", f"-d 10.244.1.0/24 {clamp}")


def test_a_family_without_pods_has_no_rules() -> None:
    assert legacy.tables(facts(WEB, pods=PODS[:1]))["ip6tables"] == {}


@pytest.mark.parametrize("order", list(itertools.permutations((WEB, DNS, SIGNALS))))
async def test_ports_that_come_and_go_one_by_one_lead_where_all_at_once_would(order: tuple[Lease, ...]) -> None:
    node = Node()
    await node.rules.bring_up_to_date(must_look=True)
    there: list[Lease] = []
    for one in order:
        there.append(one)
        node.facts = facts(*there)
        await node.rules.follow(None, one)
        assert await node.holds(node.facts)
    loads = node.kernel.loads
    assert await node.rules.bring_up_to_date() == 0
    assert await node.rules.bring_up_to_date(must_look=True) == 0
    assert node.kernel.loads == loads
    for one in order:
        there.remove(one)
        node.facts = facts(*there)
        await node.rules.follow(one, replace(one, is_leaving=True))
        assert await node.holds(node.facts)


async def test_a_lease_that_keeps_one_of_two_ports_keeps_its_way_to_itself() -> None:
    node = Node()
    node.facts = facts(WEB)
    await node.rules.bring_up_to_date(must_look=True)
    fewer = replace(WEB, ports=WEB.ports[:1])
    node.facts = facts(fewer)
    await node.rules.follow(WEB, fewer)
    assert await node.holds(node.facts)


async def test_what_others_broke_is_mended_and_what_is_theirs_stays() -> None:
    node = Node()
    node.facts = facts(WEB)
    await node.rules.bring_up_to_date(must_look=True)
    nat = node.kernel.tables["iptables"]["nat"]
    nat["PREROUTING"] = ["-j THEIRS"]
    nat["THEIRS"] = []
    nat["NP-CNI-ALL"].clear()
    nat["NP-CNI-STRAY"] = ["-j RETURN"]
    assert await node.rules.bring_up_to_date(must_look=True) == 3
    assert await node.holds(node.facts)
    assert nat["THEIRS"] == []
    assert node.kernel.tables["iptables"]["nat"]["PREROUTING"][0] == "-j THEIRS"


async def test_a_port_that_meets_a_missing_chain_has_all_compared() -> None:
    node = Node()
    await node.rules.bring_up_to_date(must_look=True)
    node.kernel.tables["iptables"]["nat"] = {name: [] for name in ("PREROUTING", "OUTPUT", "POSTROUTING")}
    node.facts = facts(WEB)
    await node.rules.follow(None, WEB)
    assert await node.holds(node.facts)


async def test_a_kernel_that_refuses_all_is_told_of() -> None:
    node = Node()

    async def refuse(command: Command, text: str) -> None:
        raise CommandFailed(0, "change iptables", "no", returncode=1)

    load, node.kernel.load = node.kernel.load, refuse  # type: ignore[method-assign]  # the fake's own step
    with pytest.raises(CommandFailed):
        await node.rules.bring_up_to_date()
    node.kernel.load = load  # type: ignore[method-assign]  # as it was
    assert await node.rules.bring_up_to_date() > 0
    assert await node.holds(node.facts)


async def test_networks_inside_are_followed() -> None:
    node = Node()
    await node.rules.bring_up_to_date(must_look=True)
    node.facts = replace(node.facts, inside=(address.prefix("10.0.0.0/8"),))
    assert await node.rules.follow_networks(lambda: {address.prefix("10.0.0.0/8"): True}) == 1
    assert await node.holds(node.facts)
    assert await node.rules.follow_networks(dict) == 0


async def test_flows_of_a_udp_port_that_changed_hands_are_forgotten() -> None:
    node = Node()
    await node.rules.bring_up_to_date(must_look=True)
    stale = Flow(17, CLIENT, 1000, NODE, 53, NODE, 53)
    other = Flow(17, CLIENT, 1000, NODE, 54, NODE, 54)
    node.flows.there = [stale, other]
    node.facts = facts(DNS)
    await node.rules.follow(None, DNS)
    assert node.flows.there == [other]
