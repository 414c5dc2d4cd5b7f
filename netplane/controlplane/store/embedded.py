"""The store of one process: caches in memory, SQLite beneath. The disk is sqlite's, the thread writer's.

Revisions are given out when a write is staged, in the loop, so a compare-and-swap sees writes that are queued and
not yet committed (the overlay). Readers and watchers only see what is committed, in the order of revisions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import orjson

from netplane.controlplane.store import ages, cache, feed, history, protocol, records, sqlite, writer
from netplane.kube import known
from netplane.kube.types import Key, Object
from netplane.lib import clock as clocks

_LOG_ROWS = 10_000
NO_TTLS: Mapping[str, int] = {}
_UNLOGGED = frozenset({"leases.coordination.k8s.io"})


class _Staged:
    """A write on its way to the disk."""

    __slots__ = ("done", "last", "record", "row")

    def __init__(
        self, *, row: sqlite.Row, record: history.Record | None, last: history.Record, done: asyncio.Future[None]
    ) -> None:
        self.row = row
        self.record = record
        self.last = last
        self.done = done


class _Caches(dict[str, cache.Cache]):
    """The committed objects by type; one that is asked for is there. `floor` is what the disk's log begins after."""

    __slots__ = ("floor", "started_at")

    def __init__(self) -> None:
        super().__init__()
        self.floor = self.started_at = 0

    def __missing__(self, storage: str) -> cache.Cache:
        made = self[storage] = cache.Cache(floor=self.started_at if storage in _UNLOGGED else self.floor)
        return made


