"""A change of a few nodes gives what a look at all of them gives, or says that a look is needed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netplane.kernel.link import diff
from netplane.kernel.link.diff import Paths
from netplane.model import address
from netplane.model.node import Node
from netplane_cni.plan import fabric, underlay
from netplane_cni.plan.neighbourhood import Neighbourhood, Where

UNDERLAY = fabric.Underlay(2, 1500, (address.prefix("172.30.0.0/24"),))
LIMITS = {address.parse("172.30.0.3"): 1400}
MODES = st.sampled_from(("vxlan", "direct", "auto"))


def node(number: int, *, ip: int | None = None, cidr: int | None = None, **more: object) -> Node:
    where, pods = number if ip is None else ip, number if cidr is None else cidr
    made = Node(
        f"node-{number}",
        internal_ips=(address.parse(f"172.30.{where // 8}.{where % 8}"),),
        pod_cidrs=(address.prefix(f"10.244.{pods}.0/24"),),
    )
    return replace(made, **more)  # type: ignore[arg-type]  # fields of Node, checked by it


def look(nodes: dict[str, Node], settings: fabric.Settings) -> tuple[fabric.Plan, Paths]:
    settled = underlay.settle(nodes, "node-0", {})
    me = settled["node-0"]
    plan = fabric.plan(settled, me, underlay=UNDERLAY, settings=settings)
    found = fabric.paths(plan, me, underlay=UNDERLAY, tunnel_index=7)
    return plan, fabric.narrowed(found, plan, me, limits=LIMITS)


def done(step_want: Paths, step_have: Paths, before: Paths) -> Paths:
    return Paths(
        before.routes - step_have.routes | step_want.routes,
        before.neighbours - step_have.neighbours | step_want.neighbours,
        before.forwards - step_have.forwards | step_want.forwards,
    )


rows = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(0, 9), st.booleans()), max_size=12)


@given(MODES, st.lists(rows, min_size=2, max_size=4))
def test_steps_lead_where_a_look_at_all_leads(
    mode: fabric.Mode, course: list[list[tuple[int, int, int, bool]]]
) -> None:
    settings = fabric.Settings(mode)
    known: dict[str, Node] = {"node-0": node(0)}
    around: Neighbourhood | None = None
    have = Paths()
    for state in course:
        nodes = {"node-0": known["node-0"]}
        for number, ip, cidr, has_pods in state:
            made = node(number, ip=ip, cidr=cidr) if has_pods else node(number, ip=ip, pod_cidrs=())
            kept = known.get(made.name)
            nodes[made.name] = kept if kept == made and kept is not None else made
        plan, want = look(nodes, settings)
        step = around.follow(nodes) if around is not None else None
        if step is None or around is None:
            around = Neighbourhood(nodes, plan, plan_me(nodes), settings, Where(UNDERLAY, 7, LIMITS))
            have = want
        else:
            have = done(step.want, step.have, have)
        assert diff.paths(want, have) == ()
        known = nodes


def plan_me(nodes: dict[str, Node]) -> Node:
    return underlay.settle(nodes, "node-0", {})["node-0"]


def begun(*nodes: Node) -> tuple[dict[str, Node], Neighbourhood]:
    listed = {one.name: one for one in nodes}
    plan, _ = look(listed, fabric.Settings())
    return listed, Neighbourhood(listed, plan, listed["node-0"], fabric.Settings(), Where(UNDERLAY, 7, {}))


def test_a_node_that_joins_leaves_or_moves_costs_its_own_entries_alone() -> None:
    listed, around = begun(node(0), node(1), node(2))
    joined = around.follow({**listed, "node-3": node(3)})
    assert joined is not None
    assert len(diff.paths(joined.want, joined.have)) == 3
    left = around.follow({**listed})
    assert left is not None
    assert {command.verb for command in diff.paths(left.want, left.have)} == {"remove"}
    moved = around.follow({**listed, "node-2": node(2, ip=5)})
    assert moved is not None
    assert [command.verb for command in diff.paths(moved.want, moved.have)] == ["replace"]


@pytest.mark.parametrize(
    "other",
    [node(3, ip=1), node(3, cidr=1), node(0, ip=6), node(3, internal_ips=(bytes(4), b"\1\1\1\1")), node(3, ip=0)],
)
def test_what_touches_others_needs_a_look_at_all(other: Node) -> None:
    listed, around = begun(node(0), node(1), node(2))
    assert around.follow({**listed, other.name: other}) is None
