"""The controllers and the scheduler together, on an API in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from netplane.controlplane import scheduler
from netplane.controlplane.controllers import runner
from netplane.controlplane.controllers.config import ControllerConfig
from netplane.controlplane.controllers.table import controllers
from netplane.kube import errors, fake
from netplane.kube.types import (
    DEPLOYMENTS,
    ENDPOINTSLICES,
    EVENTS,
    NODES,
    PODS,
    REPLICASETS,
    SERVICES,
    Object,
    Resource,
)
from tests.support import instant_agent, workloads

CONFIG = ControllerConfig(cluster_cidrs=("10.244.0.0/16",), node_mask_v4=24)


async def _discover() -> list[Resource]:
    return list(runner.STATIC)


@contextlib.asynccontextmanager
async def _cluster(*, nodes: int = 2) -> AsyncIterator[fake.FakeApi]:
    api = fake.FakeApi()
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(runner.Runner(api, controllers(CONFIG)).run(_discover)),
            group.create_task(scheduler.run(api)),
            *(group.create_task(instant_agent.run(api, f"node-{number}", number)) for number in range(1, nodes + 1)),
        ]
        yield api
        for task in tasks:
            task.cancel()


def _serves(api: fake.FakeApi, number: int) -> Callable[[], bool]:
    def ready() -> bool:
        slices = api.objects(ENDPOINTSLICES).values()
        return number == sum(bool(found["conditions"]["ready"]) for each in slices for found in each["endpoints"])

    return ready


def _web(kind: Resource, body: Object) -> Object:
    metadata = {"namespace": "default", **body["metadata"]}
    return {"apiVersion": kind.api_version, "kind": kind.kind, **body, "metadata": metadata}


async def _deploy(api: fake.FakeApi, replicas: int = 3) -> None:
    service = workloads.service(ports=[{"port": 80, "targetPort": 8080}])
    del service["metadata"]["uid"]
    await api.create(SERVICES, service)
    await api.create(DEPLOYMENTS, _web(DEPLOYMENTS, workloads.deployment(replicas)))


async def test_a_deployment_ends_in_ready_endpoints() -> None:
    async with _cluster() as api:
        await _deploy(api)
        await api.until(_serves(api, 3))
        assert sorted(pod["spec"]["nodeName"] for pod in api.objects(PODS).values()) in (
            ["node-1", "node-1", "node-2"],
            ["node-1", "node-2", "node-2"],
        )


async def test_what_was_done_is_told_as_events() -> None:
    async with _cluster() as api:
        await _deploy(api, 1)
        reasons = {"ScalingReplicaSet", "SuccessfulCreate", "Scheduled"}
        await api.until(lambda: reasons <= {event["reason"] for event in api.objects(EVENTS).values()})


async def test_conflicts_and_failures_of_the_api_are_overcome() -> None:
    async with _cluster() as api:
        api.fail("create", errors.InternalError(500, "InternalError", "no"), resource=REPLICASETS, times=2)
        api.fail("create", errors.Forbidden(403, "Forbidden", "quota"), resource=PODS, times=3)
        await _deploy(api)
        await api.until(_serves(api, 3))
        assert len(api.objects(PODS)) == 3


async def test_pods_are_never_too_many_however_late_the_watch_is() -> None:
    async with _cluster() as api:
        await _deploy(api, 8)
        api.cut_watches()
        await api.until(_serves(api, 8))
        assert len(api.objects(PODS)) == 8


async def test_nodes_get_ranges_and_the_deleted_deployment_leaves_nothing() -> None:
    async with _cluster() as api:
        await _deploy(api)
        await api.until(_serves(api, 3))
        ranges = sorted(node["spec"]["podCIDR"] for node in api.objects(NODES).values())
        assert ranges == ["10.244.0.0/24", "10.244.1.0/24"]
        await api.delete(DEPLOYMENTS, "web", namespace="default")
        await api.until(lambda: not api.objects(PODS) and not api.objects(REPLICASETS))


async def test_a_pod_that_fits_nowhere_says_why_and_runs_when_it_fits() -> None:
    async with _cluster(nodes=1) as api:
        big = workloads.pod("big", node="", phase="Pending", ready=False)
        big["spec"]["containers"] = [{"name": "c", "resources": {"requests": {"cpu": "3"}}}]
        for name in ("big", "bigger"):
            metadata = {"namespace": "default", "name": name}
            await api.create(PODS, {**big, "metadata": metadata, "status": {}})
        told = "0/1 nodes are available: 1 Insufficient cpu."
        await api.until(lambda: told in {event["message"] for event in api.objects(EVENTS).values()})
        waiting = next(pod for pod in api.objects(PODS).values() if not pod["spec"].get("nodeName"))
        running = next(pod for pod in api.objects(PODS).values() if pod["spec"].get("nodeName"))
        await api.delete(PODS, running["metadata"]["name"], namespace="default")
        await api.until(lambda: bool(api.objects(PODS)["default", waiting["metadata"]["name"]]["spec"].get("nodeName")))
