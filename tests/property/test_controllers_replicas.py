"""Laws of ReplicaSets and Deployments, whatever the order in which things happen and are seen."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from netplane.controlplane.controllers import deployment, pods, replicaset, rollout
from netplane.controlplane.controllers.view import controller_uid
from netplane.kube.types import DEPLOYMENTS, PODS, REPLICASETS, Object
from tests.support.simulated_cluster import World

LABELS = {"app": "web"}
KEY = ("default", "web")
STEPS = ((deployment.decide, DEPLOYMENTS), (replicaset.decide, REPLICASETS))


def _template(image: str = "echo:1") -> Object:
    return {"metadata": {"labels": LABELS}, "spec": {"containers": [{"name": "echo", "image": image}]}}


def _replica_set(replicas: int) -> Object:
    spec = {"replicas": replicas, "selector": {"matchLabels": LABELS}, "template": _template()}
    return {"metadata": {"name": "web"}, "spec": spec}


def _deployment(replicas: int, surge: int, unavailable: int) -> Object:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}
    spec = {
        "replicas": replicas,
        "selector": {"matchLabels": LABELS},
        "template": _template(),
        "strategy": strategy,
        "progressDeadlineSeconds": 600,
    }
    return {"metadata": {"name": "web"}, "spec": spec}


_STRAY = st.fixed_dictionaries(
    {
        "phase": st.sampled_from(["Pending", "Running", "Failed", "Succeeded"]),
        "ready": st.booleans(),
        "labelled": st.booleans(),
        "deleting": st.booleans(),
    }
)


@given(replicas=st.integers(0, 8), strays=st.lists(_STRAY, max_size=8), late=st.lists(st.integers(0, 3), max_size=20))
@settings(max_examples=60, deadline=None)
def test_a_replica_set_reaches_its_replicas_from_any_state_and_never_exceeds_them(
    replicas: int, strays: list[dict[str, Any]], late: list[int]
) -> None:
    world = World()
    for number, stray in enumerate(strays):
        metadata: Object = {"name": f"stray-{number}", "labels": LABELS if stray["labelled"] else {"app": "other"}}
        if stray["deleting"]:
            metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        conditions = [{"type": "Ready", "status": str(stray["ready"]), "lastTransitionTime": "2026-01-01T00:00:00Z"}]
        status = {"phase": stray["phase"], "conditions": conditions}
        world.seed(PODS, {"metadata": metadata, "spec": {"nodeName": "node-1"}, "status": status})
    world.deliver_all()
    world.seed(REPLICASETS, _replica_set(replicas))
    for number in late:
        world.deliver(REPLICASETS)
        world.deliver(PODS, number)
        world.act(replicaset.decide, KEY)
        assert _mine(world) <= max(replicas, len(strays))
    world.settle([(replicaset.decide, REPLICASETS)], rounds=len(strays) + 8)
    assert _mine(world) == replicas
    status = world.objects[REPLICASETS, KEY]["status"]
    assert status["replicas"] == replicas


def _mine(world: World) -> int:
    uid = world.objects[REPLICASETS, KEY]["metadata"]["uid"]
    return sum(1 for pod in world.all(PODS) if pods.is_active(pod) and controller_uid(pod) == uid)


_EVENT = st.tuples(st.sampled_from(["deployment", "replicaset", "agent", "see", "see pods"]), st.integers(0, 6))


@given(
    replicas=st.integers(1, 7),
    surge=st.integers(0, 4),
    unavailable=st.integers(0, 4),
    events=st.lists(_EVENT, max_size=120),
)
@settings(max_examples=80, deadline=None)
def test_a_rolling_update_keeps_within_surge_and_unavailable(
    replicas: int, surge: int, unavailable: int, events: list[tuple[str, int]]
) -> None:
    world = World()
    world.seed(DEPLOYMENTS, _deployment(replicas, surge, unavailable))
    _finish(world)
    assert world.available() == world.standing() == replicas
    most, least = _bounds(world)
    world.change(DEPLOYMENTS, KEY, {"metadata": {"generation": 2}, "spec": {"template": _template("echo:2")}})
    for kind, number in events:
        _happen(world, kind, number)
        assert world.standing() <= most, "above the surge"
        assert world.available() >= least, "below the minimum"
    _finish(world, most=most, least=least)
    images = {pod["spec"]["containers"][0]["image"] for pod in world.all(PODS)}
    assert images == {"echo:2"}
    assert world.available() == world.standing() == replicas


def _bounds(world: World) -> tuple[int, int]:
    held = world.objects[DEPLOYMENTS, KEY]
    surge, unavailable = rollout.limits(held)
    return held["spec"]["replicas"] + surge, held["spec"]["replicas"] - unavailable


def _happen(world: World, kind: str, number: int) -> None:
    match kind:
        case "deployment":
            world.act(deployment.decide, KEY)
        case "replicaset":
            found = world.all(REPLICASETS)
            world.act(replicaset.decide, ("default", found[number % len(found)]["metadata"]["name"]))
        case "agent":
            waiting = [pod for pod in world.all(PODS) if _awaits_agent(pod)]
            if waiting:
                world.run_pod(waiting[number % len(waiting)])
        case "see":
            for resource in (DEPLOYMENTS, REPLICASETS):
                world.deliver(resource, number)
        case _:
            world.deliver(PODS, number)


def _awaits_agent(pod: Object) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp")) or "status" not in pod


def _finish(world: World, *, most: int = 1000, least: int = 0) -> None:
    """Let everything happen that has to, in the plainest order."""
    for _ in range(60):
        world.settle(STEPS)
        assert least <= world.available()
        assert world.standing() <= most
        waiting = [pod for pod in world.all(PODS) if _awaits_agent(pod)]
        if not waiting:
            return
        for pod in waiting:
            world.run_pod(pod)
    raise AssertionError("the rollout does not end")
