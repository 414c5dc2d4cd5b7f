"""The status the agent writes, as the kubelet would."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from netplane.agent.pods import backoff, qos
from netplane.agent.pods import status as statuses
from netplane.agent.pods.decide import decide
from netplane.agent.pods.observed import Observed, Waiting
from netplane.kube.types import Object
from tests.support.agent_pods import at, container, pod, sandbox, seen

DELETED = {"deletionTimestamp": "2026-01-01T12:00:30Z", "deletionGracePeriodSeconds": 30}


def status(what: Observed, before: Object | None = None, **extra: Any) -> Object:
    return statuses.status(what, decide(what), statuses.Extra("netplane", ("172.30.0.11",), **extra), before or {})


def conditions(found: Object) -> dict[str, tuple[str, str]]:
    return {c["type"]: (c["status"], c.get("reason", "")) for c in found["conditions"]}


def test_a_running_pod_is_ready_and_has_its_addresses() -> None:
    found = status(seen(pod(), container("main")))
    assert found["phase"] == "Running"
    assert (found["podIP"], found["podIPs"]) == ("10.0.0.5", [{"ip": "10.0.0.5"}])
    assert (found["hostIP"], found["qosClass"]) == ("172.30.0.11", "BestEffort")
    assert conditions(found) == {
        "PodReadyToStartContainers": ("True", ""),
        "Initialized": ("True", ""),
        "Ready": ("True", ""),
        "ContainersReady": ("True", ""),
    }
    (main,) = found["containerStatuses"]
    assert main["containerID"] == "netplane://main-0"
    assert main["state"] == {"running": {"startedAt": "2026-01-01T12:00:00Z"}}
    assert (main["ready"], main["started"], main["restartCount"]) == (True, True, 0)


def test_a_new_pod_is_creating_its_containers() -> None:
    found = status(seen(pod(), sandboxes=()))
    assert found["phase"] == "Pending"
    assert found["containerStatuses"][0]["state"] == {"waiting": {"reason": "ContainerCreating"}}
    assert conditions(found)["Ready"] == ("False", "ContainersNotReady")
    assert conditions(found)["PodReadyToStartContainers"] == ("False", "")


def test_while_init_containers_run_the_others_are_initializing() -> None:
    found = status(seen(pod(initContainers=[{"name": "i"}]), container("i")))
    assert found["phase"] == "Pending"
    assert found["containerStatuses"][0]["state"] == {"waiting": {"reason": "PodInitializing"}}
    assert conditions(found)["Initialized"] == ("False", "ContainersNotInitialized")


def test_a_crash_loop_waits_and_shows_how_it_ended() -> None:
    entry = backoff.Entry(timedelta(seconds=20), at(-1))
    ended = container("main", "exited", code=3, attempt=2, finished=0)
    found = status(seen(pod(), ended, backoff={"main": entry}), messages={"main-2": "out of luck"})
    (main,) = found["containerStatuses"]
    assert main["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    assert main["state"]["waiting"]["message"].startswith("back-off 20s restarting failed container=main")
    end = main["lastState"]["terminated"]
    assert (end["exitCode"], end["reason"], end["message"]) == (3, "Error", "out of luck")
    assert (main["restartCount"], found["phase"]) == (2, "Running")


def test_a_restarted_container_shows_its_earlier_end() -> None:
    found = status(seen(pod(), container("main", attempt=1), container("main", "exited", code=1)))
    (main,) = found["containerStatuses"]
    assert (main["restartCount"], main["lastState"]["terminated"]["exitCode"]) == (1, 1)


def test_an_image_that_is_not_there_is_the_waiting_reason() -> None:
    found = status(seen(pod()), failures={"main": Waiting("ErrImagePull", "not found")})
    assert found["containerStatuses"][0]["state"] == {"waiting": {"reason": "ErrImagePull", "message": "not found"}}
    assert found["phase"] == "Pending"


@pytest.mark.parametrize(
    ("policy", "codes", "phase", "reason"),
    [
        ("Never", (0, 0), "Succeeded", "PodCompleted"),
        ("Never", (0, 1), "Failed", "PodFailed"),
        ("OnFailure", (0, 0), "Succeeded", "PodCompleted"),
        ("OnFailure", (0, 1), "Running", "ContainersNotReady"),
        ("Always", (0, 0), "Running", "ContainersNotReady"),
    ],
)
def test_the_phase_follows_from_how_containers_ended(
    policy: str, codes: tuple[int, int], phase: str, reason: str
) -> None:
    ends = [container(name, "exited", code=code) for name, code in zip("ab", codes, strict=True)]
    found = status(seen(pod({"name": "a"}, {"name": "b"}, restartPolicy=policy), *ends))
    assert found["phase"] == phase
    assert conditions(found)["Ready"] == ("False", reason)


def test_a_failed_init_container_fails_a_pod_that_never_restarts() -> None:
    failed = container("i", "exited", code=1)
    assert status(seen(pod(initContainers=[{"name": "i"}], restartPolicy="Never"), failed))["phase"] == "Failed"
    assert status(seen(pod(initContainers=[{"name": "i"}]), failed))["phase"] == "Pending"


def test_a_deleted_pod_ends_by_how_its_containers_ended() -> None:
    deleted = pod(metadata=DELETED)
    stopped = {"sandboxes": (sandbox(state="notready"),)}
    assert status(seen(deleted, container("main")))["phase"] == "Running"
    assert status(seen(deleted, container("main", "exited"), **stopped))["phase"] == "Succeeded"
    assert status(seen(deleted, container("main", "exited", code=137), **stopped))["phase"] == "Failed"


def test_readiness_follows_probe_and_gates() -> None:
    probe = {"exec": {"command": ["true"]}}
    probed = pod({"name": "main", "readinessProbe": probe})
    assert conditions(status(seen(probed, container("main"))))["Ready"] == ("False", "ContainersNotReady")
    passed = seen(probed, container("main"), probes={("main-0", "readiness"): True})
    assert conditions(status(passed))["Ready"] == ("True", "")
    gated = pod(readinessGates=[{"conditionType": "example.com/ok"}])
    assert conditions(status(seen(gated, container("main"))))["Ready"] == ("False", "ReadinessGatesNotReady")
    gated.obj["status"]["conditions"] = [{"type": "example.com/ok", "status": "True"}]
    found = conditions(status(seen(gated, container("main"))))
    assert (found["Ready"], found["example.com/ok"]) == (("True", ""), ("True", ""))


def test_a_transition_time_moves_only_with_its_status() -> None:
    first = status(seen(pod(), container("main")))
    second = status(seen(pod(), container("main"), now=at(60)), first)
    assert second == first
    third = status(seen(pod(), container("main", "exited", finished=90), now=at(90)), first)
    times = {c["type"]: c["lastTransitionTime"] for c in third["conditions"]}
    assert (times["Ready"], times["Initialized"]) == ("2026-01-01T12:01:30Z", "2026-01-01T12:00:00Z")


def test_a_pod_past_its_deadline_failed_for_that() -> None:
    late = seen(pod(activeDeadlineSeconds=5), container("main", "exited", code=137), now=at(5))
    found = status(late)
    assert (found["phase"], found["reason"]) == ("Failed", "DeadlineExceeded")
    assert status(seen(pod(), container("main")), found)["phase"] == "Failed"


def test_a_container_that_the_node_forgot_was_lost() -> None:
    running = status(seen(pod(), container("main")))
    (main,) = status(seen(pod(), sandboxes=()), running)["containerStatuses"]
    assert main["lastState"]["terminated"]["reason"] == "ContainerStatusUnknown"
    assert main["state"] == {"waiting": {"reason": "ContainerCreating"}}


def test_on_the_nodes_own_network_the_address_is_the_nodes() -> None:
    found = status(seen(pod(hostNetwork=True), container("main"), sandboxes=(sandbox(ips=()),)))
    assert found["podIPs"] == [{"ip": "172.30.0.11"}]


def test_containers_for_debugging_have_statuses_of_their_own_and_are_never_ready() -> None:
    one = pod(ephemeralContainers=[{"name": "look", "image": "busybox:1"}])
    found = status(seen(one, container()))
    assert found["ephemeralContainerStatuses"][0]["state"] == {"waiting": {"reason": "ContainerCreating"}}
    found = status(seen(one, container(), container("look")))
    (added,) = found["ephemeralContainerStatuses"]
    assert (added["name"], added["ready"], "running" in added["state"]) == ("look", False, True)
    assert conditions(found)["Ready"][0] == "True"
    lost = status(seen(one, container()), before=found)
    assert lost["ephemeralContainerStatuses"][0]["state"]["terminated"]["reason"] == "ContainerStatusUnknown"
    assert qos.class_of(one) == "BestEffort"


def test_a_finished_init_container_counts_as_ready() -> None:
    one = pod(initContainers=[{"name": "i"}])
    found = status(seen(one, container("i", "exited"), container("main")))
    assert found["initContainerStatuses"][0]["ready"] is True
    assert conditions(found)["Initialized"] == ("True", "")


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, "BestEffort"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "Burstable"),
        ({"limits": {"cpu": "1000m", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1024Mi"}}, "Guaranteed"),
    ],
)
def test_quality_of_service_follows_requests_and_limits(resources: Object, expected: str) -> None:
    assert qos.class_of(pod({"name": "main", "resources": resources})) == expected


def test_limits_become_cgroup_numbers() -> None:
    one = pod({"name": "main", "resources": {"limits": {"cpu": "250m", "memory": "64Mi"}, "requests": {"cpu": "100m"}}})
    limits = qos.limits(one, one.containers[0], node_memory=1 << 30)
    assert (limits.cpu_quota, limits.cpu_shares, limits.memory) == (25_000, 102, 64 << 20)
    assert limits.oom_score_adj == 937
