"""How large a packet a path takes: the search for it, and what routes say then."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netplane.kernel.link.objects import Route, describe
from netplane.model import address
from netplane.model.node import Node
from netplane_cni.plan import fabric, probes, wireguard

FAMILIES = st.sampled_from(list(address.Family))


def search(family: address.Family, full: int, takes: int) -> tuple[int | None, int]:
    """Search on a path that takes so much; return what was found and after how many questions."""
    state, count = probes.begin(family, full), 0
    while size := state.size:
        state, count = probes.learn(state, is_answered=size <= takes), count + 1
    return state.found, count


@given(FAMILIES, st.integers(1280, 9000), st.integers(1280, 9000))
def test_the_largest_packet_is_found_in_a_few_questions(family: address.Family, full: int, takes: int) -> None:
    found, count = search(family, full, takes)
    assert found == min(full, takes)
    assert count <= 16


@pytest.mark.parametrize("family", list(address.Family))
def test_a_path_that_answers_nothing_says_nothing(family: address.Family) -> None:
    assert search(family, 1500, 0) == (None, 2)


def test_a_path_as_wide_as_the_link_takes_one_question() -> None:
    assert search(address.Family.V4, 1500, 1500) == (1500, 1)


def node(number: int) -> Node:
    return Node(
        f"node-{number}",
        internal_ips=(address.parse(f"172.30.{number}.1"), address.parse(f"fd00:{number}::1")),
        pod_cidrs=(address.prefix(f"10.244.{number}.0/24"), address.prefix(f"fd00:244:0:{number}::/64")),
    )


@pytest.mark.parametrize(
    "mode, mtus",
    [("vxlan", (1350, 1350)), ("direct", (1400, 1300)), ("auto", (1400, 1350)), ("wireguard", (1340, 1340))],
)
def test_routes_on_a_narrow_path_say_what_it_takes(mode: fabric.Mode, mtus: tuple[int, int]) -> None:
    key = {wireguard.PUBLIC_KEY: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", wireguard.PORT: "1"}
    nodes = {f"node-{n}": replace(node(n), annotations=key) for n in (1, 2, 3)}
    underlay = fabric.Underlay(2, 1500, (address.prefix("172.30.0.0/16"),))
    me = nodes["node-1"]
    plan = fabric.plan(nodes, me, underlay=underlay, settings=fabric.Settings(mode))
    limits = {address.parse("172.30.2.1"): 1400, address.parse("fd00:2::1"): 1300}
    wide = fabric.paths(plan, me, fabric.Where(underlay, 7, 9))
    found = fabric.paths(plan, me, fabric.Where(underlay, 7, 9, limits))
    narrow = {(r.network, r.length): r.mtu for r in found.routes if r.mtu}
    assert narrow == dict(zip(nodes["node-2"].pod_cidrs, mtus, strict=True))
    assert {replace(r, mtu=0) for r in found.routes} == wide.routes
    assert address.parse("172.30.3.1") in fabric.reached(plan, me)


def test_a_route_tells_its_mtu() -> None:
    assert describe(Route(b"\n\0\0\0", 8, 2, mtu=1300)) == "route 10.0.0.0/8 dev 2 mtu 1300"
