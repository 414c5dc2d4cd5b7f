"""Logs, exec, port-forward and proxy reach the node's agent and come back unchanged."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.support import agent_server, apiserver
from tests.support.http_client import Client

Kubectl = Callable[..., str]


@pytest.fixture
async def pods(server: apiserver.Server, namespace: str, tmp_path: Path) -> AsyncIterator[str]:
    """The path of a namespace whose pods `web` and `broken` are on a node with an agent."""
    api = Client(server)
    node, path = f"node-{namespace}", f"/api/v1/namespaces/{namespace}/pods"
    async with agent_server.running(api, tmp_path) as port:
        ask = asyncio.to_thread
        await ask(api.ask, "POST", "/api/v1/nodes", {"metadata": {"name": node}})
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        }
        merge = {"Content-Type": "application/merge-patch+json"}
        await ask(api.ask, "PATCH", f"/api/v1/nodes/{node}/status", {"status": status}, headers=merge)
        for name in ("web", "broken"):
            spec = {"nodeName": node, "containers": [{"name": "main", "image": "i"}]}
            code, made = await ask(api.ask, "POST", path, {"metadata": {"name": name}, "spec": spec})
            assert code == 201, made
        yield path
        await ask(api.ask, "DELETE", f"/api/v1/nodes/{node}")


async def test_logs_come_as_the_agent_sends_them(server: apiserver.Server, pods: str) -> None:
    code, text = await asyncio.to_thread(Client(server).ask, "GET", f"{pods}/web/log?tailLines=5&follow=true&pretty=1")
    assert (code, text) == (200, "main tailLines=5&follow=true\nlast line\n")


async def test_what_the_agent_refuses_is_told_as_a_status(server: apiserver.Server, pods: str) -> None:
    code, told = await asyncio.to_thread(Client(server).ask, "GET", f"{pods}/broken/log")
    assert (code, told["reason"], told["message"]) == (400, "BadRequest", "container is waiting to start")


async def test_a_container_that_is_not_there_is_named(server: apiserver.Server, pods: str) -> None:
    code, told = await asyncio.to_thread(Client(server).ask, "GET", f"{pods}/web/log?container=side")
    assert (code, told["message"]) == (400, "container side is not valid for pod web")


async def test_kubectl_exec_passes_standard_input_and_output(
    server: apiserver.Server, newest_kubectl: Kubectl, pods: str
) -> None:
    namespace = pods.split("/")[4]
    command = ("-n", namespace, "exec", "-i", "web", "--", "cat", "-n")
    assert await asyncio.to_thread(newest_kubectl, *command, stdin="hello") == "cat -n:hello\n"


async def test_port_forward_frames_pass_unchanged_both_ways(server: apiserver.Server, pods: str) -> None:
    protocol = "SPDY/3.1+portforward.k8s.io"
    frame = os.urandom(100_000)
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {server.token}"}) as session:
        url = f"{server.url}{pods}/web/portforward"
        async with session.ws_connect(url, protocols=(protocol,), ssl=server.context(), max_msg_size=0) as socket:
            assert socket.protocol == protocol
            await socket.send_bytes(frame)
            assert await socket.receive_bytes(timeout=5) == frame[::-1]


async def test_exec_without_leave_is_refused_before_the_agent_hears_of_it(server: apiserver.Server, pods: str) -> None:
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer none"}) as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(f"{server.url}{pods}/web/exec?command=id", ssl=server.context())
    assert refused.value.status == 401


async def test_the_nodes_proxy_reaches_the_agent_with_our_own_credentials(server: apiserver.Server, pods: str) -> None:
    node = f"node-{pods.split('/')[4]}"
    code, told = await asyncio.to_thread(
        Client(server).ask, "GET", f"/api/v1/nodes/{node}/proxy/stats/summary?only=cpu"
    )
    assert (code, told) == (200, {"asked": "/stats/summary?only=cpu", "bearer": True})


async def _told(request: web.Request) -> web.Response:
    return web.Response(text=f"{request.method} {request.path_qs} {(await request.text())}")


@pytest.fixture
async def web_port() -> AsyncIterator[int]:
    """A web server that only the agent's side reaches by the pod's address."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", _told)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield runner.addresses[0][1]
    await runner.cleanup()


async def test_proxy_reaches_pods_and_services_through_the_nodes_agent(
    server: apiserver.Server, pods: str, web_port: int
) -> None:
    api, ask = Client(server), asyncio.to_thread
    namespace = pods.split("/")[4]
    # An address to which this machine has no route that answers: the way leads through the agent alone.
    unreachable = {"status": {"podIP": "192.0.2.1", "podIPs": [{"ip": "192.0.2.1"}], "phase": "Running"}}
    merge = {"Content-Type": "application/merge-patch+json"}
    for name in ("web", "broken"):
        assert (await ask(api.ask, "PATCH", f"{pods}/{name}/status", unreachable, headers=merge))[0] == 200
    code, told = await ask(api.ask, "GET", f"{pods}/web:{web_port}/proxy/a/b?c=d%20e&c=f")
    assert (code, told) == (200, "GET /a/b?c=d+e&c=f ")
    code, told = await ask(api.ask, "POST", f"{pods}/http:web:{web_port}/proxy/", {"a": 1})
    assert (code, told) == (200, 'POST / {"a": 1}')
    service = {"metadata": {"name": "front"}, "spec": {"ports": [{"port": 80, "targetPort": web_port}]}}
    base = f"/api/v1/namespaces/{namespace}/services"
    assert (await ask(api.ask, "POST", base, service))[0] == 201
    endpoint = {
        "addresses": ["192.0.2.1"],
        "conditions": {"ready": True},
        "nodeName": f"node-{namespace}",
        "targetRef": {"kind": "Pod", "namespace": namespace, "name": "web"},
    }
    slice_ = {
        "metadata": {"name": "front-1", "labels": {"kubernetes.io/service-name": "front"}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": web_port, "protocol": "TCP"}],
        "endpoints": [endpoint],
    }
    slices = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
    assert (await ask(api.ask, "POST", slices, slice_))[0] == 201
    assert await ask(api.ask, "GET", f"{base}/front:80/proxy/x") == (200, "GET /x ")
    code, told = await ask(api.ask, "GET", f"{pods}/broken:{web_port}/proxy/")
    assert (code, told["reason"]) == (503, "ServiceUnavailable")


async def test_a_node_gets_no_certificate_for_another_nodes_name(server: apiserver.Server) -> None:
    asked = {"node": "n", "publicKey": "x", "addresses": []}
    token = await asyncio.to_thread(_node_token, server)
    code, told = await asyncio.to_thread(
        Client(server, token=token).ask, "POST", "/netplane.io/v1/node-certificate", asked
    )
    assert (code, told["reason"]) == (403, "Forbidden")


def _node_token(server: apiserver.Server) -> str:
    options = ["--data-dir", str(server.data_dir), "--server", server.url]
    who = ["--user", "system:node:other", "--group", "system:nodes"]
    command = [*apiserver.program(), "kubeconfig", *options, *who]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    return made.stdout.split("token: ")[1].split()[0]
