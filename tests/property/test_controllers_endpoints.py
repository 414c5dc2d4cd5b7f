"""Laws of EndpointSlices: the same facts give the same bytes, and nobody is told twice or left out."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from netplane.controlplane.controllers import endpointslice, slices
from netplane.kube.types import ENDPOINTSLICES, NODES, PODS, SERVICES, Object
from tests.support import workloads
from tests.support.simulated_cluster import World

_PODS = st.lists(
    st.tuples(st.integers(2, 250), st.booleans(), st.booleans()), max_size=12, unique_by=lambda entry: entry[0]
)
STEPS = ((endpointslice.decide, SERVICES),)


def _pod(number: int, ready: bool, deleting: bool) -> Object:
    return workloads.pod(f"p{number}", f"10.244.0.{number}", ready=ready, deleting=deleting)


def _world() -> World:
    world = World()
    world.seed(NODES, workloads.node())
    world.seed(SERVICES, workloads.service())
    return world


def _bytes(world: World) -> bytes:
    kept = []
    for found in world.all(ENDPOINTSLICES):
        metadata = {name: found["metadata"][name] for name in ("name", "labels")}
        kept.append({**found, "metadata": metadata})
    return json.dumps(kept, sort_keys=True).encode()


@given(
    pods=_PODS,
    order=st.randoms(use_true_random=False),
    cut=st.integers(0, 12),
    seen=st.lists(st.integers(0, 3), max_size=12),
)
@settings(max_examples=60, deadline=None)
def test_any_order_of_events_gives_the_same_bytes(
    pods: list[tuple[int, bool, bool]], order: object, cut: int, seen: list[int]
) -> None:
    plain, shuffled = _world(), _world()
    for entry in pods:
        plain.seed(PODS, _pod(*entry))
    plain.settle(STEPS)
    mixed = list(pods)
    order.shuffle(mixed)  # type: ignore[attr-defined]  # hypothesis' Random
    for index, (number, ready, deleting) in enumerate(mixed):
        if index < cut:  # comes as something else first
            shuffled.seed(PODS, _pod(number, not ready, False))
            shuffled.remove(PODS, ("default", f"p{number}"))
        shuffled.seed(PODS, {**_pod(number, ready, deleting), "metadata": _pod(number, ready, deleting)["metadata"]})
        if index < len(seen):
            shuffled.deliver(PODS, seen[index])
            shuffled.act(endpointslice.decide, ("default", "web"))
    shuffled.settle(STEPS)
    assert _bytes(shuffled) == _bytes(plain)


@given(numbers=st.lists(st.integers(0, 999), min_size=1, max_size=400, unique=True), gone=st.sets(st.integers(0, 399)))
@settings(max_examples=15, deadline=None)
def test_every_pod_is_in_exactly_one_slice_of_at_most_a_hundred(numbers: list[int], gone: set[int]) -> None:
    world = _world()
    for number in numbers:
        world.seed(PODS, workloads.pod(f"p{number}", f"10.244.{number // 250}.{number % 250 + 2}"))
    world.settle(STEPS)
    for index in gone & set(range(len(numbers))):
        world.remove(PODS, ("default", f"p{numbers[index]}"))
    world.settle(STEPS)
    told = [endpoint["targetRef"]["name"] for found in world.all(ENDPOINTSLICES) for endpoint in found["endpoints"]]
    kept = [f"p{number}" for index, number in enumerate(numbers) if index not in gone]
    assert sorted(told) == sorted(kept)
    assert all(len(found["endpoints"]) <= slices.LIMIT for found in world.all(ENDPOINTSLICES))
    assert len([found for found in world.all(ENDPOINTSLICES) if not found["endpoints"]]) == (0 if kept else 1)
