"""Hold what the server has seen of etcd so far, all types at one revision, and wake who waits for a revision."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Sequence

from netplane.controlplane.store import cache, feed, history, protocol, records
from netplane.controlplane.store.etcd import keys, wire
from netplane.kube.types import Key


class View:
    """The committed objects of all types, fed by one watch over all keys: so their order is the order of revisions."""

    def __init__(self, layout: keys.Layout, index: protocol.Indexer) -> None:
        self.revision = 0
        self.records = records.Records(index)
        self._layout = layout
        self._loop = asyncio.get_running_loop()
        self._caches: dict[str, cache.Cache] = {}
        self._feeds: dict[str, feed.Feed] = {}
        self._floor = 0
        self._order = itertools.count()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    def cache(self, storage: str) -> cache.Cache:
        """Return the objects of a type."""
        found = self._caches.get(storage)
        if found is None:
            found = self._caches[storage] = cache.Cache(floor=self._floor)
        return found

    def feed(self, storage: str) -> feed.Feed:
        """Return what wakes the watchers of a type."""
        found = self._feeds.get(storage)
        if found is None:
            found = self._feeds[storage] = feed.Feed(self._loop)
        return found

    def storages(self) -> list[str]:
        """Return the names of the types that have or had objects."""
        return sorted(self._caches)

    def fill(self, found: Sequence[wire.KeyValue], revision: int) -> None:
        """Begin, or begin again, with everything that is there at a revision. Watchers of before list anew."""
        known = set(self._caches)
        by_storage: dict[str, list[history.Record]] = {storage: [] for storage in known}
        for each in found:
            place = self._layout.read(each.key)
            if place is not None:
                by_storage.setdefault(place[0], []).append(self._record(*place, each))
        self._floor = revision
        for storage, loaded in by_storage.items():
            kept = self.cache(storage)
            kept.load(loaded)
            if storage in known:
                kept.window.restart(revision)
                self.feed(storage).ring()
        self._advance(revision)

    def take(self, changes: Sequence[wire.Change]) -> None:
        """Take changes in, in their order."""
        touched: set[str] = set()
        before = self.revision
        for change in changes:
            place = self._layout.read(change.at.key)
            if place is not None and change.at.revision > before:
                self._apply(*place, change)
                touched.add(place[0])
        if changes:
            self._advance(changes[-1].at.revision)
        for storage in touched:
            self.feed(storage).ring()

    def _apply(self, storage: str, key: Key, change: wire.Change) -> None:
        kept, revision = self.cache(storage), change.at.revision
        if not change.is_deletion:
            record = self._record(storage, key, change.at)
            kept.apply(revision=revision, record=record, last=record)
            return
        old = kept.records.get(key)
        if old is not None:
            last = history.Record(key, revision, keys.stamped(old.value, revision), old.index)
            kept.apply(revision=revision, record=None, last=last)

    def _record(self, storage: str, key: Key, at: wire.KeyValue) -> history.Record:
        return self.records.make(storage, key, at.revision, keys.stamped(at.value, at.revision))

    async def reached(self, revision: int, *, within: float) -> bool:
        """Wait until a revision is in the view; return whether it is."""
        if self.revision >= revision:
            return True
        future: asyncio.Future[None] = self._loop.create_future()
        heapq.heappush(self._waiting, (revision, next(self._order), future))
        try:
            async with asyncio.timeout(within):
                await future
        except TimeoutError:
            return self.revision >= revision
        return True

    def _advance(self, revision: int) -> None:
        self.revision = max(self.revision, revision)
        while self._waiting and self._waiting[0][0] <= self.revision:
            _, _, future = heapq.heappop(self._waiting)
            if not future.done():
                future.set_result(None)
