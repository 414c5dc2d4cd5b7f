"""Speak to a Kubernetes API server: verbs to HTTP requests and answers to objects.

Bytes and TLS are `transport`'s, the watch's framing is `watch`'s, keeping a copy up to date is `informer`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

import aiohttp
import orjson

from netplane.kube import errors, quick, transport
from netplane.kube import watch as watching
from netplane.kube.api import Api, ObjectList, Patch, PatchKind, Response
from netplane.kube.kubeconfig import Config, load
from netplane.kube.types import Object, Resource
from netplane.lib import clock as clocks

__all__ = ["Api", "Client", "Config", "ObjectList", "Patch", "PatchKind", "Response", "load"]

_CONTENT_TYPES: dict[PatchKind, str] = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",
}


class Client:
    """An `Api` over HTTP; an async context manager that keeps its connections open."""

    def __init__(
        self, config: Config, *, user_agent: str = "netplane-agent", clock: clocks.Clock = clocks.SYSTEM
    ) -> None:
        self.config = config
        self._clock = clock
        self._transport = transport.Transport(config, user_agent=user_agent, clock=clock)
        self._watched: set[asyncio.Transport] = set()

    async def __aenter__(self) -> Client:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._transport.__aexit__(*error)

    async def adopt(self, config: Config) -> None:
        """Go on with other credentials for the same server; what is under way ends with the old ones."""
        self.config = config
        await self._transport.adopt(config)

    async def get(self, resource: Resource, name: str, *, namespace: str = "", subresource: str = "") -> Object:
        """Return one object."""
        return await self._json("GET", resource.path(namespace=namespace, name=name, subresource=subresource))

    async def list(
        self,
        resource: Resource,
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 500,
    ) -> ObjectList:
        """Return all objects, fetched in pages of `limit`."""
        items: list[Object] = []
        version = ""
        async for page in self.pages(
            resource, namespace=namespace, label_selector=label_selector, field_selector=field_selector, limit=limit
        ):
            items += page.items
            version = page.resource_version
        return ObjectList(items, version)

    async def pages(
        self,
        resource: Resource,
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 500,
        reader: watching.Reader | None = None,
    ) -> AsyncGenerator[ObjectList, None]:
        """Yield the objects page by page; every page is of the same moment."""
        params = _params(labelSelector=label_selector, fieldSelector=field_selector, limit=limit)
        path = resource.path(namespace=namespace)
        while True:
            answer = await self.request("GET", path, params=params)
            page = quick.page(answer.body, reader) if reader is not None else None
            page = page or _page(_content(answer, f"GET {path}"))
            for item in page.items:  # Items of a typed list come without their type.
                item.setdefault("apiVersion", resource.api_version)
                item.setdefault("kind", resource.kind)
            yield ObjectList(page.items, page.resource_version, page.read)
            if not page.token:
                return
            params["continue"] = page.token

    async def create(
        self,
        resource: Resource,
        obj: Object,
        *,
        namespace: str | None = None,
        name: str = "",
        subresource: str = "",
        dry_run: bool = False,
    ) -> Object:
        """Create the object in `namespace`, by default its own; or POST it to a subresource of `name`."""
        where = obj.get("metadata", {}).get("namespace", "") if namespace is None else namespace
        path = resource.path(namespace=where, name=name, subresource=subresource)
        return await self._json("POST", path, _params(dryRun="All" if dry_run else ""), orjson.dumps(obj))

    async def update(self, resource: Resource, obj: Object, *, subresource: str = "") -> Object:
        """Replace the object; its resourceVersion, if there, guards against a lost update."""
        metadata = obj["metadata"]
        path = resource.path(namespace=metadata.get("namespace", ""), name=metadata["name"], subresource=subresource)
        return await self._json("PUT", path, body=orjson.dumps(obj))

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Patch,
        *,
        namespace: str = "",
        kind: PatchKind = "merge",
        subresource: str = "",
        field_manager: str = "netplane",
        force: bool = False,
    ) -> Object:
        """Change the object and return it."""
        path = resource.path(namespace=namespace, name=name, subresource=subresource)
        params = _params(fieldManager=field_manager, force="true" if force and kind == "apply" else "")
        return await self._json("PATCH", path, params, orjson.dumps(patch), _CONTENT_TYPES[kind])

    async def delete(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str = "",
        grace_seconds: int | None = None,
        uid: str | None = None,
        resource_version: str | None = None,
        propagation: str | None = None,
    ) -> None:
        """Delete the object, if it still has this uid and resourceVersion where given."""
        guards = {"uid": uid, "resourceVersion": resource_version}
        options = {
            "gracePeriodSeconds": grace_seconds,
            "preconditions": {key: value for key, value in guards.items() if value} or None,
            "propagationPolicy": propagation,
        }
        given = {key: value for key, value in options.items() if value is not None}
        body = orjson.dumps({"apiVersion": "v1", "kind": "DeleteOptions", **given}) if given else None
        path = resource.path(namespace=namespace, name=name)
        await self._transport.request("DELETE", path, body=body, content_type="application/json" if body else "")

    async def watch(
        self,
        resource: Resource,
        *,
        namespace: str = "",
        resource_version: str = "",
        label_selector: str = "",
        field_selector: str = "",
        timeout_seconds: int | None = None,
        send_initial_events: bool = False,
        reader: watching.Reader | None = None,
    ) -> AsyncGenerator[watching.Event, None]:
        """Yield changes after `resource_version` until the server ends the watch; raises `errors.Gone` when too old."""
        params = _params(
            watch="true",
            allowWatchBookmarks="true",
            resourceVersion=resource_version,
            labelSelector=label_selector,
            fieldSelector=field_selector,
            timeoutSeconds=timeout_seconds,
            sendInitialEvents="true" if send_initial_events else "",
            resourceVersionMatch="NotOlderThan" if send_initial_events else "",
        )
        decoder = watching.Decoder(reader)
        async with self._transport.open("GET", resource.path(namespace=namespace), params=params) as answer:
            if answer.status >= 400:
                wait = transport.retry_after(answer)
                raise errors.from_response(answer.status, await answer.read(), retry_after=wait)
            if resource_version:
                yield watching.resumed(resource_version)
            with self._watching(answer):
                async for chunk in answer.content.iter_any():
                    for event in decoder.feed(chunk, received=self._clock.monotonic()):
                        yield event
                    if decoder.error:
                        raise decoder.error

    @contextlib.contextmanager
    def unread(self) -> Iterator[None]:
        """Let what the watches send lie in the kernel, as long as it is not much, until the block ends."""
        held = tuple(self._watched)
        for stream in held:
            transport.hold(stream, is_held=True)
        try:
            yield
        finally:
            for stream in held:
                transport.hold(stream, is_held=False)

    @contextlib.contextmanager
    def _watching(self, answer: aiohttp.ClientResponse) -> Iterator[None]:
        stream = answer.connection.transport if answer.connection is not None else None
        if stream is None:
            yield
            return
        self._watched.add(stream)
        try:
            yield
        finally:
            self._watched.discard(stream)

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
    ) -> Response:
        """Send any request and return its answer of success."""
        kind = content_type if body is not None else ""
        return await self._transport.request(method, path, params=params, body=body, content_type=kind)

    def stream(
        self, path: str, *, params: Mapping[str, str] | None = None
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """GET what is read as it comes, such as a log that is followed; its status is the caller's to check."""
        return self._transport.open("GET", path, params=params)

    def websocket(
        self, path: str, params: transport.Params, protocols: tuple[str, ...]
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientWebSocketResponse]:
        """Open a WebSocket, for exec, attach and port-forward."""
        return self._transport.websocket(path, params, protocols)

    async def _json(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
    ) -> Object:
        answer = await self.request(method, path, params=params, body=body, content_type=content_type)
        return _content(answer, f"{method} {path}")


def _page(content: Object) -> quick.Page:
    metadata = content.get("metadata") or {}
    version, token = metadata.get("resourceVersion"), metadata.get("continue")
    return quick.Page(content.get("items") or [], (), str(version or ""), token or "")


def _content(answer: Response, asked: str) -> Object:
    try:
        content: Any = answer.json()
    except ValueError as error:
        raise errors.InternalError(500, "InternalError", f"{asked} did not answer in JSON") from error
    if not isinstance(content, dict):
        raise errors.InternalError(500, "InternalError", f"{asked} did not answer with an object")
    return content


def _params(**values: str | int | None) -> dict[str, str]:
    return {key: str(value) for key, value in values.items() if value is not None and value != ""}
