"""Serve a FakeApi over HTTP, with faults on demand: for tests of what speaks to an API server by bytes.

Only JSON; get, list in pages, create, update, merge patch, delete, watch with bookmarks and WatchList.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator

import orjson
from aiohttp import web

from netplane.kube import client, errors, types
from netplane.kube.fake import FakeApi
from netplane.kube.types import Object, Resource

RESOURCES = {resource.path(): resource for resource in vars(types).values() if isinstance(resource, Resource)}


class HttpApi:
    """One server on a port of 127.0.0.1 (or another address) that stays the same while it is stopped and started."""

    def __init__(self, api: FakeApi, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.api = api
        self._host = host
        self.port = 0
        self.requests: list[str] = []
        self.peers: set[object] = set()
        self.refusals: list[web.Response] = []
        """Answers given, first to last, in place of the next requests' own."""
        self.watch_budget: list[int] = []
        """For the next watches: after how many bytes each is cut, wherever in a line that is."""
        self._tls = tls
        self._runner: web.AppRunner | None = None

    @property
    def config(self) -> client.Config:
        """What a client needs to know."""
        return client.Config(server=f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}")

    async def start(self) -> None:
        """Listen; the first time on a free port."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self.port, ssl_context=self._tls, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Refuse connections and cut those that are open."""
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path_qs}")
        self.peers.add(request.transport and request.transport.get_extra_info("peername"))
        if self.refusals:
            return self.refusals.pop(0)
        try:
            return await self._answer(request)
        except errors.ApiError as error:
            if isinstance(error, errors.Unreachable):
                raise web.HTTPServiceUnavailable from error
            status = {"kind": "Status", "status": "Failure", "code": error.code, "reason": error.reason}
            return _json({**status, "message": error.message, "details": dict(error.details)}, status=error.code)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        resource, namespace, name, subresource = _place(request.path)
        query = request.query
        if request.method == "GET" and name:
            return _json(await self.api.get(resource, name, namespace=namespace))
        if request.method == "GET" and query.get("watch") == "true":
            return await self._watch(request, resource, namespace)
        if request.method == "GET":
            return await self._list(request, resource, namespace)
        body = orjson.loads(await request.read() or b"{}")
        if request.method == "POST":
            made = await self.api.create(resource, body, namespace=namespace, name=name, subresource=subresource)
            return _json(made, status=201)
        if request.method == "PUT":
            return _json(await self.api.update(resource, body, subresource=subresource))
        if request.method == "PATCH":
            return _json(await self.api.patch(resource, name, body, namespace=namespace, subresource=subresource))
        guards = body.get("preconditions", {})
        await self.api.delete(
            resource,
            name,
            namespace=namespace,
            grace_seconds=body.get("gracePeriodSeconds"),
            uid=guards.get("uid"),
            resource_version=guards.get("resourceVersion"),
        )
        return _json({"kind": "Status", "status": "Success"})

    async def _list(self, request: web.Request, resource: Resource, namespace: str) -> web.Response:
        query = request.query
        whole = await self.api.list(
            resource,
            namespace=namespace,
            label_selector=query.get("labelSelector", ""),
            field_selector=query.get("fieldSelector", ""),
        )
        start, limit = int(query.get("continue", 0)), int(query.get("limit", 0)) or len(whole.items) or 1
        metadata = {"resourceVersion": whole.resource_version}
        if start + limit < len(whole.items):
            metadata["continue"] = str(start + limit)
        return _json(
            {"kind": f"{resource.kind}List", "metadata": metadata, "items": whole.items[start : start + limit]}
        )

    async def _watch(self, request: web.Request, resource: Resource, namespace: str) -> web.StreamResponse:
        query = request.query
        events = self.api.watch(
            resource,
            namespace=namespace,
            resource_version=query.get("resourceVersion", ""),
            label_selector=query.get("labelSelector", ""),
            field_selector=query.get("fieldSelector", ""),
            send_initial_events=query.get("sendInitialEvents") == "true",
        )
        budget = self.watch_budget.pop(0) if self.watch_budget else None
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        # Who watches may be gone, without a word, at any time.
        async with contextlib.aclosing(_lines(events)) as lines:
            async for line in lines:
                if request.transport is None or request.transport.is_closing():
                    return response
                if not response.prepared:
                    await response.prepare(request)
                piece = line if budget is None else line[:budget]
                await response.write(piece)
                if budget is not None and (budget := budget - len(piece)) <= 0:
                    _cut(request)
                    return response
        if not response.prepared:
            await response.prepare(request)
        return response


async def _lines(events: AsyncGenerator[object, None]) -> AsyncGenerator[bytes, None]:
    """Yield the lines of a watch; an empty one at first, so that the answer's head is sent before anything happens."""
    head_sent = False
    pending = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            if not head_sent:
                await asyncio.wait((pending,), timeout=0.005)
                head_sent = True
                if not pending.done():
                    yield b"\n"
            try:
                event = await pending
            except errors.Gone as error:
                status = {"kind": "Status", "code": 410, "reason": "Expired", "message": error.message}
                yield orjson.dumps({"type": "ERROR", "object": status}) + b"\n"
                return
            if event is None:
                return
            yield orjson.dumps({"type": event.type, "object": event.object}) + b"\n"  # type: ignore[attr-defined]
            pending = asyncio.ensure_future(anext(events, None))
    finally:
        pending.cancel()
        await asyncio.gather(pending, return_exceptions=True)
        await events.aclose()


def _cut(request: web.Request) -> None:
    if request.transport:
        request.transport.abort()


def _place(path: str) -> tuple[Resource, str, str, str]:
    parts = path.strip("/").split("/")
    root, rest = (parts[:2], parts[2:]) if parts[0] == "api" else (parts[:3], parts[3:])
    namespace = ""
    if rest and rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    resource = RESOURCES.get("/" + "/".join([*root, *rest[:1]]))
    if resource is None:
        raise errors.NotFound(404, "NotFound", "the server could not find the requested resource")
    name, subresource = [*rest[1:], "", ""][:2]
    return resource, namespace, name, subresource


def _json(content: Object, *, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(content), status=status, content_type="application/json")


@contextlib.asynccontextmanager
async def serving(api: FakeApi, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[HttpApi]:
    """Serve while the block runs."""
    server = HttpApi(api, tls=tls)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
