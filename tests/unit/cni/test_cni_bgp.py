"""What BIRD is told: only addresses and numbers, never to pass on what others announce, and nothing of other nodes."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from netplane.kernel import bird
from netplane.model import address
from netplane.model.node import Node
from netplane_cni.plan import bgp, fabric

UNDERLAY = fabric.Underlay(2, 1500, (address.prefix("172.30.0.0/24"), address.prefix("fd00:30::/64")))


def node(number: int, *, link: int = 0, **more: object) -> Node:
    made = Node(
        f"node-{number}",
        internal_ips=(address.parse(f"172.30.{link}.{number}"), address.parse(f"fd00:30:0:{link}::{number}")),
        pod_cidrs=(address.prefix(f"10.244.{number}.0/24"), address.prefix(f"fd00:244:0:{number}::/64")),
    )
    return replace(made, **more)  # type: ignore[arg-type]  # fields of Node, checked by it


def told(me: Node, *, inside: tuple[str, ...] = (), **settings: object) -> str:
    found = bgp.Settings(**settings)  # type: ignore[arg-type]  # its own fields
    return bgp.text(me, underlay=UNDERLAY, settings=found, inside=tuple(address.prefix(one) for one in inside))


def check(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bird.conf"
    path.write_text(text)
    done = subprocess.run([bird.find(), "-p", "-c", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + text


SIX = (address.parse("fd00:30::1"),)
ROUTERS = (bgp.peer("172.30.0.254:64513"), bgp.peer("[fd00:9::1]:4200000000"))


@pytest.mark.parametrize(
    "text",
    [
        told(node(1)),
        told(node(1), peers=ROUTERS, bfd=True),
        told(node(1), peers=ROUTERS, inside=("10.244.0.0/16", "fd00:244::/48")),
        told(node(1, internal_ips=SIX), peers=ROUTERS),
        told(replace(node(1), pod_cidrs=(address.prefix("10.244.1.0/24"),)), peers=(bgp.peer("::1:5"),)),
        bgp.silence(None),
        bgp.silence(node(1)),
    ],
)
def test_bird_takes_it(tmp_path: Path, text: str) -> None:
    check(tmp_path, text)


def test_the_same_routers_in_any_order_give_the_same_text() -> None:
    assert told(node(1), peers=ROUTERS) == told(node(1), peers=ROUTERS[::-1])


def test_routers_on_the_link_are_asked_straight_and_others_over_hops() -> None:
    text = told(node(1), peers=ROUTERS)
    near, far = text.split("protocol bgp ")[1:]
    assert "neighbor 172.30.0.254 as 64513;\n  direct;" in near
    assert "neighbor fd00:9::1 as 4200000000;\n  multihop;" in far


def test_this_node_s_own_networks_are_taken_from_nobody() -> None:
    text = told(node(1), inside=("10.244.0.0/16",))
    assert "filter routers4 { if net ~ [ 10.244.1.0/24+ ] then reject; if net ~ [ 10.244.0.0/16+ ] then" in text


def nodes_of(*listed: Node) -> tuple[dict[str, Node], Node]:
    return {one.name: one for one in listed}, listed[0]


def ways(listed: Mapping[str, Node], me: Node, **settings: object) -> dict[str, str]:
    """Return where packets go by routes of ours, by network."""
    found = fabric.Settings("bgp", **settings)  # type: ignore[arg-type]  # its own fields
    plan = fabric.plan(listed, me, underlay=UNDERLAY, settings=found)
    routes = fabric.paths(plan, me, fabric.Where(UNDERLAY)).routes
    return {str(address.Prefix(r.network, r.length)): address.text(r.via) for r in routes if r.via}


def test_nodes_on_the_link_are_reached_straight_and_those_beyond_a_router_are_its_matter() -> None:
    assert ways(*nodes_of(node(1), node(2), node(3, link=1))) == {
        "10.244.2.0/24": "172.30.0.2",
        "fd00:244:0:2::/64": "fd00:30::2",
    }


def test_without_mesh_all_nodes_are_the_routers_matter() -> None:
    assert ways(*nodes_of(node(1), node(2)), mesh=False) == {}


def test_of_two_nodes_with_one_network_one_is_reached() -> None:
    same = node(3, pod_cidrs=node(2).pod_cidrs)
    assert set(ways(*nodes_of(node(1), node(2), same)).values()) == {"172.30.0.2", "fd00:30::2"}


def test_routers_of_a_node_come_from_its_annotation_too() -> None:
    mine = node(1, annotations={bgp.PEERS_ANNOTATION: "172.30.0.254:64513, fd00::1:64514"})
    assert "neighbor 172.30.0.254 as 64513" in told(mine)
    assert "neighbor fd00::1 as 64514" in told(mine)


@pytest.mark.parametrize(
    "written", ["172.30.0.1", "172.30.0.1:0", "172.30.0.1:x", "router:64512", '1.1.1.1:1; include "/etc/shadow"', ""]
)
def test_what_is_no_peer_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="is no BGP peer"):
        bgp.peer(written)


def test_an_annotation_that_makes_no_sense_is_named() -> None:
    with pytest.raises(ValueError, match=bgp.PEERS_ANNOTATION):
        told(node(1, annotations={bgp.PEERS_ANNOTATION: "x"}))


def test_a_node_without_ipv4_has_a_router_id_all_the_same() -> None:
    assert "router id 0.0.0.1;" in told(node(1, internal_ips=SIX))
