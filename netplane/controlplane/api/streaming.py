"""The subresources that stream from a node: log, exec, attach, port-forward, proxy. Calling the agent is agents'."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from urllib.parse import quote

import aiohttp
import orjson
import yarl

from netplane.controlplane.api import agents, cluster, http, options, places, status, tunnels
from netplane.controlplane.registry import faults, types
from netplane.kube.types import Object
from netplane.lib import timestamp

STREAMS = frozenset({"exec", "attach", "portforward"})
_DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
_LOG_OPTIONS = ("follow", "tailLines", "sinceSeconds", "sinceTime", "timestamps", "previous", "limitBytes")
_WAY_OUT = (
    "this server speaks WebSocket, not SPDY, for exec, attach and port-forward: use kubectl 1.31 or newer"
    " (1.29 and 1.30 with KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true, KUBECTL_PORT_FORWARD_WEBSOCKETS=true)"
)
_PROXY_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10.0)
_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization te trailer transfer-encoding upgrade host"
    b" content-length authorization".split()
)


async def plain(at: cluster.Cluster, request: http.Request, of: types.ResourceType) -> None:
    """Refuse an exec, attach or port-forward that is no WebSocket, and name the way out."""
    pod = _pod(at, of, request)
    if request.target is not None and request.target.subresource != "portforward":
        _container(pod, options.text(request.query, "container"))
    lead = "" if b"spdy" in request.headers.get(b"upgrade", b"").lower() else "Upgrade request required: "
    raise status.bad_request(lead + _WAY_OUT)


def _pod(at: cluster.Cluster, of: types.ResourceType, request: http.Request) -> Object:
    assert request.target is not None
    record = at.record(of, (request.target.namespace, request.target.name))
    if record is None:
        raise status.not_found(of, request.target.name)
    pod: Object = orjson.loads(record.value)
    if not pod["spec"].get("nodeName"):
        raise status.bad_request(f"pod {request.target.name} does not have a host assigned")
    return pod


def _container(pod: Object, asked: str) -> str:
    spec, name = pod["spec"], pod["metadata"]["name"]
    kinds = ("containers", "initContainers", "ephemeralContainers")
    known = [c["name"] for kind in kinds for c in spec.get(kind) or ()]
    if asked:
        if asked not in known:
            raise status.bad_request(f"container {asked} is not valid for pod {name}")
        return asked
    chosen: str = (pod["metadata"].get("annotations") or {}).get(_DEFAULT_CONTAINER, "")
    if chosen in known:
        return chosen
    containers = [str(c["name"]) for c in spec["containers"]]
    if len(containers) > 1:
        raise status.bad_request(
            f"a container name must be specified for pod {name}, choose one of: [{' '.join(containers)}]"
        )
    return containers[0]


def _pairs(query: options.Query, *, without: Sequence[str] = ()) -> list[tuple[str, str]]:
    return [(name, value) for name, values in query.items() if name not in without for value in values]


async def log(at: cluster.Cluster, request: http.Request, of: types.ResourceType) -> None:
    """Answer a container's log, as it comes from the agent."""
    pod = _pod(at, of, request)
    container = _container(pod, options.text(request.query, "container"))
    check_log(request.query)
    metadata = pod["metadata"]
    query = [(name, value) for name, value in _pairs(request.query) if name in _LOG_OPTIONS]
    root = at.agents.url(pod["spec"]["nodeName"])
    url = f"{root}/containerLogs/{metadata['namespace']}/{metadata['name']}/{container}"
    answer = await at.agents.open("GET", url, query=query, headers=at.agents.headers(), body=b"")
    async with answer:
        if answer.status != 200:
            raise agents.refusal(answer.status, await answer.read())
        await _relay(request, answer, [(b"content-type", b"text/plain")])


def check_log(asked: options.Query) -> None:
    """Raise 422 for the options of a log that make no sense, 400 for those that cannot be read (PodLogOptions)."""
    found = []
    for name, least in (("tailLines", 0), ("limitBytes", 1), ("sinceSeconds", 1)):
        number = options.number(asked, name)
        if number is not None and number < least:
            why = "must be greater than 0" if least else "must be greater than or equal to 0"
            found.append(faults.invalid(name, number, why))
    since = options.text(asked, "sinceTime")
    if since and options.text(asked, "sinceSeconds"):
        found.append(faults.forbidden("", "at most one of `sinceTime` or `sinceSeconds` may be specified"))
    if options.text(asked, "stream"):
        found.append(faults.forbidden("stream", "may not be specified"))
    if found:
        details = {"kind": "PodLogOptions", "causes": [each.cause() for each in found]}
        told = "; ".join(map(str, found))
        raise status.ApiStatus(422, "Invalid", f'PodLogOptions "" is invalid: {told}', details=details)
    try:
        timestamp.parse(since or "1970-01-01T00:00:00Z")
    except ValueError:
        raise status.bad_request(f'sinceTime: Invalid value: "{since}": must be a time as RFC 3339 has it') from None


async def _relay(request: http.Request, answer: aiohttp.ClientResponse, headers: http.Headers) -> None:
    """Send an answer's body on as it comes, until it ends or the client leaves."""
    await request.send({"type": "http.response.start", "status": answer.status, "headers": list(headers)})

    async def forward() -> None:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async for chunk in answer.content.iter_any():
                await request.send({"type": "http.response.body", "body": chunk, "more_body": True})
        await request.send({"type": "http.response.body", "body": b""})

    await _first_of(forward(), http.until_disconnect(request.receive))


