"""How many Pods of a PodDisruptionBudget may be evicted."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from netplane.controlplane.controllers import disruption, triggers, writes
from netplane.controlplane.controllers.view import Change, View
from netplane.kube.types import DEPLOYMENTS, PODDISRUPTIONBUDGETS, PODS, REPLICASETS, Object, Resource
from netplane.lib import timestamp
from tests.support import workloads
from tests.support.simulated_cluster import BEGIN

KEY = ("default", "b")


def _budget(**spec: Any) -> Object:
    metadata = {"namespace": "default", "name": "b", "uid": "uid-b", "generation": 2}
    return {"metadata": metadata, "spec": {"selector": {"matchLabels": workloads.LABELS}, **spec}}


def _owned(name: str, kind: str, owner: str, obj: Object) -> Object:
    reference = {"apiVersion": "apps/v1", "kind": kind, "name": owner, "uid": f"uid-{owner}", "controller": True}
    metadata = {"namespace": "default", "uid": f"uid-{name}", **obj["metadata"], "name": name}
    return {**obj, "metadata": {**metadata, "ownerReferences": [reference]}}


def _cluster(budget: Object, *pods: Object, replicas: int = 4) -> View:
    """The Pods belong to a ReplicaSet of a Deployment; `replicas` is what the Deployment wants."""
    deployment = workloads.deployment(replicas)
    deployment["metadata"] |= {"namespace": "default", "uid": "uid-web"}
    replica_set = _owned("web-1", "Deployment", "web", workloads.replica_set(1))
    objects: list[tuple[Resource, Object]] = [(DEPLOYMENTS, deployment), (REPLICASETS, replica_set)]
    owned = [_owned(pod["metadata"]["name"], "ReplicaSet", "web-1", pod) for pod in pods]
    return View([*objects, *((PODS, pod) for pod in owned), (PODDISRUPTIONBUDGETS, budget)], now=BEGIN)


def _status(view: View) -> Object:
    (write, *_) = disruption.decide(view, KEY, BEGIN)
    assert isinstance(write, writes.UpdateStatus)
    status: Object = write.obj["status"]
    return status


@pytest.mark.parametrize(
    ("spec", "desired", "allowed"),
    [
        ({"minAvailable": 2}, 2, 1),
        ({"minAvailable": 3}, 3, 0),
        ({"minAvailable": "50%"}, 2, 1),
        ({"minAvailable": "51%"}, 3, 0),
        ({"maxUnavailable": 1}, 3, 0),
        ({"maxUnavailable": "30%"}, 2, 1),
        ({}, 1, 2),
    ],
)
def test_what_is_healthy_beyond_the_demand_may_go(spec: dict[str, Any], desired: int, allowed: int) -> None:
    pods = [workloads.pod(f"p{number}", ready=number > 0) for number in range(4)]
    status = _status(_cluster(_budget(**spec), *pods))
    assert (status["currentHealthy"], status["desiredHealthy"], status["disruptionsAllowed"]) == (3, desired, allowed)
    assert (status["expectedPods"], status["observedGeneration"]) == (4, 2)
    assert status["conditions"][0]["status"] == str(allowed > 0)


def test_a_number_counts_the_pods_there_are_a_share_those_that_are_wanted() -> None:
    pods = [workloads.pod(f"p{number}") for number in range(2)]
    assert _status(_cluster(_budget(minAvailable=1), *pods))["expectedPods"] == 2
    assert _status(_cluster(_budget(minAvailable="10%"), *pods))["expectedPods"] == 4


def test_a_pod_whose_eviction_was_granted_counts_as_gone_for_two_minutes() -> None:
    for seconds, healthy in ((0, 1), (disruption.EVICTION_SECONDS + 1, 2)):
        budget = {**_budget(minAvailable=1), "status": {"disruptedPods": {"p0": timestamp.rfc3339(BEGIN)}}}
        view = _cluster(budget, workloads.pod("p0"), workloads.pod("p1"))
        todo = disruption.decide(view, KEY, BEGIN + timedelta(seconds=seconds))
        assert isinstance(todo[0], writes.UpdateStatus)
        assert todo[0].obj["status"]["currentHealthy"] == healthy
        assert any(isinstance(write, writes.Requeue) for write in todo) == (seconds == 0)


def test_without_pods_nothing_may_go() -> None:
    assert _status(_cluster(_budget(maxUnavailable=1)))["disruptionsAllowed"] == 0


def test_a_status_that_is_right_is_left_alone() -> None:
    view = _cluster(_budget(minAvailable=1), workloads.pod("p0"))
    settled = {**_budget(minAvailable=1), "status": _status(view)}
    assert disruption.decide(_cluster(settled, workloads.pod("p0")), KEY, BEGIN) == []


def test_a_pod_wakes_the_budgets_that_protect_it_when_its_health_changes() -> None:
    view = _cluster(_budget(minAvailable=1))
    ready, waiting = workloads.pod("p0"), workloads.pod("p0", ready=False)
    other = workloads.pod("p0", labels={"app": "other"})
    key = ("default", "p0")
    assert triggers.budgets_of_pod(view, Change(PODS, key, waiting, ready)) == [KEY]
    assert triggers.budgets_of_pod(view, Change(PODS, key, ready, ready)) == ()
    assert triggers.budgets_of_pod(view, Change(PODS, key, None, other)) == []
