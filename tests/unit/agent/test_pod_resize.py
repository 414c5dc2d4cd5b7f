"""A pod that is resized: what the node gives it, what is done, what its status says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from netplane.agent.lifecycle.shares import Shares
from netplane.agent.pods import resize
from netplane.agent.pods.decide import Resize, Stop, decide
from netplane.agent.pods.observed import Share
from netplane.agent.pods.spec import Pod
from netplane.kube.types import PODS, Object
from tests.support.agent_pods import container, pod, pod_object, seen
from tests.support.agent_rig import Rig, rig
from tests.unit.agent.test_pod_workers import Node

NODE = {"cpu": "4", "memory": "8Gi"}
SMALL = Share((("cpu", "1"),), (("cpu", "2"),))


def sized(cpu: str, most: str = "", name: str = "main", uid: str = "u1", **fields: Any) -> Pod:
    resources = {"requests": {"cpu": cpu}, "limits": {"cpu": most or cpu}}
    return pod({"name": name, "resources": resources, **fields}, metadata={"uid": uid, "name": uid})


def test_a_new_pod_gets_what_it_asks_for() -> None:
    assert resize.allot(sized("9"), {}, (), NODE).pending is None


def test_a_larger_wish_is_granted_put_off_or_refused() -> None:
    given, others = resize.shares(sized("1")), [sized("2", uid="u2")]
    granted = resize.allot(sized("2"), given, others, NODE)
    assert (granted.pending, resize.shares(granted.pod)["main"]) == (None, Share((("cpu", "2"),), (("cpu", "2"),)))
    deferred = resize.allot(sized("3"), given, others, NODE)
    assert deferred.pending is not None
    assert deferred.pending.reason == "Deferred"
    assert deferred.pending.message == (
        "Node didn't have enough resource: cpu, requested: 3000, used: 2000, capacity: 4000"
    )
    assert resize.shares(deferred.pod) == given
    refused = resize.allot(sized("5"), given, (), NODE).pending
    assert refused is not None
    assert (refused.reason, "capacity: 4000" in refused.message) == ("Infeasible", True)


def test_pods_that_are_done_and_the_pod_itself_take_no_room() -> None:
    done = sized("4", uid="u2")
    done.obj["status"] = {"phase": "Succeeded"}
    assert resize.allot(sized("4"), resize.shares(sized("1")), [done, sized("1")], NODE).pending is None


def test_what_runs_with_other_limits_is_changed_in_place_or_restarted_as_it_wants() -> None:
    one = sized("2", "2")
    assert decide(seen(one, container(), applied={"main-0": SMALL})).actions == (Resize("main-0", "main"),)
    assert decide(seen(one, container(), applied={"main-0": resize.share(one.containers[0])})).actions == ()
    assert decide(seen(one, container())).actions == ()
    policy = [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]
    (stop,) = decide(seen(sized("2", resizePolicy=policy), container(), applied={"main-0": SMALL})).actions
    assert isinstance(stop, Stop)
    assert stop.message == "Container main resize requires restart"


def test_shares_outlive_the_agent(tmp_path: Path) -> None:
    shares = Shares(tmp_path)
    shares.give(sized("1", "2"))
    shares.apply("c1", SMALL)
    shares.apply("c2", SMALL)
    shares.forget(frozenset({"c1"}))
    again = Shares(tmp_path)
    assert again.given == {"main": SMALL}
    assert again.applied["c1"] == SMALL


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.fixture
async def kept(node: Node) -> AsyncIterator[Rig]:
    async with rig(node.api, node.runtime, node.clock, node.folder, allocatable=NODE) as running:
        yield running


def wish(cpu: str) -> Object:
    return pod_object({"name": "main", "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}}})


async def ask(node: Node, cpu: str) -> None:
    await node.api.patch(PODS, "web", {"spec": wish(cpu)["spec"]}, namespace="default", kind="merge")


async def started(node: Node, kept: Rig) -> None:
    node.api.seed(PODS, wish("1"))
    await node.until(lambda: kept.condition("Ready") == "True", seconds=20)


async def test_a_resize_reaches_the_container_and_the_status(node: Node, kept: Rig) -> None:
    await started(node, kept)
    assert kept.container()["resources"] == {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}
    await ask(node, "2")
    await node.until(lambda: kept.container()["resources"]["limits"] == {"cpu": "2"}, seconds=20)
    assert kept.container()["allocatedResources"] == {"cpu": "2"}
    assert node.runtime.calls[-1] == "update main-0 200000 0"
    assert kept.container()["restartCount"] == 0
    assert kept.condition("PodResizePending") == kept.condition("PodResizeInProgress") == ""


async def test_what_the_node_has_not_is_told_and_what_runs_keeps_what_it_has(node: Node, kept: Rig) -> None:
    await started(node, kept)
    await ask(node, "5")
    await node.until(lambda: kept.condition("PodResizePending") == "True", seconds=20)
    assert kept.container()["resources"]["limits"] == {"cpu": "1"}
    assert not [call for call in node.runtime.calls if call.startswith("update")]
    node.runtime.end("main", 1)
    await node.until(lambda: kept.container()["restartCount"] == 1, seconds=20)
    assert node.runtime.configs["main-1"].resources.cpu_quota == 100_000
    await ask(node, "3")
    await node.until(lambda: kept.condition("PodResizePending") == "", seconds=20)
    await node.until(lambda: kept.container()["resources"]["limits"] == {"cpu": "3"}, seconds=20)


async def test_a_runtime_that_refuses_is_asked_again_and_the_user_reads_why(node: Node, kept: Rig) -> None:
    await started(node, kept)
    node.runtime.refusals["update"] = "device or resource busy"
    await ask(node, "2")
    await node.until(lambda: kept.condition("PodResizeInProgress") == "True", seconds=20)
    condition = next(c for c in kept.status()["conditions"] if c["type"] == "PodResizeInProgress")
    await node.until(lambda: "ResizeError" in kept.reasons(), seconds=20)
    assert condition["status"] == "True"
    node.runtime.refusals.clear()
    await node.until(lambda: kept.condition("PodResizeInProgress") == "", seconds=60)
    await node.until(lambda: kept.container()["resources"]["limits"] == {"cpu": "2"}, seconds=20)
