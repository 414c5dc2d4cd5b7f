"""Carry out what controllers ask for, and tell the view at once what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from netplane.controlplane.controllers import addresses, writes
from netplane.controlplane.controllers.view import Change, View
from netplane.kube import errors, events, meta
from netplane.kube.api import Api
from netplane.kube.types import NAMESPACES, SERVICES, Key, Object, Resource
from netplane.lib import clock as clocks

SLOW_START = 4
MOST_AT_ONCE = 32
_ABSENT_KEPT = 500


class Stale(Exception):
    """The API knows better than the view did: nothing was written, decide again."""


class Executor:
    """The writing end of the controllers: one for all of them."""

    def __init__(
        self, api: Api, view: View, dispatch: Callable[[Change], None], *, clock: clocks.Clock = clocks.SYSTEM
    ) -> None:
        self._api = api
        self._view = view
        self._dispatch = dispatch
        self._clock = clock
        self._slots = asyncio.Semaphore(MOST_AT_ONCE)
        self._absent: dict[str, None] = {}

    async def carry_out(self, todo: Sequence[writes.Write], recorder: events.Recorder) -> float | None:
        """Do the writes in order; return the seconds after which to decide again, if asked for.

        Creations and deletions of one type in a row go in parallel, in batches that double (so a quota that is
        reached costs few refused requests). The first failure ends it: raises `errors.ApiError` or `Stale`.
        """
        again: float | None = None
        for run in _runs(todo):
            if isinstance(run[0], writes.Requeue):
                again = min(run[0].seconds, again) if again is not None else run[0].seconds
            elif isinstance(run[0], writes.Event):
                recorder.record(run[0].about, run[0].type, run[0].reason, run[0].message)
            else:
                await self._in_batches(run, recorder)
        return again

    async def _in_batches(self, run: list[writes.Write], recorder: events.Recorder) -> None:
        size, at = SLOW_START, 0
        while at < len(run):
            batch = run[at : at + size]
            at, size = at + size, size * 2
            if len(batch) == 1:
                await self._one(batch[0], recorder)
                continue
            failures: list[Exception] = []
            async with asyncio.TaskGroup() as group:
                for write in batch:
                    group.create_task(self._one_of_many(write, recorder, failures))
            if failures:
                raise failures[0]

    async def _one_of_many(self, write: writes.Write, recorder: events.Recorder, failures: list[Exception]) -> None:
        """Do one write of a batch; its failure does not cancel the others, whose outcome we need to know."""
        async with self._slots:
            try:
                await self._one(write, recorder)
            except (errors.ApiError, Stale) as error:
                failures.append(error)

    async def _one(self, write: writes.Write, recorder: events.Recorder) -> None:
        match write:
            case writes.Create():
                await self._create(write, recorder)
            case writes.Update():
                self._assume(
                    write.resource, await self._api.update(write.resource, write.obj, subresource=write.subresource)
                )
            case writes.UpdateStatus():
                self._assume(write.resource, await self._api.update(write.resource, write.obj, subresource="status"))
            case writes.Patch():
                await self._patch(write)
            case writes.Delete():
                await self._delete(write, recorder)
            case writes.DeleteAll():
                await self._delete_all(write)
            case writes.Finalize():
                await self._finalize(write)
            case writes.Vacate():
                await self._vacate(write)
            case writes.Release():
                await self._release(write)
            case _:
                raise AssertionError(f"{write} is no request")

    def _assume(self, resource: Resource, obj: Object) -> None:
        change = self._view.assume(resource, obj, self._clock.now())
        if change is not None:
            self._dispatch(change)

    async def _create(self, write: writes.Create, recorder: events.Recorder) -> None:
        namespace = self._view.get(NAMESPACES, ("", write.obj["metadata"].get("namespace", "")))
        if namespace is not None and meta.is_deleting(namespace):
            return  # it would be refused, and what asked for it goes too
        kind = write.resource.kind.lower()
        try:
            made = await self._api.create(write.resource, write.obj)
        except errors.ApiError as error:
            if write.about is not None:
                recorder.record(write.about, "Warning", "FailedCreate", f"Error creating: {error}")
            raise
        self._assume(write.resource, made)
        if write.about is not None:
            recorder.record(write.about, "Normal", "SuccessfulCreate", f"Created {kind}: {made['metadata']['name']}")

    async def _patch(self, write: writes.Patch) -> None:
        namespace, name = write.key
        patched = await self._api.patch(
            write.resource, name, write.patch, namespace=namespace, kind=write.kind, subresource=write.subresource
        )
        self._assume(write.resource, patched)

    async def _delete(self, write: writes.Delete, recorder: events.Recorder) -> None:
        for owner in write.unless:
            await self._ensure_absent(owner)
        namespace, name = write.key
        try:
            await self._api.delete(
                write.resource,
                name,
                namespace=namespace,
                uid=write.uid,
                propagation=write.propagation or None,
                grace_seconds=write.grace_seconds,
            )
        except errors.NotFound:
            pass
        change = self._view.doom(write.resource, write.key, write.uid, self._clock.now())
        if change is not None:
            self._dispatch(change)
        if write.about is not None:
            recorder.record(write.about, "Normal", "SuccessfulDelete", f"Deleted {write.resource.kind.lower()}: {name}")

    async def _ensure_absent(self, owner: writes.Owner) -> None:
        """Ask the API itself: the view may not have seen the owner yet. Raises `Stale` when it is there."""
        if owner.uid in self._absent:
            return
        try:
            found = await self._api.get(owner.resource, owner.key[1], namespace=owner.key[0])
        except errors.NotFound:
            pass
        else:
            if found["metadata"].get("uid") == owner.uid:
                raise Stale(f"{owner.resource.group_resource} {'/'.join(owner.key)} is there")
        self._absent[owner.uid] = None
        while len(self._absent) > _ABSENT_KEPT:
            del self._absent[next(iter(self._absent))]

    async def _delete_all(self, write: writes.DeleteAll) -> None:
        async for page in self._api.pages(write.resource, namespace=write.namespace):
            for obj in page.items:
                try:
                    await self._api.delete(write.resource, obj["metadata"]["name"], namespace=write.namespace)
                except errors.NotFound:
                    continue

    async def _finalize(self, write: writes.Finalize) -> None:
        metadata = write.namespace["metadata"]
        for resource in write.resources:
            if await self._holds(resource, metadata["name"]):
                raise Stale(f"namespace {metadata['name']} still holds {resource.group_resource}")
        kept = [name for name in write.namespace["spec"].get("finalizers") or () if name != "kubernetes"]
        body = {**write.namespace, "spec": {**write.namespace["spec"], "finalizers": kept}}
        try:
            await self._api.update(NAMESPACES, body, subresource="finalize")
        except errors.NotFound:
            pass

    async def _vacate(self, write: writes.Vacate) -> None:
        async for page in self._api.pages(SERVICES):
            if write.keeps(address for service in page.items for address in addresses.held(service)):
                raise Stale(f"a Service still has an address of {key_text(write.patch.key)}")
        await self._patch(write.patch)

    async def _release(self, write: writes.Release) -> None:
        async for page in self._api.pages(write.among, namespace=write.namespace):
            if any(write.uses(each) for each in page.items):
                raise Stale(f"{key_text(write.patch.key)} is used by {write.among.group_resource}")
        try:
            await self._patch(write.patch)
        except errors.NotFound:
            pass

    async def _holds(self, resource: Resource, namespace: str) -> bool:
        try:
            async for page in self._api.pages(resource, namespace=namespace, limit=1):
                return bool(page.items)
        except errors.NotFound:
            return False
        return False


def _runs(todo: Sequence[writes.Write]) -> Iterator[list[writes.Write]]:
    """Yield what may go together: creations or deletions of one type in a row; everything else alone."""

    def kind(write: writes.Write) -> tuple[object, ...]:
        if isinstance(write, writes.Create | writes.Delete):
            return type(write), write.resource
        return (id(write),)

    for _, run in groupby(todo, key=kind):
        yield list(run)


def key_text(key: Key | tuple[str, ...]) -> str:
    """Return a key as logs show it."""
    return "/".join(part for part in key if part)
