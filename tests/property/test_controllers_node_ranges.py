"""Laws of the Nodes' address ranges."""

from __future__ import annotations

from ipaddress import ip_network
from itertools import combinations
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from netplane.controlplane.controllers import nodeipam
from netplane.controlplane.controllers.config import ControllerConfig
from netplane.kube.types import NODES
from tests.support import workloads
from tests.support.simulated_cluster import World

CONFIG = ControllerConfig(cluster_cidrs=("10.244.0.0/20", "fd00:244::/56"), node_mask_v4=24, node_mask_v6=64)
_EVENT = st.tuples(st.sampled_from(["come", "go", "decide", "see", "restart"]), st.integers(0, 30))


def _decide(view: Any, key: Any, now: Any) -> Any:
    return nodeipam.decide(view, key, now, config=CONFIG)


@given(events=st.lists(_EVENT, max_size=80))
@settings(max_examples=80, deadline=None)
def test_ranges_never_overlap_and_never_change(events: list[tuple[str, int]]) -> None:
    world = World()
    given_away: dict[str, list[str]] = {}
    for kind, number in events:
        key = ("", f"node-{number}")
        match kind:
            case "come" if (NODES, key) not in world.objects:
                node = workloads.node(key[1])
                del node["metadata"]["uid"]
                world.seed(NODES, node)
            case "go":
                world.remove(NODES, key)
                given_away.pop(key[1], None)
            case "decide":
                world.act(_decide, key)
            case "see":
                world.deliver(NODES, number)
            case _:
                world.deliver_all()
                world.view = type(world.view)([(NODES, node) for node in world.all(NODES)])
        _check(world, given_away)


def _check(world: World, given_away: dict[str, list[str]]) -> None:
    held = []
    for node in world.all(NODES):
        ranges = node["spec"].get("podCIDRs")
        if not ranges:
            continue
        assert given_away.setdefault(node["metadata"]["name"], ranges) == ranges
        held += [ip_network(text) for text in ranges]
    assert not any(one.version == other.version and one.overlaps(other) for one, other in combinations(held, 2))


@given(taken=st.lists(st.tuples(st.integers(0, 4095), st.integers(22, 32)), max_size=12))
def test_what_is_free_is_found_wherever_foreign_ranges_lie(taken: list[tuple[int, int]]) -> None:
    cluster = ip_network("10.244.0.0/20")
    held = [ip_network((int(cluster.network_address) + at, mask), strict=False) for at, mask in taken]
    found = nodeipam.first_free(cluster, 24, held)
    free = [part for part in cluster.subnets(new_prefix=24) if not any(part.overlaps(other) for other in held)]
    assert found == (free[0] if free else None)
