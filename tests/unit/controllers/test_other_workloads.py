"""What DaemonSets, StatefulSets and Jobs do next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from netplane.controlplane.controllers import daemonset, job, statefulset
from netplane.controlplane.scheduler import affinity
from netplane.kube import meta
from netplane.kube.types import CONTROLLERREVISIONS, DAEMONSETS, NODES, PODS, Object, Resource
from tests.support import workloads
from tests.support.simulated_cluster import World

KEY = ("default", "web")
Decide = Callable[..., Sequence[Any]]


def _finish(world: World, decide: Decide, resource: Resource, *, least: int = 0) -> None:
    for _ in range(80):
        world.settle([(decide, resource)])
        assert world.available() >= least
        waiting = [pod for pod in world.all(PODS) if meta.is_deleting(pod) or "status" not in pod]
        if not waiting:
            return
        _run(world, waiting[0])
    raise AssertionError("does not end")


def _run(world: World, pod: Object) -> None:
    node = affinity.demand(pod["spec"]).only_node
    world.run_pod(pod)
    if node and not meta.is_deleting(pod):
        world.change(PODS, ("default", pod["metadata"]["name"]), {"spec": {"nodeName": node}})


def _daemons(*nodes: Object, **spec: Any) -> World:
    world = World()
    for node in nodes:
        world.seed(NODES, node)
    world.seed(DAEMONSETS, workloads.daemon_set(**spec))
    _finish(world, daemonset.decide, DAEMONSETS)
    return world


def _homes(world: World) -> list[str]:
    return sorted(pod["spec"]["nodeName"] for pod in world.all(PODS))


def test_every_node_that_will_have_it_runs_one() -> None:
    tainted = workloads.node("c", taints=[{"key": "k", "effect": "NoSchedule"}])
    world = _daemons(workloads.node("a"), workloads.node("b"), tainted)
    assert _homes(world) == ["a", "b"]
    status = world.objects[DAEMONSETS, KEY]["status"]
    assert (status["desiredNumberScheduled"], status["numberReady"], status["numberAvailable"]) == (2, 2, 2)


def test_cordoned_and_silent_nodes_still_run_one() -> None:
    taints = [{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]
    taints.append({"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"})
    assert _homes(_daemons(workloads.node("a", unschedulable=True, taints=taints))) == ["a"]


def test_a_new_node_gets_one_and_a_gone_node_loses_it() -> None:
    world = _daemons(workloads.node("a"), workloads.node("b"))
    world.seed(NODES, workloads.node("c"))
    world.remove(NODES, ("", "a"))
    _finish(world, daemonset.decide, DAEMONSETS)
    assert _homes(world) == ["b", "c"]


def test_a_daemon_update_replaces_one_at_a_time_and_keeps_its_history() -> None:
    world = _daemons(workloads.node("a"), workloads.node("b"), workloads.node("c"))
    world.change(DAEMONSETS, KEY, {"metadata": {"generation": 2}, "spec": {"template": workloads.template("echo:2")}})
    _finish(world, daemonset.decide, DAEMONSETS, least=2)
    assert {pod["spec"]["containers"][0]["image"] for pod in world.all(PODS)} == {"echo:2"}
    assert sorted(found["revision"] for found in world.all(CONTROLLERREVISIONS)) == [1, 2]


def test_a_daemon_update_with_surge_never_leaves_a_node_without() -> None:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    world = _daemons(workloads.node("a"), workloads.node("b"), updateStrategy=strategy)
    world.change(DAEMONSETS, KEY, {"metadata": {"generation": 2}, "spec": {"template": workloads.template("echo:2")}})
    _finish(world, daemonset.decide, DAEMONSETS, least=2)
    assert {pod["spec"]["containers"][0]["image"] for pod in world.all(PODS)} == {"echo:2"}


def _stateful(**spec: Any) -> World:
    world = World()
    body = {"replicas": 3, "serviceName": "web", "selector": {"matchLabels": workloads.LABELS}}
    world.seed(
        statefulset.STATEFULSETS,
        {"metadata": {"name": "web"}, "spec": {**body, "template": workloads.template(), **spec}},
    )
    return world


def test_stateful_pods_start_one_after_the_other() -> None:
    world = _stateful()
    world.settle([(statefulset.decide, statefulset.STATEFULSETS)])
    assert [pod["metadata"]["name"] for pod in world.all(PODS)] == ["web-0"]
    _finish(world, statefulset.decide, statefulset.STATEFULSETS)
    assert [pod["metadata"]["name"] for pod in world.all(PODS)] == ["web-0", "web-1", "web-2"]
    assert world.all(PODS)[1]["spec"]["hostname"] == "web-1"


def test_stateful_pods_may_start_together_and_go_from_the_top() -> None:
    world = _stateful(podManagementPolicy="Parallel")
    world.settle([(statefulset.decide, statefulset.STATEFULSETS)])
    assert len(world.all(PODS)) == 3
    _finish(world, statefulset.decide, statefulset.STATEFULSETS)
    world.change(statefulset.STATEFULSETS, KEY, {"spec": {"replicas": 1}})
    _finish(world, statefulset.decide, statefulset.STATEFULSETS)
    assert [pod["metadata"]["name"] for pod in world.all(PODS)] == ["web-0"]


def test_a_stateful_update_stops_at_the_partition() -> None:
    world = _stateful(updateStrategy={"type": "RollingUpdate", "rollingUpdate": {"partition": 2}})
    _finish(world, statefulset.decide, statefulset.STATEFULSETS)
    world.change(statefulset.STATEFULSETS, KEY, {"spec": {"template": workloads.template("echo:2")}})
    _finish(world, statefulset.decide, statefulset.STATEFULSETS, least=2)
    images = [pod["spec"]["containers"][0]["image"] for pod in world.all(PODS)]
    assert images == ["echo:1", "echo:1", "echo:2"]


def _job(**spec: Any) -> World:
    world = World()
    labels = {"batch.kubernetes.io/job-name": "web"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    body = {
        "parallelism": 2,
        "completions": 3,
        "backoffLimit": 1,
        "selector": {"matchLabels": labels},
        "template": template,
    }
    world.seed(job.JOBS, {"metadata": {"name": "web"}, "spec": {**body, **spec}})
    world.settle([(job.decide, job.JOBS)])
    return world


def _end_one(world: World, phase: str) -> None:
    pod = next(pod for pod in world.all(PODS) if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"))
    world.change(PODS, ("default", pod["metadata"]["name"]), {"status": {"phase": phase}})
    world.pass_time(60)
    world.settle([(job.decide, job.JOBS)])


def test_a_job_runs_in_parallel_until_its_completions_are_reached() -> None:
    world = _job()
    assert world.standing() == 2
    for _ in range(3):
        _end_one(world, "Succeeded")
    status = world.objects[job.JOBS, KEY]["status"]
    assert meta.is_condition_true(world.objects[job.JOBS, KEY], "Complete")
    assert (status["succeeded"], world.standing()) == (3, 0)


def test_a_job_fails_beyond_its_backoff_limit() -> None:
    world = _job()
    for _ in range(2):
        _end_one(world, "Failed")
    failed = meta.condition(world.objects[job.JOBS, KEY], "Failed")
    assert failed is not None
    assert failed["reason"] == "BackoffLimitExceeded"


def test_a_finished_job_goes_when_its_time_is_over() -> None:
    world = _job(completions=1, ttlSecondsAfterFinished=30)
    _end_one(world, "Succeeded")
    assert world.all(job.JOBS)
    world.pass_time(30)
    world.settle([(job.decide, job.JOBS)])
    assert world.all(job.JOBS) == []
