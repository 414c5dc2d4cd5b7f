"""Controllers and scheduler inside the real server, with agents that run Pods at once."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from netplane.controlplane.controllers.clusterroles import CLUSTERROLES
from netplane.controlplane.controllers.protection import CLAIMS, VOLUMES
from netplane.kube import errors
from netplane.kube.client import Client, load
from netplane.kube.types import CONFIGMAPS, DEPLOYMENTS, ENDPOINTSLICES, NAMESPACES, PODS, REPLICASETS, SERVICES, Object
from tests.support import apiserver, instant_agent, workloads


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[apiserver.Server]:
    """A server of our own: other tests count on having no nodes."""
    with apiserver.running(tmp_path_factory.mktemp("controllers") / "data", options=()) as running:
        yield running


@contextlib.asynccontextmanager
async def _nodes(server: apiserver.Server, test: str) -> AsyncIterator[Client]:
    async with Client(load(str(server.kubeconfig))) as api, asyncio.TaskGroup() as group:
        agents = [group.create_task(instant_agent.run(api, f"{test}-{number}", number)) for number in (1, 2)]
        yield api
        for agent in agents:
            agent.cancel()


def _named(obj: Object, name: str, **fields: object) -> Object:
    metadata = {"namespace": "default", "name": name}
    return {**obj, "metadata": metadata, **fields}


def _workload(name: str, replicas: int) -> tuple[Object, Object]:
    labels = {"app": name}
    template = {**workloads.template(), "metadata": {"labels": labels}}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    ports = [{"port": 80, "targetPort": 8080}]
    service = _named({"apiVersion": "v1", "kind": "Service"}, name, spec={"selector": labels, "ports": ports})
    return service, _named({"apiVersion": "apps/v1", "kind": "Deployment"}, name, spec=spec)


async def _until_ready(api: Client, name: str, number: int) -> None:
    selector = f"kubernetes.io/service-name={name}"
    events = api.watch(ENDPOINTSLICES, namespace="default", label_selector=selector, send_initial_events=True)
    async with asyncio.timeout(10), contextlib.aclosing(events):
        async for event in events:
            endpoints = event.object.get("endpoints") or ()
            if sum(bool(found["conditions"]["ready"]) for found in endpoints) == number:
                return
    raise AssertionError("the watch ended")


async def test_from_create_deployment_to_ready_endpoints_takes_a_fraction_of_a_second(
    own_server: apiserver.Server,
) -> None:
    seconds = []
    async with _nodes(own_server, "fast") as api:
        for number in range(5):
            service, deployment = _workload(f"fast-{number}", 2)
            await api.create(SERVICES, service)
            began = time.monotonic()
            await api.create(DEPLOYMENTS, deployment)
            await _until_ready(api, f"fast-{number}", 2)
            seconds.append(time.monotonic() - began)
            await api.delete(DEPLOYMENTS, f"fast-{number}", namespace="default")
    print(f"create deployment -> endpoints ready: median {statistics.median(seconds) * 1000:.0f} ms")
    assert statistics.median(seconds) < 0.5


async def _until_gone(api: Client, *names: tuple[object, str, str]) -> None:
    async with asyncio.timeout(10):
        for resource, namespace, name in names:
            while True:
                try:
                    await api.get(resource, name, namespace=namespace)  # type: ignore[arg-type]  # a Resource
                except errors.NotFound:
                    break
                await asyncio.sleep(0.02)


async def test_a_namespace_goes_with_all_it_holds(own_server: apiserver.Server) -> None:
    async with _nodes(own_server, "space") as api:
        await api.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
        for obj, resource in zip(_workload("web", 3), (SERVICES, DEPLOYMENTS), strict=True):
            await api.create(resource, {**obj, "metadata": {"namespace": "shop", "name": "web"}})
        config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "shop", "name": "c"}}
        await api.create(CONFIGMAPS, config)
        await api.delete(NAMESPACES, "shop")
        await _until_gone(api, (NAMESPACES, "", "shop"))
        assert not [pod for pod in (await api.list(PODS)).items if pod["metadata"]["namespace"] == "shop"]


async def test_a_claim_that_is_deleted_stays_as_long_as_its_pod(own_server: apiserver.Server) -> None:
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    volume = {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/tmp"}}
    uses = [{"name": "v", "persistentVolumeClaim": {"claimName": "used"}}]
    user = {"nodeName": "n", "containers": [{"name": "c", "image": "i"}], "volumes": uses}
    async with Client(load(str(own_server.kubeconfig))) as api:
        asked = _named({"apiVersion": "v1", "kind": "PersistentVolumeClaim"}, "used", spec=claim)
        made = await api.create(CLAIMS, asked)
        kind = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"}, "spec": volume}
        shown = await api.create(VOLUMES, kind)
        assert made["metadata"]["finalizers"] == ["kubernetes.io/pvc-protection"]
        assert shown["metadata"]["finalizers"] == ["kubernetes.io/pv-protection"]
        await api.create(PODS, _named({"apiVersion": "v1", "kind": "Pod"}, "user", spec=user))
        await api.delete(CLAIMS, "used", namespace="default")
        await api.delete(VOLUMES, "v")
        await _until_gone(api, (VOLUMES, "", "v"))
        assert (await api.get(CLAIMS, "used", namespace="default"))["metadata"]["deletionTimestamp"]
        await api.delete(PODS, "user", namespace="default", grace_seconds=0)
        await _until_gone(api, (CLAIMS, "default", "used"))


async def test_deleting_in_the_foreground_takes_the_dependents_first(own_server: apiserver.Server) -> None:
    async with _nodes(own_server, "front") as api:
        service, deployment = _workload("front", 2)
        await api.create(SERVICES, service)
        await api.create(DEPLOYMENTS, deployment)
        await _until_ready(api, "front", 2)
        await api.delete(DEPLOYMENTS, "front", namespace="default", propagation="Foreground")
        await _until_gone(api, (DEPLOYMENTS, "default", "front"))
        left = await api.list(REPLICASETS, namespace="default", label_selector="app=front")
        assert left.items == []


async def test_a_role_of_parts_shows_what_it_grants(own_server: apiserver.Server) -> None:
    async with (
        asyncio.timeout(30),
        Client(load(str(own_server.kubeconfig))) as api,
        contextlib.aclosing(api.watch(CLUSTERROLES, field_selector="metadata.name=admin")) as events,
    ):
        async for event in events:
            if event.object.get("rules"):
                return
