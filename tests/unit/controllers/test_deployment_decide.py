"""What a Deployment does next."""

from __future__ import annotations

from netplane.controlplane.controllers import deployment, replicaset, rollout
from netplane.kube import meta
from netplane.kube.types import DEPLOYMENTS, PODS, REPLICASETS, Object
from tests.support import workloads
from tests.support.simulated_cluster import World

KEY = ("default", "web")
STEPS = ((deployment.decide, DEPLOYMENTS), (replicaset.decide, REPLICASETS))


def _world(**given: object) -> World:
    world = World()
    world.seed(DEPLOYMENTS, workloads.deployment(**given))  # type: ignore[arg-type]  # the builder checks
    _finish(world)
    return world


def _finish(world: World) -> None:
    for _ in range(40):
        world.settle(STEPS)
        waiting = [pod for pod in world.all(PODS) if meta.is_deleting(pod) or "status" not in pod]
        if not waiting:
            return
        for pod in waiting:
            world.run_pod(pod)
    raise AssertionError("does not end")


def _status(world: World) -> Object:
    return dict(world.objects[DEPLOYMENTS, KEY]["status"])


def _progress(world: World) -> str:
    return str((meta.condition(world.objects[DEPLOYMENTS, KEY], "Progressing") or {})["reason"])


def _update(world: World, **spec: object) -> None:
    generation = world.objects[DEPLOYMENTS, KEY]["metadata"]["generation"] + 1
    world.change(DEPLOYMENTS, KEY, {"metadata": {"generation": generation}, "spec": spec})


def test_its_replica_set_is_named_selected_and_labelled_by_the_template_hash() -> None:
    world = _world()
    (found,) = world.all(REPLICASETS)
    digest = found["metadata"]["labels"]["pod-template-hash"]
    assert found["metadata"]["name"] == f"web-{digest}"
    assert found["spec"]["selector"]["matchLabels"] == {"app": "web", "pod-template-hash": digest}
    assert all(pod["metadata"]["labels"]["pod-template-hash"] == digest for pod in world.all(PODS))


def test_status_is_what_rollout_status_waits_for() -> None:
    status = _status(_world())
    counts = {
        name: status.get(name) for name in ("replicas", "updatedReplicas", "availableReplicas", "observedGeneration")
    }
    assert counts == {"replicas": 3, "updatedReplicas": 3, "availableReplicas": 3, "observedGeneration": 1}
    assert [(found["type"], found["status"]) for found in status["conditions"]] == [
        ("Progressing", "True"),
        ("Available", "True"),
    ]


def test_going_back_to_an_old_template_makes_its_replica_set_the_newest_revision() -> None:
    world = _world()
    _update(world, template=workloads.template("echo:2"))
    _finish(world)
    _update(world, template=workloads.template("echo:1"))
    _finish(world)
    by_image = {
        found["spec"]["template"]["spec"]["containers"][0]["image"]: found["metadata"]["annotations"]
        for found in world.all(REPLICASETS)
    }
    assert by_image["echo:1"][deployment.REVISION] == "3"
    assert by_image["echo:1"][deployment.HISTORY] == "1"
    assert by_image["echo:2"][deployment.REVISION] == "2"
    assert world.objects[DEPLOYMENTS, KEY]["metadata"]["annotations"][deployment.REVISION] == "3"


def test_change_cause_is_copied_and_applied_configuration_is_not() -> None:
    world = World()
    given = workloads.deployment()
    given["metadata"]["annotations"] = {
        "kubernetes.io/change-cause": "because",
        "kubectl.kubernetes.io/last-applied-configuration": "{}",
    }
    world.seed(DEPLOYMENTS, given)
    _finish(world)
    annotations = world.all(REPLICASETS)[0]["metadata"]["annotations"]
    assert annotations["kubernetes.io/change-cause"] == "because"
    assert "kubectl.kubernetes.io/last-applied-configuration" not in annotations


def test_recreate_starts_the_new_only_after_the_last_old_pod_is_gone() -> None:
    world = _world(strategy={"type": "Recreate"})
    _update(world, template=workloads.template("echo:2"))
    world.settle(STEPS)
    assert [meta.is_deleting(pod) for pod in world.all(PODS)] == [True, True, True]
    _finish(world)
    assert {pod["spec"]["containers"][0]["image"] for pod in world.all(PODS)} == {"echo:2"}


def test_while_paused_it_scales_but_does_not_roll() -> None:
    world = _world()
    _update(world, paused=True, replicas=5, template=workloads.template("echo:2"))
    _finish(world)
    assert {pod["spec"]["containers"][0]["image"] for pod in world.all(PODS)} == {"echo:1"}
    assert world.standing() == 5
    assert _progress(world) == "DeploymentPaused"


def test_without_progress_for_the_deadline_it_says_so() -> None:
    world = World()
    world.seed(DEPLOYMENTS, workloads.deployment(progressDeadlineSeconds=5))
    world.settle(STEPS)
    world.pass_time(6)
    world.settle(STEPS)
    assert _progress(world) == "ProgressDeadlineExceeded"


def test_old_replica_sets_beyond_the_history_limit_go_oldest_first() -> None:
    world = _world(revisionHistoryLimit=1)
    for number in (2, 3, 4):
        _update(world, template=workloads.template(f"echo:{number}"))
        _finish(world)
    revisions = sorted(found["metadata"]["annotations"][deployment.REVISION] for found in world.all(REPLICASETS))
    assert revisions == ["3", "4"]


def test_a_name_that_another_template_took_raises_the_collision_count() -> None:
    world = _world()
    (found,) = world.all(REPLICASETS)
    taken = {**workloads.replica_set(), "metadata": {"name": found["metadata"]["name"]}}
    other = World()
    other.seed(REPLICASETS, {**taken, "spec": {**taken["spec"], "selector": {"matchLabels": {"app": "other"}}}})
    other.seed(DEPLOYMENTS, workloads.deployment())
    other.deliver_all()
    other.act(deployment.decide, KEY)
    assert _status(other)["collisionCount"] == 1


def test_scaling_in_mid_rollout_keeps_proportions() -> None:
    held = {"spec": {"replicas": 10, "strategy": {"rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}}}
    sizes = rollout.rescale(
        {**held, "spec": {**held["spec"], "replicas": 15}}, _sized("new", 5, "2"), [_sized("old", 8, "1")]
    )
    assert sizes == {"new": 7, "old": 11}


def _sized(name: str, replicas: int, age: str) -> Object:
    annotations = {rollout.DESIRED: "10", rollout.MAXIMUM: "13"}
    metadata = {"name": name, "creationTimestamp": f"2026-01-01T00:00:0{age}Z", "annotations": annotations}
    return {"metadata": metadata, "spec": {"replicas": replicas}, "status": {"availableReplicas": replicas}}
