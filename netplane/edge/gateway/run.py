"""Follow the Gateway API's objects once an API server serves them, and write their statuses. `read` decides."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Never

from netplane.edge.gateway import crds, decode, read
from netplane.edge.gateway.facts import (
    CONTROLLER,
    GATEWAYCLASSES,
    GATEWAYS,
    HTTPROUTES,
    REFERENCEGRANTS,
    RESOURCES,
    Door,
    Meta,
)
from netplane.edge.gateway.listeners import Pairs
from netplane.edge.gateway.status import StatusWrite
from netplane.kube import errors, meta
from netplane.kube.api import Api
from netplane.kube.informer import Change, Informers, Query
from netplane.kube.types import NAMESPACES, Key
from netplane.lib import clock as clocks
from netplane.lib import log
from netplane.model.service import Service

_LOG = log.get("gateway")
_LOOK_SECONDS = 3.0
_RETRY_SECONDS = 1.0
_OVERTAKEN_SECONDS = 0.05
_QUERIES = (
    Query(GATEWAYCLASSES, transform=decode.gateway_class),
    Query(GATEWAYS, transform=decode.gateway),
    Query(HTTPROUTES, transform=decode.http_route),
    Query(REFERENCEGRANTS, transform=decode.reference_grant),
    Query(NAMESPACES, transform=meta.labels),
)


class Follower:
    """Keeps what Gateways are made of. Until the types are served there is nothing, and nobody waits for them."""

    def __init__(
        self,
        api: Api,
        *,
        controller: str = CONTROLLER,
        installs_definitions: bool = False,
        clock: clocks.Clock = clocks.SYSTEM,
    ) -> None:
        self._api = api
        self._controller = controller
        self._installs = installs_definitions
        self._clock = clock
        self._informers: Informers | None = None
        self._is_synced = False
        self._wanted: dict[tuple[str, Key], StatusWrite] = {}
        self._written: dict[tuple[str, Key], object] = {}
        self._has_work = asyncio.Event()
        self._changed: Callable[[], None] = lambda: None
        self.leads = True
        """Whether statuses are ours to write; they are of one replica of a door."""
        self.looked = asyncio.Event()
        """Set once it is known whether the types are served, and if so, when all objects are here."""

    @property
    def is_active(self) -> bool:
        """Whether the types are served and all their objects are here."""
        return self._is_synced

    async def run(self, changed: Callable[[], None]) -> Never:
        """Follow until cancelled; call `changed` after each batch. Wait for the types for as long as it takes."""
        self._changed = changed
        while not await self._are_served():
            self.looked.set()
            await self._clock.sleep(_LOOK_SECONDS)
        _LOG.info("Gateway API is served here; following it")
        self._informers = Informers(self._api, _QUERIES, clock=self._clock)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._informers.run())
            group.create_task(self._write())
            async for batch in self._informers.batches():
                has_news = not self._is_synced or any(self._is_news(each) for each in batch.changes)
                self._is_synced = True
                self.looked.set()
                if has_news:
                    changed()
        raise AssertionError("batches never end")

    def _is_news(self, change: Change) -> bool:
        """Tell whether a change is more than a status of ours coming back."""
        new: object = getattr(change.new, "meta", None)
        if change.old is None or not isinstance(new, Meta):
            return True
        written = self._written.get((change.resource.kind, change.key))
        is_of_others = self.leads and new.status != written
        return is_of_others or _without_status(change.old) != _without_status(change.new)

    async def _are_served(self) -> bool:
        try:
            if self._installs:
                await crds.ensure(self._api)
                self._installs = False
            for resource in RESOURCES:
                async with contextlib.aclosing(self._api.pages(resource, limit=1)) as pages:
                    await anext(pages)
        except errors.NotFound:
            # Definitions of our own are served a moment after they were created.
            return False
        except errors.ApiError as error:
            _LOG.warning("cannot tell whether the Gateway API is served", reason=str(error))
            return False
        return True

    def read(self, services: Mapping[Key, Service], pairs: Pairs, door: Door) -> read.Reading:
        """Return what the door shall serve for Gateways as of now, and the statuses to write once it does."""
        if self._informers is None or not self._is_synced:
            return read.Reading()
        store: Callable[[Any], Mapping[Key, Any]] = self._informers.store
        objects = read.Objects(
            classes=store(GATEWAYCLASSES),
            gateways=store(GATEWAYS),
            routes=store(HTTPROUTES),
            grants=store(REFERENCEGRANTS),
            namespaces={name: labels for (_, name), labels in store(NAMESPACES).items()},
            services=services,
        )
        return read.read(objects, pairs, door, self._clock.now(), controller=self._controller)

    async def write(self, statuses: Iterable[StatusWrite]) -> None:
        """Hand statuses over to be written, the newest for each object; nobody waits for the API."""
        if not self.leads:
            self._wanted.clear()
            return
        for each in statuses:
            self._wanted[each.resource.kind, each.key] = each
        if self._wanted:
            self._has_work.set()

    async def _write(self) -> Never:
        while True:
            await self._has_work.wait()
            self._has_work.clear()
            while self._wanted:
                _, each = self._wanted.popitem()
                await self._put(each)

    async def _put(self, write: StatusWrite) -> None:
        """Write one. What was decided for an object that has changed since is left, and decided anew."""
        namespace, name = write.key
        change = {"metadata": {"resourceVersion": write.resource_version}, "status": write.status}
        try:
            put = await self._api.patch(write.resource, name, change, namespace=namespace, subresource="status")
            self._written[write.resource.kind, write.key] = put.get("status")
        except errors.NotFound:
            return
        except errors.Conflict:
            # What overtook it may have been a status of ours, which wakes nobody.
            await self._clock.sleep(_OVERTAKEN_SECONDS)
            self._changed()
        except errors.ApiError as error:
            where = f"{write.resource.kind} {namespace}/{name}"
            _LOG.warning("status not written; trying again", object=where, reason=str(error))
            await self._clock.sleep(_RETRY_SECONDS)
            self._wanted.setdefault((write.resource.kind, write.key), write)


def _without_status(fact: Any) -> Any:
    return dataclasses.replace(fact, meta=dataclasses.replace(fact.meta, status={}, resource_version=""))