class Embedded:
    """A `protocol.Store` on one SQLite file; one instance per file (the caller holds the lock)."""

    def __init__(
        self,
        path: Path,
        index: protocol.Indexer,
        *,
        ttls: Mapping[str, int] = NO_TTLS,
        clock: clocks.Clock = clocks.SYSTEM,
    ) -> None:
        self._path = path
        self._records = records.Records(index)
        self._caches = _Caches()
        self.cache: Callable[[str], cache.Cache] = self._caches.__getitem__  # asked a dozen times for each write
        """Return the committed objects of a type."""
        self._feeds: dict[str, feed.Feed] = {}
        self._overlay: dict[tuple[str, Key], _Staged] = {}
        self._queue: dict[int, _Staged] = {}
        self._revision = 0
        self._given = 0
        self._log_revisions: list[int] = []
        self._outbox: list[sqlite.Row] = []
        self._ages = ages.Ages(ttls, clock=clock)
        self._writer: writer.Writer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        """Read the file and start writing; raise sqlite.Broken when it cannot be used."""
        self._loop = asyncio.get_running_loop()
        database = sqlite.Database(self._path)
        loaded = database.load()
        self._revision = self._given = max(loaded.revision, 1)
        self._caches.floor, self._caches.started_at = loaded.floor, self._revision
        self._fill(loaded)
        self._writer = writer.Writer(self._path, database, self._loop, self._committed)
        self._writer.start()

    async def stop(self) -> None:
        """Commit what is staged and close the file."""
        if self._writer is not None:
            self._send()
            running, self._writer = self._writer, None
            await asyncio.to_thread(running.stop)

    def _fill(self, loaded: sqlite.Loaded) -> None:
        self._log_revisions = [row.revision for row in loaded.log]
        by_storage: dict[str, list[history.Record]] = {}
        for row in loaded.current:
            by_storage.setdefault(row.storage, []).append(self._record(row, None))
        for storage, loaded_records in by_storage.items():
            self.cache(storage).load(loaded_records)
        states: dict[tuple[str, Key], history.Record] = {}
        for row in loaded.log:
            window, kept = self.cache(row.storage).window, self.cache(row.storage).records.get(row.key)
            record = kept if kept is not None and kept.revision == row.revision else self._record(row, None)
            old = states.get((row.storage, row.key))
            new = None if row.op == sqlite.DELETE else record
            window.append(history.Event(revision=row.revision, old=old, new=new, last=record))
            states[(row.storage, row.key)] = record
        for each in self._caches.values():
            # What an object was before its first logged change is not known: lists at those revisions must expire.
            each.window.snapshot_floor = self._revision

    def _record(self, row: sqlite.Row, obj: Object | None) -> history.Record:
        return self._records.make(row.storage, row.key, row.revision, row.value, obj=obj)

    @property
    def revision(self) -> int:
        """The newest committed revision."""
        return self._revision

    @property
    def backlog(self) -> int:
        """How many writes wait for the disk."""
        return len(self._queue)

    @property
    def problem(self) -> str:
        """Nothing: a disk that refuses tells whoever writes."""
        return ""

    async def fresh(self) -> None:
        """Return at once: this process is the only writer, and who was answered is in the view."""

    def storages(self) -> list[str]:
        """Return the names of the types that have or had objects."""
        return sorted(self._caches)

    def feed(self, storage: str) -> feed.Feed:
        """Return what wakes the watchers of a type."""
        found = self._feeds.get(storage)
        if found is None:
            assert self._loop is not None, "start() first"
            found = self._feeds[storage] = feed.Feed(self._loop)
        return found

    def latest(self, storage: str, key: Key) -> history.Record | None:
        """Return the newest record, staged writes included."""
        staged = self._overlay.get((storage, key))
        return staged.record if staged is not None else self._caches[storage].records.get(key)

    def staged(self, storage: str) -> Iterable[history.Record]:
        """Return what is written and not yet committed of a type, without deletions."""
        return [
            staged.record for (of, _), staged in self._overlay.items() if of == storage and staged.record is not None
        ]

    async def create(self, storage: str, obj: Object) -> history.Record:
        """Keep a new object; raise Exists."""
        key = records.key_of(obj)
        if self.latest(storage, key) is not None:
            raise protocol.Exists(f"{storage} {key}")
        return await self._stage(storage, key, obj, sqlite.CREATE)

    async def update(self, storage: str, obj: Object, *, expected: int) -> history.Record:
        """Replace an object that stands at revision `expected`; raise Missing or Conflict."""
        key = records.key_of(obj)
        self._guard(storage, key, expected)
        return await self._stage(storage, key, obj, sqlite.UPDATE)

    async def delete(self, storage: str, obj: Object, *, expected: int) -> history.Record:
        """Remove the object that stands at revision `expected`; `obj` is its final state."""
        key = records.key_of(obj)
        self._guard(storage, key, expected)
        return await self._stage(storage, key, obj, sqlite.DELETE)

    async def sweep(self) -> None:
        """Delete the objects of the types with a time to live that have not changed for so long."""
        for storage, before in self._ages.over(self._revision):
            for record in [each for each in self.cache(storage).range() if each.revision <= before]:
                try:
                    await self.delete(storage, orjson.loads(record.value), expected=record.revision)
                except (protocol.Conflict, protocol.Missing):
                    continue  # changed meanwhile: it lives on

    def _guard(self, storage: str, key: Key, expected: int) -> None:
        record = self.latest(storage, key)
        if record is None:
            raise protocol.Missing(f"{storage} {key}")
        if record.revision != expected:
            raise protocol.Conflict(expected=expected, found=record.revision)

    async def _stage(self, storage: str, key: Key, obj: Object, op: int) -> history.Record:
        if self._writer is None or self._loop is None:
            raise protocol.Unavailable("the store is not running")
        self._given += 1
        obj["metadata"]["resourceVersion"] = str(self._given)
        # orjson's own buffer is twice the text; a copy is what stays in memory for ever (measured).
        value = bytes(memoryview(known.encoded(obj)))
        row = sqlite.Row(storage, key, self._given, op, value, logged=storage not in _UNLOGGED)
        last = self._record(row, obj)
        record = None if op == sqlite.DELETE else last
        staged = _Staged(row=row, record=record, last=last, done=self._loop.create_future())
        self._overlay[(storage, key)] = staged
        self._queue[row.revision] = staged
        # The writer's thread is woken once for all that is staged in this turn of the loop: it is a lock's handover.
        if not self._outbox:
            self._loop.call_soon(self._send)
        self._outbox.append(row)
        # A client that hangs up ends the wait, not the write: others may already build on it.
        await staged.done
        return last

    def _send(self) -> None:
        outbox, self._outbox = self._outbox, []
        if self._writer is not None and outbox:
            self._writer.submit(outbox)

    def _committed(self, batch: Sequence[sqlite.Row], failure: Exception | None) -> None:
        if failure is not None:
            self._refuse(failure)
            return
        touched: set[str] = set()
        for row in batch:
            staged = self._queue.pop(row.revision, None)
            if staged is None:
                continue
            self.cache(row.storage).apply(revision=row.revision, record=staged.record, last=staged.last)
            if self._overlay.get((row.storage, row.key)) is staged:
                del self._overlay[(row.storage, row.key)]
            if row.logged:
                self._log_revisions.append(row.revision)
            touched.add(row.storage)
            if not staged.done.done():
                staged.done.set_result(None)
        self._revision = max(self._revision, batch[-1].revision)
        for storage in touched:
            self.feed(storage).ring()
        self._bound_log()

    def _refuse(self, failure: Exception) -> None:
        # What was staged after the failed batch may build on it: all of it goes.
        self._outbox.clear()
        if self._writer is not None:
            self._writer.resume()
        refused, self._queue = self._queue, {}
        self._overlay.clear()
        for staged in refused.values():
            if not staged.done.done():
                staged.done.set_exception(protocol.Unavailable(f"the write was not kept: {failure}"))

    def _bound_log(self) -> None:
        if len(self._log_revisions) > _LOG_ROWS + _LOG_ROWS // 4 and self._writer is not None:
            keep = self._log_revisions[-_LOG_ROWS:]
            self._writer.compact(below=keep[0])
            self._log_revisions = keep
