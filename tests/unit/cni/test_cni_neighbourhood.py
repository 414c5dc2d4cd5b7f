"""A change of a few nodes gives what a look at all of them gives, or says that a look is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netplane.kernel.link import diff
from netplane.kernel.link.diff import Paths
from netplane.kernel.wireguard.objects import Peer, text
from netplane.model import address
from netplane.model.node import ZONE_LABEL, Node
from netplane_cni.plan import fabric, underlay, wireguard
from netplane_cni.plan.neighbourhood import Neighbourhood, Step, place
from netplane_cni.plan.settling import Settling

UNDERLAY = fabric.Underlay(2, 1500, (address.prefix("172.30.0.0/24"),))
LOCAL = {address.parse(ip): address.prefix(f"{ip}/24") for ip in ("172.30.0.1", "172.31.0.1", "10.0.2.15")}
MODES: tuple[fabric.Mode, ...] = ("vxlan", "direct", "auto", "wireguard", "bgp")
SETTINGS = st.sampled_from(
    [
        *(fabric.Settings(mode) for mode in MODES),
        fabric.Settings("wireguard", encryption="zones"),
    ]
)
NAT = address.parse("10.0.2.15")
VXLAN = fabric.Settings()
Answered = tuple[underlay.Question, ...]


@dataclass(frozen=True)
class Seen:
    """What a look at all nodes gives."""

    settled: Mapping[str, Node]
    plan: fabric.Plan
    paths: Paths
    peers: Mapping[bytes, Peer]
    reached: frozenset[bytes]


def packed(numbers: tuple[int, ...]) -> tuple[bytes, ...]:
    """Return addresses: 0 is the NAT's, others on one of three networks, of which two are this node's."""
    return tuple(dict.fromkeys(NAT if n == 0 else bytes([172, 30 + n % 3, 0, 1 + n // 3]) for n in numbers))


def cidr(number: int) -> address.Prefix:
    """Return a network of which some overlap others."""
    return address.prefix(f"10.244.{number // 2}.{number % 2 * 128}/{24 + number % 2}")


def look(
    nodes: Mapping[str, Node], settings: fabric.Settings, limits: Mapping[bytes, int], answered: Answered = ()
) -> Seen:
    settled = underlay.settle(nodes, "node-0", LOCAL, answered)
    me = settled["node-0"]
    plan = fabric.plan(settled, me, underlay=UNDERLAY, settings=settings)
    peers = wireguard.peers(plan.sealed, fabric.underlay_family(me))
    where = fabric.Where(UNDERLAY, 7, 9, limits)
    return Seen(settled, plan, fabric.paths(plan, me, where), peers, fabric.reached(plan, me))


class Followed:
    """What steps come to: the sum of all since the last look."""

    def __init__(
        self, nodes: Mapping[str, Node], settings: fabric.Settings, limits: Mapping[bytes, int], answered: Answered
    ) -> None:
        seen = look(nodes, settings, limits, answered)
        me = seen.settled["node-0"]
        self.around = Neighbourhood(
            Settling(nodes, "node-0", LOCAL, answered), seen.plan, me, settings, fabric.Where(UNDERLAY, 7, 9, limits)
        )
        self.place = place(me)
        self.paths, self.peers, self.reached = seen.paths, dict(seen.peers), seen.reached

    def take(self, step: Step) -> None:
        before = self.paths
        self.paths = Paths(
            before.routes - step.have.routes | step.want.routes,
            before.neighbours - step.have.neighbours | step.want.neighbours,
            before.forwards - step.have.forwards | step.want.forwards,
        )
        assert step.have.routes <= before.routes
        assert not step.come & self.reached
        assert step.gone <= self.reached
        self.reached = self.reached - step.gone | step.come
        for key, peer in step.peers.items():
            self.peers.pop(key, None)
            self.peers |= {key: peer} if peer is not None else {}

    def is_as(self, seen: Seen) -> bool:
        return (self.paths, self.peers, self.reached, dict(self.around.problems), self.around.settling.nodes) == (
            seen.paths, seen.peers, seen.reached, dict(seen.plan.problems), seen.settled
        )  # fmt: skip


@st.composite
def machines(draw: st.DrawFn) -> Node | None:
    if not draw(st.integers(0, 4)):
        return None
    annotations = {}
    if key := draw(st.integers(0, 4)):
        annotations = {wireguard.PUBLIC_KEY: text(bytes([key]) * 32), wireguard.PORT: str(draw(st.integers(1, 2)))}
        if following := draw(st.integers(0, 4)):
            annotations[wireguard.NEXT_KEY] = text(bytes([following]) * 32)
    if draw(st.booleans()):
        annotations[fabric.MAC_ANNOTATION] = f"02:00:00:00:00:{draw(st.integers(0, 2)):02}"
    zone = draw(st.sampled_from(("", "a", "b")))
    return Node(
        "",
        internal_ips=packed(tuple(draw(st.lists(st.integers(0, 20), max_size=3)))),
        pod_cidrs=tuple(cidr(n) for n in draw(st.lists(st.integers(0, 12), max_size=2))),
        labels={ZONE_LABEL: zone} if zone else {},
        annotations=annotations,
    )


MINE = st.tuples(st.booleans(), st.booleans(), st.sampled_from(("", "a")))
STEPS = st.lists(
    st.tuples(
        st.dictionaries(st.integers(1, 6), machines(), max_size=3),
        st.none() | MINE,
        st.dictionaries(st.integers(0, 8), st.sampled_from((None, 1300, 1400)), max_size=2),
    ),
    max_size=8,
)
ANSWERS = st.lists(st.tuples(st.sampled_from(sorted(LOCAL)), st.integers(0, 20)), max_size=3)


def mine(has_two: bool, has_nat: bool, zone: str) -> Node:
    ips = [*LOCAL][: 1 + has_two] + [NAT] * has_nat
    labels = {ZONE_LABEL: zone} if zone else {}
    return Node("node-0", internal_ips=tuple(ips), pod_cidrs=(address.prefix("10.244.200.0/24"),), labels=labels)


@given(SETTINGS, MINE, ANSWERS, STEPS)
def test_steps_lead_where_a_look_at_all_leads(
    settings: fabric.Settings,
    begin: tuple[bool, bool, str],
    heard: list[tuple[bytes, int]],
    course: list[tuple[dict[int, Node | None], tuple[bool, bool, str] | None, dict[int, int | None]]],
) -> None:
    answered = tuple((by, packed((to,))[0]) for by, to in heard)
    nodes, limits = {"node-0": mine(*begin)}, dict[bytes, int]()
    followed = Followed(nodes, settings, limits, answered)
    for others, me, narrow in course:
        changes = {f"node-{n}": replace(one, name=f"node-{n}") if one else None for n, one in others.items()}
        changes |= {"node-0": mine(*me)} if me else {}
        found = {packed((n,))[0]: limit for n, limit in narrow.items()}
        nodes = {name: one for name, one in {**nodes, **changes}.items() if one is not None}
        limits = {ip: limit for ip, limit in {**limits, **found}.items() if limit is not None}
        seen = look(nodes, settings, limits, answered)
        step = followed.around.follow(changes, found)
        if step is None:
            followed = Followed(nodes, settings, limits, answered)
            continue
        assert place(seen.settled["node-0"]) == followed.place
        followed.take(step)
        assert followed.is_as(seen)


def node(number: int, *, ip: int | None = None, cidr: int | None = None, **more: object) -> Node:
    where, pods = number if ip is None else ip, number if cidr is None else cidr
    made = Node(
        f"node-{number}",
        internal_ips=(address.parse(f"172.30.{where // 8}.{where % 8}"),),
        pod_cidrs=(address.prefix(f"10.244.{pods}.0/24"),),
    )
    return replace(made, **more)  # type: ignore[arg-type]  # fields of Node, checked by it


def begun(*nodes: Node, settings: fabric.Settings = VXLAN) -> Neighbourhood:
    listed = {one.name: one for one in nodes}
    return Followed(listed, settings, {}, ()).around


def test_a_node_that_joins_leaves_or_moves_costs_its_own_entries_alone() -> None:
    around = begun(node(0), node(1), node(2))
    joined = around.follow({"node-3": node(3)}, {})
    assert joined is not None
    assert len(diff.paths(joined.want, joined.have)) == 3
    left = around.follow({"node-3": None}, {})
    assert left is not None
    assert {command.verb for command in diff.paths(left.want, left.have)} == {"remove"}
    moved = around.follow({"node-2": node(2, ip=5)}, {})
    assert moved is not None
    assert [command.verb for command in diff.paths(moved.want, moved.have)] == ["replace"]


def test_a_node_in_anothers_way_is_named_and_comes_when_the_other_is_gone() -> None:
    around = begun(node(0), node(1), node(2))
    clashing = around.follow({"node-3": node(3, cidr=1)}, {})
    assert clashing is not None
    assert clashing.problems == {"node-3": "its pod network overlaps that of node-1"}
    assert diff.paths(clashing.want, clashing.have) == ()
    freed = around.follow({"node-1": None}, {})
    assert freed is not None
    assert freed.problems == {"node-3": ""}
    assert {address.text(f.remote) for f in freed.want.forwards} == {"172.30.0.3"}
    assert "add" not in {command.verb for command in diff.paths(freed.want, freed.have)}


def test_a_key_that_changes_hands_is_one_change_of_a_peer() -> None:
    key = {wireguard.PUBLIC_KEY: text(bytes(32)), wireguard.PORT: "1"}
    around = begun(node(0), node(1, annotations=key), settings=fabric.Settings("wireguard"))
    step = around.follow({"node-1": None, "node-2": node(2, annotations=key)}, {})
    assert step is not None
    found = step.peers[bytes(32)]
    assert found is not None
    assert {network.address for network in found.networks} == {address.parse("10.244.2.0")}


@pytest.mark.parametrize("mode", ["vxlan", "wireguard"])
def test_what_touches_this_nodes_own_place_needs_a_look_at_all(mode: fabric.Mode) -> None:
    settings = fabric.Settings(mode)
    assert begun(node(0), node(1), settings=settings).follow({"node-0": node(0, ip=6)}, {}) is None
    assert begun(node(0), node(1), settings=settings).follow({"node-0": None}, {}) is None


def test_a_node_with_two_addresses_looks_again_when_most_others_are_on_the_other_network() -> None:
    here, there = (
        [replace(node(n), internal_ips=(bytes([172, network, 0, 10 + n]),)) for n in (1, 2, 3)] for network in (30, 31)
    )
    me = replace(node(0), internal_ips=tuple([*LOCAL][:2]))
    assert begun(me, *here).follow({"node-1": there[0]}, {}) is not None
    assert begun(me, *here).follow({one.name: one for one in there}, {}) is None
