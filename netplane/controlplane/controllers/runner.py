"""Run the controllers: informers fill the view, changes queue keys, workers decide and have it carried out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Never

from netplane.controlplane.controllers import addresses, clusterroles, execute, writes
from netplane.controlplane.controllers.table import Controller
from netplane.controlplane.controllers.triggers import Trigger
from netplane.controlplane.controllers.view import Change, View
from netplane.controlplane.controllers.workqueue import Queue
from netplane.kube import errors, events
from netplane.kube.api import Api
from netplane.kube.informer import Batch, Informers, Query
from netplane.kube.types import (
    CONFIGMAPS,
    CONTROLLERREVISIONS,
    DAEMONSETS,
    DEPLOYMENTS,
    ENDPOINTS,
    ENDPOINTSLICES,
    LEASES,
    NAMESPACES,
    NODES,
    PODDISRUPTIONBUDGETS,
    PODS,
    REPLICASETS,
    SERVICEACCOUNTS,
    SERVICES,
    Object,
    Resource,
)
from netplane.lib import clock as clocks
from netplane.lib import log

_LOG = log.get("controllers")
_SETTLE_SECONDS = 10.0
_DISCOVERY_PAUSE = 0.3
Discover = Callable[[], Awaitable[Iterable[Resource]]]

READ = frozenset(
    {
        *(CONTROLLERREVISIONS, DAEMONSETS, DEPLOYMENTS, ENDPOINTS, ENDPOINTSLICES, LEASES, NAMESPACES),
        *(NODES, PODDISRUPTIONBUDGETS, PODS, REPLICASETS, SERVICES),
        Resource("apps", "v1", "statefulsets", "StatefulSet"),
        Resource("batch", "v1", "jobs", "Job"),
        *(addresses.IPADDRESSES, addresses.SERVICECIDRS, clusterroles.CLUSTERROLES),
    }
)
"""The types whose content some controller reads. Of all others only the metadata is kept."""


class Runner:
    """The controllers at work on one view of the cluster."""

    def __init__(self, api: Api, controllers: Sequence[Controller], *, clock: clocks.Clock = clocks.SYSTEM) -> None:
        self.view = View(now=clock.now())
        self._api = api
        self._clock = clock
        self._controllers = controllers
        self._queues: dict[str, Queue[Any]] = {found.name: Queue(found.name, clock=clock) for found in controllers}
        self._executor = execute.Executor(api, self.view, self._dispatch, clock=clock)
        self._feeds: dict[Resource, Informers] = {}
        self._types_changed = asyncio.Event()

    @property
    def is_idle(self) -> bool:
        """Whether no controller has anything to do now."""
        return all(queue.is_idle for queue in self._queues.values())

    async def run(self, discover: Discover) -> Never:
        """Follow every type that is served and act on them until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                started = asyncio.Event()
                group.create_task(self._follow_types(group, discover, started))
                await started.wait()
                _LOG.info("controllers started", types=len(self.view.resources))
                for controller in self._controllers:
                    recorder = events.Recorder(self._api, controller.name, self._clock)
                    group.create_task(recorder.run())
                    for _ in range(controller.workers):
                        group.create_task(self._work(controller, recorder))
                group.create_task(self._settle_for_ever())
        finally:
            for queue in self._queues.values():
                queue.close()
        raise AssertionError("workers never end")

    async def _follow_types(self, group: asyncio.TaskGroup, discover: Discover, started: asyncio.Event) -> Never:
        """Follow what is served now, and again whenever a definition of types has come, changed or gone."""
        tasks: dict[Resource, asyncio.Task[None]] = {}
        while True:
            self._types_changed.clear()
            served = set(await discover())
            gone = [resource for resource in tasks if resource not in served]
            for resource in gone:
                tasks.pop(resource).cancel()
            self._forget(gone)
            new = sorted(served - set(self.view.resources))
            # The first types belong together; those of definitions come one by one and go one by one.
            is_first = not self.view.resources
            for types in [new] if is_first else [[resource] for resource in new]:
                task = group.create_task(self._follow(self._informers(types), started))
                if not is_first:
                    tasks[types[0]] = task
            await started.wait()
            await self._types_changed.wait()
            await self._clock.sleep(_DISCOVERY_PAUSE)

    def _informers(self, resources: Sequence[Resource]) -> Informers:
        """Return the informers for some more types, of which the view knows from now on."""
        queries = [Query(resource, transform=_slim if resource in READ else _metadata) for resource in resources]
        informers = Informers(self._api, queries, clock=self._clock)
        self.view.resources = tuple(sorted({*self.view.resources, *resources}))
        self._feeds |= dict.fromkeys(resources, informers)
        return informers

    def _forget(self, gone: Sequence[Resource]) -> None:
        self.view.resources = tuple(found for found in self.view.resources if found not in gone)
        for resource in gone:
            self._feeds.pop(resource, None)
            for change in self.view.forget(resource, self._clock.now()):
                self._dispatch(change)

    async def _follow(self, informers: Informers, started: asyncio.Event) -> None:
        """Take in what the informers say, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(informers.run())
            async for batch in informers.batches():
                self._take(batch)
                started.set()

    def _take(self, batch: Batch) -> None:
        now = self._clock.now()
        applied = [self.view.apply(Change(*_parts(found)), now) for found in batch.changes]
        for change in applied:
            if change is not None:
                self._dispatch(change)
        self._settle({kind: _number(text) for kind, text in batch.resource_version.items()}, now)

    def _settle(self, revisions: dict[Resource, int], now: datetime) -> None:
        stores = {resource: informers.store(resource) for resource, informers in self._feeds.items()}
        for change in self.view.settle(revisions, stores, now):
            self._dispatch(change)

    async def _settle_for_ever(self) -> Never:
        while True:
            await self._clock.sleep(_SETTLE_SECONDS)
            self._settle({}, self._clock.now())

    def _dispatch(self, change: Change) -> None:
        if change.resource.plural == "customresourcedefinitions":
            self._types_changed.set()
        for controller in self._controllers:
            queue = self._queues[controller.name]
            for resource in (change.resource, None):
                trigger = controller.triggers.get(resource)
                if trigger is not None:
                    self._trigger(trigger, change, queue)

    def _trigger(self, trigger: Trigger, change: Change, queue: Queue[Any]) -> None:
        try:
            for key in trigger(self.view, change):
                queue.add(key)
        except Exception:  # one strange object must not end the control plane
            told = {"type": change.resource.group_resource, "key": execute.key_text(change.key)}
            _LOG.exception("change not understood", queue=queue.name, **told)

    async def _work(self, controller: Controller, recorder: events.Recorder) -> Never:
        queue = self._queues[controller.name]
        while True:
            key = await queue.get()
            try:
                await self._act(controller, key, queue, recorder)
            finally:
                queue.done(key)

    async def _act(self, controller: Controller, key: Any, queue: Queue[Any], recorder: events.Recorder) -> None:
        told = {"controller": controller.name, "key": execute.key_text(key)}
        try:
            todo: Sequence[writes.Write] = controller.decide(self.view, key, self._clock.now())
            again = await self._executor.carry_out(todo, recorder)
        except (errors.Conflict, errors.NotFound, execute.Stale) as error:
            _LOG.debug("decided on old facts; again", cause=str(error), **told)
            queue.add_limited(key)
        except errors.ApiError as error:
            _LOG.warning("write refused; again later", cause=str(error), **told)
            queue.add_limited(key)
        except Exception:  # one broken object must not stop a controller: it is logged whole and tried again
            _LOG.exception("decision failed; again later", **told)
            queue.add_limited(key)
        else:
            queue.forget(key)
            if again is not None:
                queue.add_after(key, again)


def _parts(found: Any) -> tuple[Resource, tuple[str, str], Object | None, Object | None]:
    return found.resource, found.key, found.old, found.new


def _slim(obj: Object) -> Object:
    """Return the object without managedFields: the server keeps them when an update leaves them out."""
    obj["metadata"].pop("managedFields", None)
    return obj


def _metadata(obj: Object) -> Object:
    """Return what garbage and namespaces need of an object, and the data of a namespace's CA certificate."""
    kept = {"apiVersion": obj.get("apiVersion"), "kind": obj.get("kind"), "metadata": obj["metadata"]}
    if obj.get("kind") == CONFIGMAPS.kind and obj["metadata"]["name"] == "kube-root-ca.crt":
        kept["data"] = obj.get("data")
    obj["metadata"].pop("managedFields", None)
    return kept


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


STATIC = (*sorted(READ), CONFIGMAPS, SERVICEACCOUNTS)
"""The types that are followed when nobody can be asked what is served."""
