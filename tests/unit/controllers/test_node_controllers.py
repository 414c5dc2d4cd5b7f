"""What follows when Nodes fall silent, are tainted, or go."""

from __future__ import annotations

from typing import Any

from netplane.controlplane.controllers import eviction, nodelifecycle, podgc, writes
from netplane.controlplane.controllers.config import ControllerConfig
from netplane.kube import meta
from netplane.kube.types import LEASES, NODES, PODS, Object
from tests.support import workloads
from tests.support.simulated_cluster import World

CONFIG = ControllerConfig(node_monitor_grace=40, orphan_grace=20)


def _node_decide(view: Any, key: Any, now: Any) -> Any:
    return nodelifecycle.decide(view, key, now, config=CONFIG)


def _gc_decide(view: Any, key: Any, now: Any) -> Any:
    return podgc.decide(view, key, now, config=CONFIG)


def _world(*names: str) -> World:
    world = World()
    for name in names:
        world.seed(NODES, workloads.node(name))
        _renew(world, name)
    world.deliver_all()
    return world


def _renew(world: World, name: str) -> None:
    lease = {"metadata": {"namespace": "kube-node-lease", "name": name}, "spec": {"renewTime": world.now.isoformat()}}
    key = ("kube-node-lease", name)
    world.change(LEASES, key, lease) if (LEASES, key) in world.objects else world.seed(LEASES, lease)


def _silence(world: World, *alive: str, seconds: float = 41) -> None:
    world.pass_time(seconds)
    for name in alive:
        _renew(world, name)
    world.settle([(_node_decide, NODES)])


def _taints(world: World, name: str) -> set[tuple[str, str]]:
    taints = world.objects[NODES, ("", name)]["spec"].get("taints") or ()
    return {(taint["key"].partition("/")[2], taint["effect"]) for taint in taints}


def _ready(world: World, name: str) -> str:
    return str((meta.condition(world.objects[NODES, ("", name)], "Ready") or {})["status"])


def test_a_node_whose_lease_moves_stays_ready_and_is_looked_at_again_when_its_grace_ends() -> None:
    world = _world("a", "b")
    _silence(world, "a", "b")
    assert _ready(world, "a") == "True"
    assert [write.seconds for write in _node_decide(world.view, ("", "a"), world.now)] == [40.0]


def test_a_silent_node_is_unknown_unreachable_and_its_pods_serve_no_more() -> None:
    world = _world("a", "b")
    world.seed(PODS, workloads.pod("p", node="a"))
    _silence(world, "b")
    assert _ready(world, "a") == "Unknown"
    assert _taints(world, "a") == {("unreachable", "NoSchedule"), ("unreachable", "NoExecute")}
    assert not meta.is_condition_true(world.objects[PODS, ("default", "p")], "Ready")
    assert _taints(world, "b") == set()


def test_a_node_that_speaks_again_loses_its_taints() -> None:
    world = _world("a", "b")
    _silence(world, "b")
    _renew(world, "a")
    world.change(NODES, ("", "a"), {"status": {"conditions": [workloads.condition("Ready")]}})
    world.settle([(_node_decide, NODES)])
    assert _taints(world, "a") == set()


def test_a_node_whose_status_comes_before_its_lease_is_not_taken_for_lost_again() -> None:
    world = _world("a", "b")
    _silence(world, "b", seconds=100)
    _renew(world, "b")
    world.settle([(_node_decide, NODES)])
    back = {**workloads.condition("Ready"), "lastHeartbeatTime": world.now.isoformat()}
    world.change(NODES, ("", "a"), {"status": {"conditions": [back]}})
    world.settle([(_node_decide, NODES)])
    assert (_ready(world, "a"), _taints(world, "a")) == ("True", set())
    _silence(world, "b")
    assert _ready(world, "a") == "Unknown"


def test_when_no_node_is_ready_nobody_is_evicted() -> None:
    world = _world("a", "b")
    _silence(world)
    assert _taints(world, "a") == _taints(world, "b") == {("unreachable", "NoSchedule")}


def test_cordoned_and_pressed_nodes_are_tainted_and_foreign_taints_stay() -> None:
    world = _world("a", "b")
    mine = {"key": "dedicated", "value": "db", "effect": "NoSchedule"}
    world.change(NODES, ("", "a"), {"spec": {"unschedulable": True, "taints": [mine]}})
    conditions = [workloads.condition("Ready"), workloads.condition("MemoryPressure")]
    world.change(NODES, ("", "a"), {"status": {"conditions": conditions}})
    world.settle([(_node_decide, NODES)])
    taints = world.objects[NODES, ("", "a")]["spec"]["taints"]
    assert {(taint["key"].rpartition("/")[2], taint["effect"]) for taint in taints} == {
        ("dedicated", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
    }


def _tainted(*tolerations: Object, since: str = "2026-01-01T00:00:00Z") -> World:
    world = World()
    taint = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "timeAdded": since}
    world.seed(NODES, workloads.node(taints=[taint]))
    world.seed(PODS, workloads.pod("p", tolerations=list(tolerations)))
    world.deliver_all()
    return world


def _evicted(world: World) -> bool:
    world.act(eviction.decide, ("default", "p"))
    return meta.is_deleting(world.objects[PODS, ("default", "p")])


def test_a_pod_that_tolerates_nothing_is_evicted_at_once_and_says_why() -> None:
    world = _tainted()
    assert _evicted(world)
    told = {each["type"]: each for each in world.objects[PODS, ("default", "p")]["status"]["conditions"]}
    assert told["DisruptionTarget"]["reason"] == "DeletionByTaintManager"


def test_a_pod_is_evicted_when_its_toleration_seconds_are_over() -> None:
    world = _tainted({"key": "node.kubernetes.io/unreachable", "operator": "Exists", "tolerationSeconds": 300})
    assert not _evicted(world)
    assert list(eviction.decide(world.view, ("default", "p"), world.now)) == [writes.Requeue(300.0)]
    world.pass_time(300)
    assert _evicted(world)


def test_a_pod_that_tolerates_for_ever_stays() -> None:
    world = _tainted({"operator": "Exists"})
    world.pass_time(100_000)
    assert not _evicted(world)


def test_pods_of_a_node_that_is_gone_are_removed_after_a_while() -> None:
    world = _world("a")
    world.seed(PODS, workloads.pod("p", node="a"))
    world.deliver_all()
    world.remove(NODES, ("", "a"))
    world.deliver_all()
    assert list(_gc_decide(world.view, ("default", "p"), world.now)) == [writes.Requeue(20.0)]
    world.pass_time(20)
    world.act(_gc_decide, ("default", "p"))
    assert world.all(PODS) == []


def test_ended_pods_beyond_the_threshold_go_oldest_first() -> None:
    world = World()
    for number in range(4):
        pod = workloads.pod(f"p{number}", phase="Succeeded")
        pod["metadata"]["creationTimestamp"] = f"2026-01-01T00:00:0{number}Z"
        world.seed(PODS, pod)
    world.deliver_all()
    todo = podgc.decide(world.view, podgc.ENDED, world.now, config=ControllerConfig(terminated_pods=2))
    assert [write.key[1] for write in todo if isinstance(write, writes.Delete)] == ["p0", "p1"]
