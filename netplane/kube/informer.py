"""Keep copies of resources up to date with an API server, for ever, and hand out what changed in batches.

What is kept and how changes merge is `store`'s; what a change means is the consumer's.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Never

from netplane.kube import errors
from netplane.kube.api import Api
from netplane.kube.store import Change, Pending, Staged, Store, Transform
from netplane.kube.types import Key, Resource
from netplane.kube.watch import Event, Reader
from netplane.lib import clock as clocks
from netplane.lib import log

__all__ = ["Batch", "Change", "Informers", "Query"]

_Note = Callable[[Sequence[Change], float], None]

_LOG = log.get("informer")
_FIRST_BACKOFF = 0.1
_LONGEST_BACKOFF = 3.0
_SHORT_WATCH_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Query:
    """Which objects to keep, and what of each. The transform keeps memory small: facts instead of decoded JSON.

    A reader makes the same facts of what it understands, and does it sooner.
    """

    resource: Resource
    namespace: str = ""
    label_selector: str = ""
    field_selector: str = ""
    transform: Transform | None = None
    reader: Reader | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """All changes since the batch before; at most one for each object."""

    changes: tuple[Change, ...]
    resource_version: Mapping[Resource, str]
    synced: bool
    received: float
    """When the first of their bytes came, by the clock's `monotonic`."""


