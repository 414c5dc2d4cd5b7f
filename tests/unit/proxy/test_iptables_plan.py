"""The iptables compiler: few rules per packet, equal odds, names that fit, and changes that touch only what differs."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import pytest

from netplane.kernel.xtables.objects import NAME_MAX
from netplane.model import address
from netplane.model.address import Family
from netplane.model.service import Protocol
from netplane_proxy.plan.forwarding import Backend, Frontend, Kind, PortForwarding
from netplane_proxy.plan.iptables import book, layout, tree
from tests.support.clusters import NODE
from tests.support.ports import UDP, balancer, cluster_ip, forwarding, node_port, service_port

V4, V6 = Family.V4, Family.V6


def pods(*numbers: int, family: Family = V4) -> list[Backend]:
    base = "10.244.2." if family is V4 else "fd00:244:0:2::"
    return [Backend(address.parse(f"{base}{number}"), 8080) for number in numbers]


def web(*numbers: int, affinity: int = 0) -> PortForwarding:
    return service_port(cluster_ip(V4), cluster=pods(*numbers), affinity=affinity)


def many(count: int) -> dict[str, PortForwarding]:
    made = {}
    for number in range(count):
        ip = bytes((10, 96, *divmod(number, 256)))
        port = (
            Frontend(ip, Protocol.TCP, 80, Kind.INTERNAL),
            Frontend(None, Protocol.TCP, 30000 + number, Kind.EXTERNAL),
        )
        made[f"s{number}"] = service_port(*port, cluster=pods(1, 2, 3), name=f"s{number}", hairpin=[])
    return made


@pytest.mark.parametrize("count", [1, 2, 3, 7, 50, 1000])
def test_each_of_n_backends_gets_its_share_to_within_the_kernels_own_draw(count: int) -> None:
    left = Fraction(1)
    for index in range(count):
        words = layout.odds(count - index).split()
        share = Fraction(round(float(words[-1]) * 2**31), 2**31) if words else Fraction(1)
        assert abs(left * share - Fraction(1, count)) <= Fraction(1, 2**31)
        left *= 1 - share
    assert left == 0


@pytest.mark.parametrize("count", [1, 3, 7, 46341])
def test_odds_are_printed_as_the_kernels_number_is_listed(count: int) -> None:
    printed = layout.odds(count).split()[-1] if count > 1 else "1"
    assert f"{round(float(printed) * 2**31) / 2**31:.11f}" == f"{float(printed):.11f}"


def test_a_packet_for_no_service_meets_few_rules_however_many_services_there_are() -> None:
    made = book.of(forwarding(*many(3000).values(), node=NODE)).sides[V4]
    assert made.chains["nat"][layout.SERVICES] == (
        "-d 10.96.0.0/16 -j NETPLANE-D-10.96",
        "-d 172.30.0.11/32 -j NETPLANE-NODEPORTS",
    )
    longest = max(len(rules) for table in made.chains.values() for rules in table.values())
    assert longest <= 32


def test_one_endpoint_changes_one_chain() -> None:
    made = book.of(forwarding(*many(300).values(), node=NODE))
    port = many(300)["s7"]
    change = made.change({port.key: port._replace(cluster=tuple(pods(1, 2)))})
    (written,) = change[V4]["nat"].written
    assert list(change) == [V4]
    assert list(change[V4]) == ["nat"]
    assert written.startswith("NETPLANE-C-")


def test_a_service_that_comes_and_goes_leaves_the_chains_as_they_were() -> None:
    made = book.of(forwarding(*many(30).values(), node=NODE))
    before = {
        family: {table: dict(chains) for table, chains in side.chains.items()} for family, side in made.sides.items()
    }
    guest = service_port(
        cluster_ip(V6, 9), node_port(31000, protocol=UDP), balancer(V6, 9, ranges=["fd00::/16"], local=True),
        cluster=pods(1, family=V6), name="guest",
    )  # fmt: skip
    assert made.change({guest.key: guest})
    assert made.change({guest.key: None})
    assert {family: side.chains for family, side in made.sides.items()} == before


def test_a_place_may_pass_from_one_service_to_another_in_one_change() -> None:
    former, other = (service_port(node_port(30001), cluster=pods(1), name=name) for name in ("a", "b"))
    made = book.of(forwarding(former, node=NODE))
    made.change({other.key: other, former.key: None})
    assert made.sides[V4].chains == book.of(forwarding(other, node=NODE)).sides[V4].chains


def test_every_name_fits() -> None:
    names = [
        tree.by_destination(V4).name((28, bytes((255, 255, 255, 240)))),
        tree.by_port().name((20, b"\x84\xff\xf0")),
    ]
    names += [tree.by_source(V6).name((124, b"\xff" * 16)), layout.chain("C", "f" * 16), layout.REFUSED_NODEPORTS]
    assert all(len(name) <= NAME_MAX for name in names)


def test_affinity_asks_for_the_clients_backend_before_it_draws_one() -> None:
    made = book.of(forwarding(web(1, 2, affinity=60), node=NODE)).sides[V4]
    (rules,) = [rules for chain, rules in made.chains["nat"].items() if chain.startswith("NETPLANE-I-")]
    assert ["--update" in rule for rule in rules] == [False, True, True, False, False]
    assert all("--seconds 60 --reap" in rule for rule in rules if "--update" in rule)
    assert ["--set " in rule for rule in rules] == [False, False, False, True, True]


def test_networks_that_hold_everybody_need_no_match() -> None:
    everybody = (address.prefix("0.0.0.0/0"),)
    node = dataclasses.replace(NODE, pod_cidrs=everybody, service_cidrs=everybody)
    chains = book.of(forwarding(web(1), node=node)).sides[V4].chains
    assert chains["filter"][layout.REFUSE][-1] == "-j NETPLANE-REJECT"
    assert not any("0.0.0.0/0" in rule for table in chains.values() for rules in table.values() for rule in rules)
