"""The store that several servers share: etcd keeps the objects and decides, every server holds all of them in memory.

A write is one transaction, guarded by the object's revision. It returns once the server's own view has it, which one
watch over all keys feeds. Before a read that must be of now, `fresh` asks a quorum how far etcd is and waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Never

from netplane.controlplane.store import cache, feed, history, protocol, records
from netplane.controlplane.store.etcd import client, duties, keys, wire
from netplane.controlplane.store.etcd.view import View
from netplane.kube.types import Key, Object
from netplane.lib import clock as clocks
from netplane.lib import log

COMPACTION_SECONDS = 300.0
_LOG = log.get("store")
_PAGE = 1000
_HISTORY = 2000
_OWN_WRITE_SECONDS = 5.0
_FRESH_SECONDS = 8.0
_NUDGE_SECONDS = 0.25
_NO_TTLS: Mapping[str, int] = {}


def nothing_claimed(_: str, __: Object) -> frozenset[str]:
    """The claims of objects that hold nothing alone."""
    return frozenset()


def nothing_needed(_: str, __: frozenset[str], ___: object) -> tuple[()]:
    """The grounds of claims that everybody may make."""
    return ()


class Etcd:
    """A `protocol.Store` on etcd. `start` needs a quorum; afterwards it lives through members that come and go."""

    def __init__(
        self,
        members: client.Client,
        index: protocol.Indexer,
        *,
        prefix: str = "/registry",
        claims: protocol.Claims = nothing_claimed,
        grounds: protocol.Grounds = nothing_needed,
        ttls: Mapping[str, int] = _NO_TTLS,
        compaction: float = COMPACTION_SECONDS,
        clock: clocks.Clock = clocks.SYSTEM,
    ) -> None:
        self._members = members
        self._layout = keys.Layout(prefix)
        self._view = View(self._layout, index)
        self._claims = claims
        self._grounds = grounds
        self._ttls = ttls
        self._compaction = compaction
        self._clock = clock
        self._leases = duties.Leases(members, clock=clock)
        self._in_flight: dict[int, tuple[str, bytes, Object]] = {}
        self._askers: list[asyncio.Future[int]] = []
        self._asked = asyncio.Event()
        self._problem = ""
        self._watch: asyncio.Task[None] | None = None
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read everything, with a little of the past, and follow; raise protocol.Unavailable without a quorum."""
        now = (await self._members.range(wire.range_(self._layout.start, is_count=True))).revision
        try:
            await self._load(max(1, now - _HISTORY))
        except client.Compacted:
            await self._load(0)
        # The one task that is nobody's child: it lives from start to stop, which awaits it.
        self._running = asyncio.get_running_loop().create_task(self._run())
        try:
            await self._view.reached(await self._pulse(), within=_FRESH_SECONDS)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End what runs and hang up."""
        if self._running is not None:
            running, self._running = self._running, None
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        await self._members.close()

    async def sweep(self) -> None:
        """Do nothing: etcd lets objects go whose lease has ended."""

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_for_ever(group))
            group.create_task(self._ask_for_ever())
            duty = duties.compact_for_ever(self._members, self._layout, every=self._compaction, clock=self._clock)
            group.create_task(duty)

    async def identify(self, mine: bytes) -> bytes:
        """Write down whose cluster this is, if nobody has; return what is written there now."""
        key = self._layout.identity
        request = wire.txn(
            [wire.stands_at(key, 0)], [wire.doing_put(wire.put(key, mine))], [wire.doing_range(wire.range_(key))]
        )
        decided = (await self._members.txn(request)).decided
        return mine if decided.succeeded else decided.found[0][0].value

    @property
    def revision(self) -> int:
        """The newest revision in the view."""
        return self._view.revision

    @property
    def backlog(self) -> int:
        """How many writes are on their way."""
        return len(self._in_flight)

    @property
    def problem(self) -> str:
        """Why the view cannot follow now, "" when all is well."""
        return self._problem

    def cache(self, storage: str) -> cache.Cache:
        """Return the committed objects of a type, as far as this server has seen."""
        return self._view.cache(storage)

    def storages(self) -> list[str]:
        """Return the names of the types that have or had objects."""
        return self._view.storages()

    def feed(self, storage: str) -> feed.Feed:
        """Return what wakes the watchers of a type."""
        return self._view.feed(storage)

    def latest(self, storage: str, key: Key) -> history.Record | None:
        """Return the newest record seen: a write that starts from an older one than etcd's meets Conflict."""
        return self.cache(storage).records.get(key)

    def staged(self, storage: str) -> Iterable[history.Record]:
        """Return what this server is writing now of a type."""
        make = self._view.records.make
        flying = [(value, obj) for of, value, obj in self._in_flight.values() if of == storage]
        return [make(storage, records.key_of(obj), 0, value, obj=obj) for value, obj in flying]

    async def create(self, storage: str, obj: Object) -> history.Record:
        """Keep a new object; raise Exists or Taken."""
        return await self._put(storage, obj, expected=0, before=frozenset())

    async def update(self, storage: str, obj: Object, *, expected: int) -> history.Record:
        """Replace an object that stands at revision `expected`; raise Missing, Conflict or Taken."""
        # To etcd revision 0 means "not there": what no object can stand at is asked as the first revision there is.
        return await self._put(storage, obj, expected=max(expected, 1), before=self._held(storage, obj))

    async def delete(self, storage: str, obj: Object, *, expected: int) -> history.Record:
        """Remove the object that stands at revision `expected`. Watchers get its last stored state, as everywhere."""
        place = records.key_of(obj)
        key = self._layout.of(storage, place)
        gone = [wire.doing_delete(self._layout.claim(each)) for each in sorted(self._held(storage, obj))]
        request = wire.txn(
            [wire.stands_at(key, max(expected, 1))],
            [wire.doing_delete(key), *gone],
            [wire.doing_range(wire.range_(key))],
        )
        written = await self._members.txn(request)
        decided = written.decided
        if not decided.succeeded and (decided.found[0] or written.sent_once):
            await self._view.reached(decided.revision, within=_NUDGE_SECONDS)
            raise _refusal(storage, place, decided.found[0], expected)
        obj["metadata"]["resourceVersion"] = str(decided.revision)
        await self._view.reached(decided.revision, within=_OWN_WRITE_SECONDS)
        value = keys.stamped(keys.pack(obj), decided.revision)
        return self._view.records.make(storage, place, decided.revision, value, obj=obj)

    def _held(self, storage: str, obj: Object) -> frozenset[str]:
        record = self.latest(storage, records.key_of(obj))
        return _claimed(self._claims, storage, record)

    async def _put(self, storage: str, obj: Object, *, expected: int, before: frozenset[str]) -> history.Record:
        place = records.key_of(obj)
        value = keys.pack(obj)
        flight = max(self._in_flight, default=0) + 1
        self._in_flight[flight] = (storage, value, obj)
        try:
            request = await self._request(storage, obj, value, expected=expected, before=before)
            # A client that hangs up must not leave us in doubt: what is sent is waited for.
            written = await asyncio.shield(self._members.txn(request))
            revision = _revision_of(written, storage, place, value, obj, expected)
            if revision is None:
                await self._view.reached(written.decided.revision, within=_NUDGE_SECONDS)
                raise _refusal(storage, place, written.decided.found[0], expected)
            obj["metadata"]["resourceVersion"] = str(revision)
            await self._view.reached(revision, within=_OWN_WRITE_SECONDS)
            kept = self.latest(storage, place)
            if kept is not None and kept.revision == revision:
                return kept
            return self._view.records.make(storage, place, revision, keys.stamped(value, revision), obj=obj)
        finally:
            del self._in_flight[flight]

    async def _request(
        self, storage: str, obj: Object, value: bytes, *, expected: int, before: frozenset[str]
    ) -> bytes:
        """Return the transaction: the object with what it claims alone, while it may claim that, or nothing of it."""
        place = records.key_of(obj)
        key, owner = self._layout.of(storage, place), f"{storage}/{place[0]}/{place[1]}".encode()
        claims = self._claims(storage, obj)
        new = [self._layout.claim(each) for each in sorted(claims - before)]
        grounds = self._grounds(storage, claims - before, self.cache) if new else ()
        old = [self._layout.claim(each) for each in sorted(before - claims)]
        seconds = self._ttls.get(storage, 0)
        lease = await self._leases.lease(seconds) if seconds else 0
        return wire.txn(
            [
                wire.stands_at(key, expected),
                *(wire.stands_at(each, 0) for each in new),
                *(wire.stands_at(self._layout.of(kind, name), seen) for kind, name, seen in grounds),
            ],
            [
                wire.doing_put(wire.put(key, value, lease=lease)),
                *(wire.doing_put(wire.put(each, owner)) for each in new),
                *(wire.doing_delete(each) for each in old),
            ],
            [wire.doing_range(wire.range_(key))],
        )

    async def fresh(self) -> None:
        """Wait until the view is as far as a quorum of etcd was after this call; raise protocol.Unavailable."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._askers.append(future)
        self._asked.set()
        try:
            async with asyncio.timeout(_FRESH_SECONDS):
                revision = await future
                while not await self._view.reached(revision, within=_NUDGE_SECONDS):
                    await self._nudge()
        except TimeoutError as error:
            raise protocol.Unavailable(f"etcd does not tell how far it is: {self._problem or 'no answer'}") from error

    async def _nudge(self) -> None:
        """Make a change of our own: the revision that is waited for may be of keys under another prefix.

        A watch that does not tell it is broken in a way that nobody noticed: it is begun anew, at another member.
        """
        if not await self._view.reached(await self._pulse(), within=2.0) and self._watch is not None:
            self._members.avoid()
            self._watch.cancel()

    async def _pulse(self) -> int:
        """Write a key that means nothing, and return the revision of that."""
        request = wire.txn([], [wire.doing_put(wire.put(self._layout.pulse, b""))])
        return (await self._members.txn(request)).decided.revision

    async def _ask_for_ever(self) -> Never:
        """Ask a quorum for the revision, once for all who wait; who comes later is in the next question."""
        question = wire.range_(self._layout.pulse, is_count=True)
        while True:
            await self._asked.wait()
            self._asked.clear()
            askers, self._askers = self._askers, []
            try:
                revision = (await self._members.range(question, patience=_FRESH_SECONDS)).revision
            except protocol.StoreError as error:
                for asker in askers:
                    if not asker.done():
                        asker.set_exception(protocol.Unavailable(str(error)))
                continue
            for asker in askers:
                if not asker.done():
                    asker.set_result(revision)

    async def _follow_for_ever(self, group: asyncio.TaskGroup) -> Never:
        while True:
            self._watch = group.create_task(self._follow())
            await asyncio.wait([self._watch])
            await self._clock.sleep(0.05)

    async def _follow(self) -> None:
        request = wire.watch_create(self._layout.start, self._layout.end, start=self._view.revision + 1)
        try:
            async for message in self._members.watch(request):
                self._problem = ""
                self._view.take(message.changes)
        except client.Compacted as error:
            _LOG.warning("lagged behind etcd's compaction; reading everything anew", cause=error)
            await self._load_again()
        except (protocol.StoreError, wire.Malformed) as error:
            if not self._problem:
                _LOG.warning("the watch of etcd broke; going on at the next member", cause=error)
            self._problem = str(error)
            self._members.avoid()

    async def _load_again(self) -> None:
        try:
            await self._load(0)
        except protocol.StoreError as error:
            self._problem = str(error)

    async def _load(self, revision: int) -> None:
        """Read all keys as they were at one revision, 0 for now."""
        found: list[wire.KeyValue] = []
        start = self._layout.start
        while True:
            page = await self._members.range(wire.range_(start, self._layout.end, limit=_PAGE, revision=revision))
            revision = revision or page.revision
            found += page.found
            if not page.has_more:
                break
            start = page.found[-1].key + b"\0"
        self._view.fill(found, revision)


def _claimed(claims: protocol.Claims, storage: str, record: history.Record | None) -> frozenset[str]:
    if record is None or claims is nothing_claimed:
        return frozenset()
    return claims(storage, keys.unpacked(record.value))


def _revision_of(
    written: client.Written, storage: str, place: Key, value: bytes, obj: Object, expected: int
) -> int | None:
    """Return the revision at which our write stands, None when it was refused.

    An attempt without an answer may have been carried out: then the next one finds what we wanted to write.
    """
    decided = written.decided
    if decided.succeeded:
        return decided.revision
    found = decided.found[0]
    if found and not written.sent_once:
        uid = str(obj["metadata"].get("uid", ""))
        is_made = not expected and uid and b'"uid":"%b"' % uid.encode() in found[0].value
        if found[0].value == value or is_made:
            return found[0].revision
    if (found and found[0].revision == expected) or (not found and not expected):
        raise protocol.Taken(f"{storage} {place}: what it claims is held by another object, or not to be had any more")
    return None


def _refusal(storage: str, place: Key, found: tuple[wire.KeyValue, ...], expected: int) -> protocol.StoreError:
    if not found:
        return protocol.Missing(f"{storage} {place}")
    if not expected:
        return protocol.Exists(f"{storage} {place}")
    return protocol.Conflict(expected=expected, found=found[0].revision)