class Informers:
    """Copies of what the queries select, one query for each resource."""

    def __init__(
        self,
        api: Api,
        queries: Sequence[Query],
        *,
        clock: clocks.Clock = clocks.SYSTEM,
        rng: random.Random | None = None,
        patience: float = 20.0,
    ) -> None:
        """`patience`: for how many seconds to take initial events before a server counts as one without WatchList."""
        self._api = api
        self._clock = clock
        self._pending = Pending()
        self._changed = asyncio.Event()
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._followers = {
            query.resource: _Follower(api, query, self._note, self._may_read, clock, rng or random.Random(), patience)
            for query in queries
        }
        if len(self._followers) != len(queries):
            raise ValueError("two queries for one resource")

    def store(self, resource: Resource) -> Mapping[Key, Any]:
        """Return a live read-only view of the objects of a resource."""
        return self._followers[resource].store.values

    @property
    def synced(self) -> bool:
        """Whether every resource has been read whole once; it stays so while the API is down."""
        return all(follower.version for follower in self._followers.values())

    @property
    def failures(self) -> Mapping[Resource, str]:
        """Why resources are not being followed at the moment; empty when all is well."""
        return {resource: follower.failure for resource, follower in self._followers.items() if follower.failure}

    async def run(self) -> Never:
        """Follow every resource until cancelled. What was once known is kept while the API is down."""
        async with asyncio.TaskGroup() as group:
            for follower in self._followers.values():
                group.create_task(follower.run())
        raise AssertionError("followers never end")

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """Yield first, once synced, every object as new; then what changed since, as soon as something did.

        For one consumer. Changes that come while it works wait, and the newest for each object wins.
        """
        while not self.synced:
            await self._wait()
        yield self._take()
        while True:
            if self._pending:
                yield self._take()
            else:
                await self._wait()

    async def rest(self, seconds: float) -> None:
        """Wait so long, and let what comes meanwhile lie unread but for the first of it; the next batch holds it all.

        Reading much at once costs less than reading it in parts: for a consumer that has no use for each of them.
        """
        self._may_read.clear()
        try:
            with self._api.unread():
                await self._clock.sleep(seconds)
        finally:
            self._may_read.set()
        await self._clock.sleep(0)  # The followers' turn: what lies there they read without another wait.

    async def _wait(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    def _take(self) -> Batch:
        changes, received = self._pending.take()
        versions = {resource: follower.version for resource, follower in self._followers.items()}
        return Batch(changes, versions, self.synced, self._clock.monotonic() if received is None else received)

    def _note(self, changes: Sequence[Change], received: float) -> None:
        self._pending.add(changes, received)
        self._changed.set()


class _Follower:
    """Follows one query: fills the store, watches from there, and starts again where it must."""

    def __init__(
        self,
        api: Api,
        query: Query,
        note: _Note,
        may_read: asyncio.Event,
        clock: clocks.Clock,
        rng: random.Random,
        patience: float,
    ) -> None:
        self.store = Store(query.resource, query.transform)
        self.version = ""
        self.failure = ""
        self._api = api
        self._query = query
        self._note = note
        self._may_read = may_read
        self._clock = clock
        self._rng = rng
        self._patience = patience
        self._is_stale = True
        self._server_has_watch_list = True
        self._backoff = _FIRST_BACKOFF
        self._began = 0.0

    async def run(self) -> Never:
        while True:
            self._began = self._clock.monotonic()
            try:
                await self._follow()
            except errors.Gone:
                self._is_stale = True
                await self._pause("history was compacted; reading everything again")
            except (errors.Invalid, errors.BadRequest) as error:
                if not (self._is_stale and self._server_has_watch_list):
                    await self._pause(str(error))
                self._server_has_watch_list = False
            except TimeoutError:
                _LOG.info("server tells no end of initial events; listing instead", resource=self._name)
                self._server_has_watch_list = False
            except errors.ApiError as error:
                await self._pause(str(error), at_least=error.retry_after or 0.0)

    async def _follow(self) -> None:
        if self._is_stale and not self._server_has_watch_list:
            await self._list()
        await (self._watch_initial() if self._is_stale else self._watch())
        if not self._has_lasted:
            await self._pause("the watch ended at once")

    async def _list(self) -> None:
        query, staged, version = self._query, Staged(), ""
        pages = self._api.pages(
            query.resource,
            namespace=query.namespace,
            label_selector=query.label_selector,
            field_selector=query.field_selector,
            reader=query.reader,
        )
        async with contextlib.aclosing(pages):
            async for page in pages:
                self.store.stage(staged, page.items)
                self.store.stage_read(staged, page.read)
                version = page.resource_version
        self._replace(staged, version, self._clock.monotonic())

    async def _watch_initial(self) -> None:
        """Fill the store by WatchList, then go on with the same watch (KEP-3157)."""
        staged = Staged()
        async with asyncio.timeout(self._patience) as limit, self._events(initial=True) as events:
            async for event in events:
                if not self._is_stale:
                    await self._follow_event(event)
                elif event.ends_initial_events:
                    self._replace(staged, event.resource_version, event.received)
                    limit.reschedule(None)
                else:
                    self.store.stage_event(staged, event)

    async def _watch(self) -> None:
        async with self._events(initial=False) as events:
            async for event in events:
                await self._follow_event(event)

    async def _follow_event(self, event: Event) -> None:
        """Take an event at once, and ask for no other while the consumer rests."""
        self._take(event)
        if not self._may_read.is_set():
            await self._may_read.wait()

    def _events(self, *, initial: bool) -> contextlib.aclosing[AsyncGenerator[Event, None]]:
        query = self._query
        return contextlib.aclosing(
            self._api.watch(
                query.resource,
                namespace=query.namespace,
                label_selector=query.label_selector,
                field_selector=query.field_selector,
                resource_version="" if initial else self.version,
                timeout_seconds=self._rng.randint(300, 600),
                send_initial_events=initial,
                reader=query.reader,
            )
        )

    def _take(self, event: Event) -> None:
        change = self.store.apply(event)
        self.version = event.resource_version or self.version
        self._recovered()
        if change:
            self._note((change,), event.received)

    def _replace(self, staged: Staged, version: str, received: float) -> None:
        changes = self.store.replace(staged)
        self.version = version or "0"
        self._is_stale = False
        self._recovered()
        self._note(changes, received)

    def _recovered(self) -> None:
        if self.failure:
            _LOG.info("following again", resource=self._name)
            self.failure = ""
        while self.store.rejected:
            rejected = self.store.rejected.pop()
            _LOG.warning("object left out", resource=self._name, key="/".join(rejected.key), reason=rejected.reason)

    async def _pause(self, reason: str, *, at_least: float = 0.0) -> None:
        """Wait longer after each try in a row that did not last."""
        if not self.failure:
            _LOG.warning("not following; what was known stays", resource=self._name, reason=reason)
        self.failure = reason
        if self._has_lasted:
            self._backoff = _FIRST_BACKOFF
        await self._clock.sleep(max(at_least, self._backoff * self._rng.uniform(0.5, 1.0)))
        self._backoff = min(self._backoff * 2, _LONGEST_BACKOFF)

    @property
    def _has_lasted(self) -> bool:
        return self._clock.monotonic() - self._began >= _SHORT_WATCH_SECONDS

    @property
    def _name(self) -> str:
        return self._query.resource.group_resource
