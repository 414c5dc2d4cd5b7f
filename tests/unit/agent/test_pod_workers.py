"""Dialogues of the pod keepers with an API and a runtime in memory, on a clock that stands still."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from netplane.agent.runtime.protocol import Completed, Condition
from netplane.kube.fake import FakeApi
from netplane.kube.types import CONFIGMAPS, PODS
from netplane.lib import clock as clocks
from tests.support.agent_pods import FakeRuntime, pod_object
from tests.support.agent_rig import Rig, rig

PROBE = {"exec": {"command": ["ok"]}, "periodSeconds": 1, "failureThreshold": 2}


class Node:
    """A node under test."""

    def __init__(self, folder: Path) -> None:
        self.clock = clocks.Fake()
        self.api = FakeApi(clock=self.clock)
        self.runtime = FakeRuntime(self.clock)
        self.folder = folder

    async def until(self, holds: Callable[[], bool], *, seconds: float = 2.0) -> None:
        """Let time pass in small steps until it holds, at most so many seconds of the fake clock."""
        for _ in range(int(seconds / 0.05)):
            if holds():
                return
            await asyncio.sleep(0.002)  # File work is done on threads, which live by the real clock.
            await self.clock.advance(0.05)
        assert holds()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.fixture
async def kept(node: Node) -> AsyncIterator[Rig]:
    async with rig(node.api, node.runtime, node.clock, node.folder) as running:
        yield running


async def running(node: Node, kept: Rig) -> None:
    await node.until(lambda: kept.condition("Ready") == "True")


async def test_a_pod_is_started_and_reported_once_as_running(node: Node, kept: Rig) -> None:
    node.api.seed(PODS, pod_object())
    await running(node, kept)
    assert kept.status()["phase"] == "Running"
    assert kept.status()["podIP"] == "10.0.0.5"
    assert node.runtime.calls == ["run_sandbox 0", "create main", "start main"]
    assert len([action for action in node.api.actions if action.verb == "patch" and action.resource == PODS]) == 1
    assert kept.reasons() == ["Pulled", "Created", "Started"]


async def test_a_container_that_crashes_is_restarted_with_growing_delays(node: Node, kept: Rig) -> None:
    node.api.seed(PODS, pod_object())
    await running(node, kept)
    node.runtime.end("main", 1)
    await node.until(lambda: kept.container().get("restartCount") == 1)
    node.runtime.end("main", 1)
    await node.until(lambda: kept.waiting() == "CrashLoopBackOff")
    await node.clock.advance(8)
    assert kept.container()["restartCount"] == 1
    await node.until(lambda: kept.container()["restartCount"] == 2, seconds=3)
    node.runtime.end("main", 1)
    await node.until(lambda: "back-off 20s" in str(kept.container().get("state")))
    assert "BackOff" in kept.reasons()


async def test_deletion_stops_reports_and_removes(node: Node, kept: Rig) -> None:
    node.api.seed(PODS, pod_object())
    await running(node, kept)
    await node.api.delete(PODS, "web", namespace="default")
    await node.until(lambda: not kept.pod(), seconds=5)
    await node.until(lambda: not list(kept.roster))
    assert node.runtime.calls[3:] == ["stop main 30", "stop_sandbox s0", "remove_sandbox s0"]
    assert not node.runtime.containers()
    assert "Killing" in kept.reasons()


async def test_an_image_that_comes_late_is_found_after_the_back_off(node: Node, kept: Rig) -> None:
    node.runtime.images.clear()
    node.api.seed(PODS, pod_object())
    await node.until(lambda: kept.waiting() == "ErrImagePull")
    await node.until(lambda: kept.waiting() == "ImagePullBackOff")
    node.runtime.images.add("busybox:1")
    await node.clock.advance(10)
    await running(node, kept)


async def test_an_image_never_to_be_pulled_says_so(node: Node, kept: Rig) -> None:
    node.runtime.images.clear()
    node.api.seed(PODS, pod_object({"name": "main", "imagePullPolicy": "Never"}))
    await node.until(lambda: kept.waiting() == "ErrImageNeverPull")


async def test_a_missing_config_map_holds_the_container_until_it_comes(node: Node, kept: Rig) -> None:
    env = [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "a"}}}]
    node.api.seed(PODS, pod_object({"name": "main", "env": env}))
    await node.until(lambda: kept.waiting() == "CreateContainerConfigError")
    node.api.seed(CONFIGMAPS, {"metadata": {"name": "cm", "namespace": "default"}, "data": {"a": "1"}})
    await running(node, kept)
    assert ("A", "1") in node.runtime.configs["main-0"].env


async def test_a_volume_that_cannot_be_made_holds_the_pod_and_is_then_kept_up_to_date(node: Node, kept: Rig) -> None:
    wanted = {"name": "main", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    node.api.seed(PODS, pod_object(wanted, volumes=[{"name": "v", "configMap": {"name": "cm"}}]))
    await node.until(lambda: "FailedMount" in kept.reasons())
    config = {"metadata": {"name": "cm", "namespace": "default"}, "data": {"a": "1"}}
    node.api.seed(CONFIGMAPS, config)
    await running(node, kept)
    mount = next(m for m in node.runtime.configs["main-0"].mounts if m.target == "/v")
    assert mount.readonly
    shown = Path(mount.source) / "a"
    assert shown.read_text() == "1"
    node.api.seed(CONFIGMAPS, {**config, "data": {"a": "2"}})
    await node.until(lambda: shown.read_text() == "2")


async def test_a_pods_labels_are_shown_as_soon_as_they_change(node: Node, kept: Rig) -> None:
    wanted = {"name": "main", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    items = [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]
    node.api.seed(PODS, pod_object(wanted, volumes=[{"name": "v", "downwardAPI": {"items": items}}]))
    await running(node, kept)
    shown = Path(next(m.source for m in node.runtime.configs["main-0"].mounts if m.target == "/v")) / "labels"
    await node.api.patch(PODS, "web", {"metadata": {"labels": {"a": "b"}}}, namespace="default")
    await node.until(lambda: shown.read_text() == 'a="b"')


async def test_without_a_network_the_sandbox_waits_and_the_user_hears_why(node: Node, kept: Rig) -> None:
    node.runtime.network = Condition(False, "NetworkPluginNotReady", "no")
    node.api.seed(PODS, pod_object())
    await node.until(lambda: "NetworkNotReady" in kept.reasons())
    node.runtime.network = Condition(True)
    await running(node, kept)


async def test_a_refused_sandbox_is_tried_again(node: Node, kept: Rig) -> None:
    node.runtime.refusals["run_sandbox"] = "failed to setup network"
    node.api.seed(PODS, pod_object())
    await node.until(lambda: "FailedCreatePodSandBox" in kept.reasons())
    node.runtime.refusals.clear()
    await node.until(lambda: kept.condition("Ready") == "True", seconds=5)


async def test_a_lost_sandbox_is_replaced(node: Node, kept: Rig) -> None:
    node.api.seed(PODS, pod_object())
    await running(node, kept)
    node.runtime.lose_sandbox()
    await node.until(lambda: kept.container().get("restartCount") == 1, seconds=5)
    assert "run_sandbox 1" in node.runtime.calls


async def test_readiness_follows_its_probe_at_once(node: Node, kept: Rig) -> None:
    node.runtime.execs["ok"] = Completed(1, b"not yet")
    node.api.seed(PODS, pod_object({"name": "main", "readinessProbe": PROBE}))
    await node.until(lambda: kept.status().get("phase") == "Running")
    assert kept.condition("Ready") == "False"
    node.runtime.execs["ok"] = Completed(0, b"")
    await node.until(lambda: kept.condition("Ready") == "True", seconds=1.2)
    node.runtime.execs["ok"] = Completed(1, b"gone")
    await node.until(lambda: kept.condition("Ready") == "False", seconds=2.2)
    assert "Unhealthy" in kept.reasons()


async def test_a_failed_liveness_probe_restarts_the_container(node: Node, kept: Rig) -> None:
    node.api.seed(PODS, pod_object({"name": "main", "livenessProbe": {**PROBE, "initialDelaySeconds": 5}}))
    await running(node, kept)
    node.runtime.execs["ok"] = Completed(1, b"dead")
    await node.clock.advance(4)
    assert kept.container()["restartCount"] == 0
    await node.until(lambda: kept.container()["restartCount"] == 1, seconds=4)
    assert "stop main 30" in node.runtime.calls


async def test_other_probes_wait_for_the_startup_probe(node: Node, kept: Rig) -> None:
    node.runtime.execs["ok"] = Completed(1, b"")
    startup = {**PROBE, "failureThreshold": 100}
    liveness = {"exec": {"command": ["live"]}, "periodSeconds": 1, "failureThreshold": 1}
    node.runtime.execs["live"] = Completed(0, b"")
    node.api.seed(PODS, pod_object({"name": "main", "startupProbe": startup, "livenessProbe": liveness}))
    await node.clock.advance(5)
    assert "exec live" not in node.runtime.calls
    node.runtime.execs["ok"] = Completed(0, b"")
    await running(node, kept)
    await node.until(lambda: "exec live" in node.runtime.calls)


async def test_a_pre_stop_hook_runs_before_the_signal(node: Node, kept: Rig) -> None:
    hook = {"preStop": {"exec": {"command": ["drain"]}}}
    node.api.seed(PODS, pod_object({"name": "main", "lifecycle": hook}))
    await running(node, kept)
    await node.api.delete(PODS, "web", namespace="default")
    await node.until(lambda: "stop main 30" in node.runtime.calls, seconds=4)
    assert node.runtime.calls.index("exec drain") < node.runtime.calls.index("stop main 30")


async def test_a_finished_pod_keeps_its_containers_for_the_logs(node: Node, kept: Rig) -> None:
    node.api.seed(PODS, pod_object(restartPolicy="Never"))
    await running(node, kept)
    node.runtime.end("main", 0)
    await node.until(lambda: kept.status().get("phase") == "Succeeded")
    await node.until(lambda: "stop_sandbox s0" in node.runtime.calls)
    assert [status.id for status in node.runtime.containers()] == ["main-0"]


async def test_a_pod_deleted_while_no_agent_was_here_is_cleaned_up(node: Node) -> None:
    async with rig(node.api, node.runtime, node.clock, node.folder) as first:
        node.api.seed(PODS, pod_object())
        await running(node, first)
    node.api.drop(PODS, "web", "default")
    async with rig(node.api, node.runtime, node.clock, node.folder) as second:
        await node.until(lambda: not node.runtime.sandboxes(), seconds=5)
        await node.until(lambda: not list(second.roster))
    assert not (node.folder / "pods" / "u1").exists()


async def test_a_new_agent_leaves_running_pods_alone_and_ready(node: Node) -> None:
    startup = {**PROBE, "initialDelaySeconds": 1}
    main = {"name": "main", "readinessProbe": PROBE, "startupProbe": startup}
    async with rig(node.api, node.runtime, node.clock, node.folder) as first:
        node.api.seed(PODS, pod_object(main))
        await running(node, first)
        await node.clock.advance(1)
    calls = [call for call in node.runtime.calls if call != "exec ok"]
    node.runtime.execs["ok"] = Completed(1, b"slow to answer once")
    node.api.actions.clear()
    async with rig(node.api, node.runtime, node.clock, node.folder) as second:
        await node.until(lambda: bool(list(second.roster)))
        await node.clock.advance(0.05)
        node.runtime.execs["ok"] = Completed(0, b"")
        await node.clock.advance(5)
    assert [call for call in node.runtime.calls if call != "exec ok"] == calls
    assert not [action for action in node.api.actions if action.verb == "patch" and action.resource == PODS]


async def test_while_the_api_is_down_pods_go_on_and_are_reported_later(node: Node, kept: Rig) -> None:
    node.api.seed(PODS, pod_object())
    await running(node, kept)
    node.api.go_down()
    node.runtime.end("main", 1)
    await node.clock.advance(1)
    assert node.runtime.calls[-1] == "start main"
    node.api.come_up()
    await node.until(lambda: kept.container().get("restartCount") == 1, seconds=20)
