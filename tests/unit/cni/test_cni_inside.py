"""The networks inside the cluster are kept as few blocks, whatever the order in which nodes come and go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netplane.model import address
from netplane.model.node import Node
from netplane_cni.plan import masquerade
from netplane_cni.plan.inside import Inside

NETWORKS = st.tuples(st.integers(0, 31), st.integers(26, 31)).map(lambda row: network(*row))
STEPS = st.lists(st.tuples(st.integers(0, 5), st.lists(NETWORKS, max_size=2)), max_size=30)


def network(number: int, length: int) -> address.Prefix:
    return address.prefix(f"10.0.0.{number * 8 >> (32 - length) << (32 - length)}/{length}")


def node(number: int, *cidrs: address.Prefix) -> Node:
    return Node(f"node-{number}", pod_cidrs=cidrs)


@given(STEPS, st.lists(NETWORKS, max_size=2))
def test_the_blocks_are_those_that_a_look_at_all_nodes_gives(
    steps: list[tuple[int, list[address.Prefix]]], always: list[address.Prefix]
) -> None:
    inside, nodes, held = Inside(always), dict[str, Node](), set[address.Prefix]()
    for number, cidrs in steps:
        one = node(number, *cidrs)
        nodes = {**nodes, one.name: one} if cidrs else {n: o for n, o in nodes.items() if n != one.name}
        inside.follow({one.name: one if cidrs else None})
        wanted = masquerade.merged([*always, *(cidr for one in nodes.values() for cidr in one.pod_cidrs)])
        assert list(inside.networks) == wanted
        for block, is_there in inside.take().items():
            (held.add if is_there else held.discard)(block)
        assert held == set(wanted)


def test_nodes_that_fill_a_network_are_one_block_and_one_that_leaves_splits_it() -> None:
    nodes = {
        f"node-{n}": node(n, address.prefix(f"10.0.{n}.0/24"), address.prefix(f"fd00:0:0:{n}::/64")) for n in range(8)
    }
    inside = Inside()
    inside.follow(nodes)
    assert list(map(str, inside.networks)) == ["10.0.0.0/21", "fd00::/61"]
    same = inside.networks
    inside.follow(dict(nodes))
    assert inside.networks is same
    inside.take()
    inside.follow({"node-5": None})
    assert [str(one) for one in inside.networks if one.family is address.Family.V4] == [
        "10.0.0.0/22", "10.0.4.0/24", "10.0.6.0/23"
    ]  # fmt: skip
    assert {str(one): is_there for one, is_there in inside.take().items() if one.family is address.Family.V4} == {
        "10.0.0.0/21": False, "10.0.0.0/22": True, "10.0.4.0/24": True, "10.0.6.0/23": True
    }  # fmt: skip
