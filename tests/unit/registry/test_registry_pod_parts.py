"""What may be changed of a pod that runs: containers for debugging are added, CPU and memory are resized."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from netplane.controlplane.registry.pods import parts
from tests.support.registry_objects import created, made, pod, type_of

PODS = type_of("pods")


def added(**fields: Any) -> list[str]:
    """Return the faults of adding a container with these fields to a pod that runs."""
    old = created("pods", pod())
    new = copy.deepcopy(old)
    new["spec"]["ephemeralContainers"] = [{"name": "look", "image": "busybox:1", **fields}]
    return [str(each) for each in parts.ephemeral_containers(PODS, new, old)]


def test_a_container_for_debugging_may_name_one_that_is_there() -> None:
    name = created("pods", pod())["spec"]["containers"][0]["name"]
    assert added(targetContainerName=name) == []
    at = "spec.ephemeralContainers[0].targetContainerName"
    assert added(targetContainerName="other") == [f'{at}: Not found: "other"']


@pytest.mark.parametrize(
    "fields",
    [
        {"ports": [{"containerPort": 80}]},
        {"resources": {"limits": {"cpu": "1"}}},
        {"livenessProbe": {"exec": {"command": ["true"]}}},
        {"lifecycle": {"preStop": {"exec": {"command": ["true"]}}}},
    ],
)
def test_a_container_for_debugging_has_nothing_that_outlives_a_look(fields: dict[str, Any]) -> None:
    (name,) = fields
    assert f"spec.ephemeralContainers[0].{name}: Forbidden: cannot be set for an Ephemeral Container" in added(**fields)


def resized(before: dict[str, Any], now: dict[str, Any], **fields: Any) -> list[str]:
    """Return the faults of giving the container of a pod other limits."""
    one = pod()
    one["spec"]["containers"][0] |= {"resources": {"limits": before}, **fields}
    old = created("pods", one)
    new = copy.deepcopy(old)
    new["spec"]["containers"][0]["resources"] = {"limits": now, "requests": now}
    return [str(each) for each in parts.resize(PODS, new, old)]


def test_memory_is_taken_away_only_from_who_takes_a_restart() -> None:
    less, more = {"memory": "1Gi", "cpu": "1"}, {"memory": "2Gi", "cpu": "1"}
    assert resized(less, more) == []
    (fault,) = resized(more, less)
    assert "memory limits cannot be decreased unless resizePolicy is RestartContainer" in fault
    policy = [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]
    assert resized(more, less, resizePolicy=policy) == []
    assert resized({"memory": "1Gi", "cpu": "2"}, less) == []


def test_a_resize_policy_names_what_can_be_resized() -> None:
    wanted = pod()
    wanted["spec"]["containers"][0]["resizePolicy"] = [{"resourceName": "disk", "restartPolicy": "Perhaps"}]
    _, found = made(PODS, wanted)
    at = "spec.containers[0].resizePolicy[0]"
    assert [str(each).partition(":")[0] for each in found] == [f"{at}.resourceName", f"{at}.restartPolicy"]


def test_no_pod_is_made_with_containers_for_debugging() -> None:
    wanted = pod()
    wanted["spec"]["ephemeralContainers"] = [{"name": "look", "image": "busybox:1"}]
    _, found = made(PODS, wanted)
    assert [str(each) for each in found] == ["spec.ephemeralContainers: Forbidden: cannot be set on create"]