async def _first_of(*parts: Coroutine[object, object, None]) -> None:
    """Run coroutines side by side until one ends, then end the others."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(part) for part in parts]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()


async def stream(at: cluster.Cluster, request: http.Request, of: types.ResourceType) -> None:
    """Join a client's WebSocket with the agent's: frames go both ways unchanged."""
    assert request.target is not None
    pod, target = _pod(at, of, request), request.target
    root = at.agents.url(pod["spec"]["nodeName"])
    if target.subresource == "portforward":
        path = f"/portForward/{target.namespace}/{target.name}"
    else:
        container = _container(pod, options.text(request.query, "container"))
        path = f"/{target.subresource}/{target.namespace}/{target.name}/{container}"
    offered = request.scope.get("subprotocols") or ()
    upstream = await at.agents.connect(root + path, _pairs(request.query, without=("container",)), offered)
    try:
        if (await request.receive())["type"] != "websocket.connect":
            return
        await request.send({"type": "websocket.accept", "subprotocol": upstream.protocol})
        await _first_of(_to_agent(request, upstream), _to_client(request, upstream))
    finally:
        await upstream.close()


async def _to_agent(request: http.Request, upstream: aiohttp.ClientWebSocketResponse) -> None:
    while True:
        message = await request.receive()
        if message["type"] == "websocket.disconnect":
            return
        try:
            if message.get("bytes") is not None:
                await upstream.send_bytes(message["bytes"])
            elif message.get("text") is not None:
                await upstream.send_str(message["text"])
        except (aiohttp.ClientError, OSError):
            return


async def _to_client(request: http.Request, upstream: aiohttp.ClientWebSocketResponse) -> None:
    async for message in upstream:
        if message.type == aiohttp.WSMsgType.BINARY:
            await request.send({"type": "websocket.send", "bytes": message.data})
        elif message.type == aiohttp.WSMsgType.TEXT:
            await request.send({"type": "websocket.send", "text": message.data})
        else:
            break
    code = upstream.close_code or 1000
    await request.send({"type": "websocket.close", "code": 1000 if code in (1005, 1006) else code})


async def proxy(at: cluster.Cluster, request: http.Request, of: types.ResourceType) -> None:
    """Answer `proxy` of a node, pod or service: one plain HTTP request to it, and its answer."""
    assert request.target is not None
    headers = {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in request.headers.items()
        if name not in _HOP_BY_HOP
    }
    body, path = await request.body(), request.target.rest or "/"
    if of.kind == "Node":
        url = at.agents.url(request.target.name.partition(":")[0]) + path
        headers |= at.agents.headers()
        answer = await at.agents.open(request.method, url, query=_pairs(request.query), headers=headers, body=body)
        await _answer_of(request, answer)
        return
    scheme, to = _destination(at, of, request)
    host = f"[{to.address}]" if ":" in to.address else to.address
    url = f"{scheme}://{host}:{to.port}{path}"
    async with tunnels.session(at.agents, to) as session:
        try:
            # As the real one does it: what a pod's certificate says is nothing we could judge.
            answer = await session.request(
                request.method, yarl.URL(url, encoded=True).update_query(_pairs(request.query)), headers=headers,
                data=body or None, allow_redirects=False, ssl=False, timeout=_PROXY_TIMEOUT,
            )  # fmt: skip
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise agents.unreachable(url, error) from error
        await _answer_of(request, answer)


async def _answer_of(request: http.Request, answer: aiohttp.ClientResponse) -> None:
    async with answer:
        kept = [(name.lower(), value) for name, value in answer.raw_headers if name.lower() not in _HOP_BY_HOP]
        await _relay(request, answer, kept)


def _destination(at: cluster.Cluster, of: types.ResourceType, request: http.Request) -> tuple[str, places.Endpoint]:
    """Return the scheme and the endpoint that `[scheme:]name[:port]` of a proxy path names; raise 404 or 503."""
    assert request.target is not None
    parts = request.target.name.split(":")
    scheme = parts.pop(0) if len(parts) == 3 else "http"
    name, port = parts[0], parts[1] if len(parts) > 1 else ""
    namespace = request.target.namespace
    obj = at.get("", "v1", of.plural, namespace, name)
    if obj is None:
        raise status.not_found(of, name)
    found = _of_pod(obj, port) if of.kind == "Pod" else places.of_service(at.store, namespace, name, port)
    if found is None:
        raise status.unavailable(f'no endpoints available for "{quote(request.target.name)}"')
    return scheme or "http", found


def _of_pod(pod: Object, port: str) -> places.Endpoint | None:
    ports = [p for c in pod["spec"]["containers"] for p in c.get("ports") or ()]
    named = next((p["containerPort"] for p in ports if p.get("name") == port), None)
    first = ports[0]["containerPort"] if ports else 80
    number = int(port) if port.isdigit() else named if port and named else first
    metadata, address = pod["metadata"], (pod.get("status") or {}).get("podIP")
    whose = (metadata["namespace"], metadata["name"])
    return places.Endpoint(address, int(number), whose, pod["spec"].get("nodeName") or "") if address else None
