"""metrics.k8s.io as clients ask for it, with an agent that answers from memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.support import agent_server, apiserver
from tests.support.http_client import Client

Kubectl = Callable[..., str]


@pytest.fixture
async def pods(server: apiserver.Server, namespace: str, tmp_path: Path) -> AsyncIterator[str]:
    """The path of a namespace whose pods `web` and `idle` are on a node; only `web` runs."""
    api, node = Client(server), f"node-{namespace}"
    async with agent_server.running(api, tmp_path, busy=(namespace, "web")) as port:
        await asyncio.to_thread(agent_server.register, api, node, port)
        for name in ("web", "idle"):
            spec = {"nodeName": node, "containers": [{"name": "main", "image": "i"}]}
            pod = {"metadata": {"name": name, "labels": {"app": name}}, "spec": spec}
            await asyncio.to_thread(api.ask, "POST", f"/api/v1/namespaces/{namespace}/pods", pod)
        yield f"/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods"
        await asyncio.to_thread(api.ask, "DELETE", f"/api/v1/nodes/{node}")


async def ask(server: apiserver.Server, path: str) -> tuple[int, dict[str, object]]:
    code, told = await asyncio.to_thread(Client(server).ask, "GET", path)
    return code, told


async def test_usage_is_told_of_the_pods_that_run(server: apiserver.Server, pods: str) -> None:
    code, told = await ask(server, pods)
    assert (code, told["kind"]) == (200, "PodMetricsList")
    items = json.loads(json.dumps(told["items"]))
    assert [(each["metadata"]["name"], each["metadata"]["labels"]) for each in items] == [("web", {"app": "web"})]
    assert items[0]["containers"][0]["usage"]["memory"] == "4096Ki"
    assert (await ask(server, f"{pods}/web"))[1]["kind"] == "PodMetrics"
    assert (await ask(server, f"{pods}/idle"))[0] == 404
    assert (await ask(server, f"{pods}?labelSelector=app%3Didle"))[1]["items"] == []
    assert (await ask(server, f"{pods}?watch=true"))[0] == 405


async def test_every_kubectl_prints_what_runs_and_where(
    server: apiserver.Server, kubectl: Kubectl, pods: str, namespace: str
) -> None:
    top = await asyncio.to_thread(kubectl, "-n", namespace, "top", "pods", "--containers", "--no-headers")
    pod, container, cpu, memory = top.split()
    # The agent's counter runs as its clock does: one processor, and a little for the way.
    assert (pod, container, memory) == ("web", "main", "4Mi")
    assert 500 < int(cpu.removesuffix("m")) < 1500
    nodes = await asyncio.to_thread(kubectl, "top", "nodes", "--no-headers")
    assert any(line.startswith(f"node-{namespace} ") for line in nodes.splitlines())
