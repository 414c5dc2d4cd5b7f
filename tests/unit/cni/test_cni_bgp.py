"""What BIRD is told: only addresses and numbers, never to pass on what others announce."""

from __future__ import annotations

import subprocess
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


def told(*nodes: Node, inside: tuple[str, ...] = (), **settings: object) -> str:
    found = bgp.Settings(**settings)  # type: ignore[arg-type]  # its own fields
    listed = {one.name: one for one in nodes}
    prefixes = tuple(address.prefix(one) for one in inside)
    return bgp.text(listed, nodes[0], underlay=UNDERLAY, settings=found, inside=prefixes)


def check(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bird.conf"
    path.write_text(text)
    done = subprocess.run([bird.find(), "-p", "-c", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + text


SIX = (address.parse("fd00:30::1"),)


@pytest.mark.parametrize(
    "text",
    [
        told(node(1), node(2), peers=(bgp.peer("172.30.0.254:64513"), bgp.peer("[fd00:9::1]:4200000000")), bfd=True),
        told(node(1), node(2), inside=("10.244.0.0/16", "fd00:244::/48"), mesh=False),
        told(node(1, internal_ips=SIX), replace(node(2), internal_ips=(address.parse("fd00:30::2"),))),
        told(replace(node(1), pod_cidrs=(address.prefix("10.244.1.0/24"),)), node(2), peers=(bgp.peer("::1:5"),)),
        bgp.silence(None),
        bgp.silence(node(1)),
    ],
)
def test_bird_takes_it(tmp_path: Path, text: str) -> None:
    check(tmp_path, text)


def test_the_same_nodes_in_any_order_give_the_same_text() -> None:
    one, two, three = node(1), node(2), node(3)
    assert told(one, two, three) == told(one, three, two)


def test_nodes_on_the_link_are_peers_and_those_beyond_a_router_are_not() -> None:
    text = told(node(1), node(2), node(3, link=1))
    assert "neighbor 172.30.0.2 as 64512" in text
    assert "172.30.1.3" not in text


def test_of_a_node_only_its_own_pod_networks_are_taken() -> None:
    text = told(node(1), node(2))
    assert "filter node_ac1e0002_4 { if net ~ [ 10.244.2.0/24 ] then accept; reject; }" in text


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
