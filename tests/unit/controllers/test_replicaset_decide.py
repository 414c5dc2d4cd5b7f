"""What a ReplicaSet does next."""

from __future__ import annotations

import pytest

from netplane.controlplane.controllers import pods, replicaset, writes
from netplane.controlplane.controllers.view import controller_uid
from netplane.kube.types import PODS, REPLICASETS, Object
from tests.support import workloads
from tests.support.simulated_cluster import BEGIN, World

KEY = ("default", "web")
STEPS = ((replicaset.decide, REPLICASETS),)


def test_orphans_that_match_are_adopted_before_any_pod_is_made() -> None:
    world = World()
    world.seed(PODS, workloads.pod("stray"))
    held = world.seed(REPLICASETS, workloads.replica_set(1))
    world.settle(STEPS)
    assert [controller_uid(pod) for pod in world.all(PODS)] == [held["metadata"]["uid"]]


def test_a_pod_that_no_longer_matches_is_released_and_replaced() -> None:
    world = World()
    held = world.seed(REPLICASETS, workloads.replica_set(1))
    world.settle(STEPS)
    (pod,) = world.all(PODS)
    world.change(PODS, ("default", pod["metadata"]["name"]), {"metadata": {"labels": {"app": "debug"}}})
    world.settle(STEPS)
    owners = sorted(controller_uid(found) for found in world.all(PODS))
    assert owners == ["", held["metadata"]["uid"]]


def test_a_pod_of_another_owner_is_left_alone() -> None:
    world = World()
    foreign = workloads.pod("foreign")
    foreign["metadata"]["ownerReferences"] = [
        {"uid": "other", "kind": "X", "name": "x", "apiVersion": "v1", "controller": True}
    ]
    world.seed(PODS, foreign)
    world.seed(REPLICASETS, workloads.replica_set(1))
    world.settle(STEPS)
    assert len(world.all(PODS)) == 2


def test_ended_pods_do_not_count() -> None:
    world = World()
    world.seed(REPLICASETS, workloads.replica_set(1))
    world.settle(STEPS)
    (pod,) = world.all(PODS)
    world.change(PODS, ("default", pod["metadata"]["name"]), {"status": {"phase": "Failed"}})
    world.settle(STEPS)
    assert world.standing() == 1
    assert len(world.all(PODS)) == 2


def test_ready_pods_become_available_only_after_min_ready_seconds_and_a_timer_is_asked_for() -> None:
    world = World()
    world.seed(REPLICASETS, workloads.replica_set(1, minReadySeconds=10))
    world.settle(STEPS)
    world.run_pod(world.all(PODS)[0])
    world.deliver_all()
    timers = [write for write in replicaset.decide(world.view, KEY, world.now) if isinstance(write, writes.Requeue)]
    assert timers == [writes.Requeue(10.0)]
    world.settle(STEPS)
    assert "availableReplicas" not in world.objects[REPLICASETS, KEY]["status"]
    world.pass_time(10)
    world.settle(STEPS)
    assert world.objects[REPLICASETS, KEY]["status"]["availableReplicas"] == 1


def test_a_settled_replica_set_writes_nothing() -> None:
    world = World()
    world.seed(REPLICASETS, workloads.replica_set(2))
    world.settle(STEPS)
    assert list(replicaset.decide(world.view, KEY, world.now)) == []


def _aged(name: str, **given: object) -> Object:
    return workloads.pod(name, **given)  # type: ignore[arg-type]  # the builder checks


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (_aged("a", node="", phase="Pending", ready=False), _aged("b", phase="Pending", ready=False)),
        (_aged("a", phase="Pending", ready=False), _aged("b", ready=False)),
        (_aged("a", ready=False), _aged("b")),
        (_aged("a", since="2025-12-31T23:59:59Z"), _aged("b")),
    ],
    ids=["unscheduled", "pending", "not ready", "ready for a shorter time"],
)
def test_the_pod_that_is_missed_least_goes_first(first: Object, second: Object) -> None:
    order = pods.deletion_order([second, first], [], BEGIN)
    assert [pod["metadata"]["name"] for pod in order] == ["a", "b"]


def test_a_cheap_pod_goes_before_an_expensive_one() -> None:
    cheap, dear = workloads.pod("z"), workloads.pod("a")
    cheap["metadata"]["annotations"] = {pods.DELETION_COST: "-10"}
    assert pods.deletion_order([dear, cheap], [], BEGIN)[0] is cheap


def test_pods_doubled_up_on_a_node_go_before_single_ones() -> None:
    doubled, single = [workloads.pod(name, node="n1") for name in "xy"], workloads.pod("a", node="n2")
    order = pods.deletion_order([single, *doubled], [single, *doubled], BEGIN)
    assert order[-1] is single
