"""The verb watch: initial events, changes, bookmarks, until the client leaves. Which changes there are is store's."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import orjson

from netplane.controlplane.api import (
    cluster,
    following,
    http,
    listing,
    negotiate,
    options,
    reading,
    render,
    status,
    transport,
)  # fmt: skip
from netplane.controlplane.registry import faults, tables, types
from netplane.controlplane.registry.crd import resource
from netplane.controlplane.store import cache, history
from netplane.kube.types import EventType, Object

_SLICE = 500
_BOOKMARK_EVERY = 60.0
_INITIAL_END = "k8s.io/initial-events-end"


@dataclass(frozen=True, slots=True)
class _Start:
    """Where a watch begins: with the current objects first, or right after a revision."""

    sends_initial: bool
    ends_initial: bool
    revision: int | None


def _start(query: options.Query) -> _Start:
    revision = options.revision(query)
    wanted = options.text(query, "sendInitialEvents")
    match = options.text(query, "resourceVersionMatch")
    if not wanted and not match:
        return _Start(not revision, ends_initial=False, revision=revision or None)
    if found := list(_faults(wanted, match)):
        raise status.invalid_options("ListOptions", *found)
    if options.flag(query, "sendInitialEvents"):
        return _Start(sends_initial=True, ends_initial=True, revision=revision or None)
    return _Start(sends_initial=False, ends_initial=False, revision=revision or None)


def _faults(wanted: str, match: str) -> Iterator[faults.Fault]:
    """Yield what makes no sense (validateWatchOptions of k8s.io/apimachinery)."""
    field = "resourceVersionMatch"
    if wanted and match != "NotOlderThan":
        yield faults.forbidden(field, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
    if match and not wanted:
        yield faults.forbidden(
            field, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
        )
    if match not in ("", "NotOlderThan"):
        yield faults.not_supported(field, match, ("NotOlderThan",))


class Watch:
    """One client's watch. It never awaits between looking at the window and registering for news."""

    def __init__(self, at: cluster.Cluster, request: http.Request, of: types.ResourceType) -> None:
        assert request.target is not None
        self._at = at
        self._of = of
        self._send = request.send
        self._way = transport.line_of(request.scope)
        self._how = negotiate.parse(request.accept)
        self._include = reading.include(request)
        self._chosen = listing.choice(of, request.query, namespace=request.target.namespace)
        if request.target.name:
            self._chosen = listing.Choice(request.target.namespace, self._chosen.matches, request.target.name)
        self._selectors = tuple(options.text(request.query, name) for name in ("labelSelector", "fieldSelector"))
        self._wants_bookmarks = options.flag(request.query, "allowWatchBookmarks")
        self._start = _start(request.query)
        self._cache: cache.Cache = at.store.cache(cluster.storage(of))
        self._feed = at.store.feed(cluster.storage(of))
        chosen = self._chosen
        self._takes_all = not (chosen.name or chosen.matches) and self._is_plain
        self._next_bookmark = at.clock.monotonic() + _BOOKMARK_EVERY
        self._position = -1

    @property
    def _is_plain(self) -> bool:
        return self._how.shape == "object" and self._of.conversion is None

    async def run(self) -> None:
        """Stream until the client leaves, the window has moved past the client, or the server stops."""
        try:
            self._position = await self._begin()
            while not self._is_over():
                await self._step()
        except history.Expired as error:
            await self._fail(status.expired(str(error)))
        except status.ApiStatus as refusal:
            await self._fail(refusal)

    async def _step(self) -> None:
        window = self._cache.window
        if self._position != window.end:
            if self._takes_all:
                self._position, body = window.lines(self._position, limit=_SLICE, group=self._chosen.namespace)
            else:
                events = window.since(self._position, limit=_SLICE)
                self._position += len(events)
                events = await self._at.converter.events(self._of, events, with_old=self._chosen.matches is not None)
                body = b"".join(self._lines(events))
            if body:
                await self._write(body)
            return
        await self._bookmark_when_due()
        if self._is_up_to_date and not self._is_over():
            await self._follow()

    async def _follow(self) -> None:
        """Wait until this task has something to do; news of what is stored as it is sent go past it."""
        if self._way is None or not self._is_plain:
            await self._feed.wait()
            return
        chosen = self._chosen
        follower = following.Follower(
            self._cache.window,
            self._way,
            position=self._position,
            group=chosen.namespace if self._takes_all else (chosen.namespace, chosen.name, *self._selectors),
            make=None if self._takes_all else self._text,
            is_due=self._is_due,
        )
        try:
            await follower.wait(self._feed)
        finally:
            self._position = follower.position

    def _is_over(self) -> bool:
        """Whether the server stops, or a definition no longer serves what is watched in the way it did."""
        if self._of.crd is None or self._at.is_stopping:
            return self._at.is_stopping
        return self._is_changed() and (self._is_up_to_date or self._served() is not None)

    def _served(self) -> types.ResourceType | None:
        return self._at.registry.find(self._of.group, self._of.version, self._of.plural)

    def _is_changed(self) -> bool:
        of, now = self._of, self._served()
        if of.crd is None or now is of:
            return False
        if now is None or now.crd is None or resource.form(now.crd) != resource.form(of.crd):
            return True
        self._of = now
        return False

    def _is_due(self) -> bool:
        if self._at.is_stopping or (self._of.crd is not None and self._is_changed()):
            return True
        return self._wants_bookmarks and self._at.clock.monotonic() >= self._next_bookmark

    def _text(self, events: Sequence[history.Event]) -> bytes:
        return b"".join(self._lines(events))

    async def _fail(self, refusal: status.ApiStatus) -> None:
        self._wants_bookmarks = False
        await self._write(history.frame("ERROR", orjson.dumps(refusal.body())))

    @property
    def _is_up_to_date(self) -> bool:
        return self._position == self._cache.window.end

    async def finish(self) -> None:
        """End the stream so that the client sees it end well; a last bookmark saves it a relist."""
        if self._wants_bookmarks and self._is_up_to_date:
            await self._write(self._bookmark())
        await self._send({"type": "http.response.body", "body": b""})

    async def _begin(self) -> int:
        start, window = self._start, self._cache.window
        if start.revision is not None and start.revision > self._at.store.revision:
            if not start.ends_initial:
                raise history.Expired(f"resource version {start.revision} is not of this cluster's history")
            await reading.fresh(self._at, start.revision)
        if not start.sends_initial:
            return window.end if start.revision is None else window.position(start.revision)
        records = list(self._cache.range(namespace=self._chosen.namespace))
        position, revision = window.end, self._at.store.revision
        chosen = self._chosen
        if chosen.matches is None or not self._at.converter.is_asked(self._of):
            records = [record for record in records if chosen.includes(record)]
        for first in range(0, len(records), 100):
            shown = await self._at.converter.records(self._of, records[first : first + 100])
            lines = [self._line("ADDED", record) for record in shown if chosen.includes(record)]
            await self._write(b"".join(lines))
            await asyncio.sleep(0)
        if start.ends_initial and self._wants_bookmarks:
            await self._write(self._bookmark(revision, is_initial_end=True))
        return position

    def _lines(self, events: Sequence[history.Event]) -> Iterator[bytes]:
        for event in events:
            was = event.old is not None and self._chosen.includes(event.old)
            # What it was before the server restarted may not be known; then a change is told as one.
            is_now = event.new is not None and self._chosen.includes(event.new)
            if is_now:
                yield self._event_line("MODIFIED" if was else "ADDED", event)
            elif was or (event.new is None and event.old is None and self._chosen.includes(event.last)):
                yield self._left(event)

    def _left(self, event: history.Event) -> bytes:
        if event.new is None:
            return self._event_line("DELETED", event)
        # It no longer matches the selector: the client gets what it knew, at the revision of the change.
        assert event.old is not None
        obj = orjson.loads(event.old.value)
        obj["metadata"]["resourceVersion"] = str(event.revision)
        record = history.Record(event.key, event.revision, orjson.dumps(obj), event.old.index)
        return self._line("DELETED", record)

    def _event_line(self, type_: EventType, event: history.Event) -> bytes:
        return event.frame(type_) if self._is_plain else self._line(type_, event.last)

    def _line(self, type_: EventType, record: history.Record) -> bytes:
        if self._is_plain:
            return history.frame(type_, record.value)
        obj = render.shaped(
            self._of, render.decoded(self._of, record), self._how, self._at.clock.now(), include=self._include
        )
        return history.frame(type_, orjson.dumps(obj))

    async def _bookmark_when_due(self) -> None:
        if self._wants_bookmarks and self._at.clock.monotonic() >= self._next_bookmark:
            await self._write(self._bookmark())

    def _bookmark(self, revision: int = 0, *, is_initial_end: bool = False) -> bytes:
        self._next_bookmark = self._at.clock.monotonic() + _BOOKMARK_EVERY
        metadata: Object = {"resourceVersion": str(revision or self._at.store.revision), "creationTimestamp": None}
        if is_initial_end:
            metadata["annotations"] = {_INITIAL_END: "true"}
        obj: Object = {"kind": self._of.kind, "apiVersion": self._of.api_version, "metadata": metadata}
        if self._how.shape == "metadata":
            obj = tables.partial(obj)
        elif self._how.shape == "table":
            obj = tables.table(self._of, (), include_object=self._include, now=self._at.clock.now(), metadata=metadata)
        return history.frame("BOOKMARK", orjson.dumps(obj))

    async def _write(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})


async def watch(at: cluster.Cluster, request: http.Request, of: types.ResourceType) -> None:
    """Answer a watch; returns when it is over, also when the client just went away."""
    stream = Watch(at, request, of)
    seconds = options.number(request.query, "timeoutSeconds")
    seconds = 1800 + random.randrange(1800) if not seconds or seconds < 0 else seconds
    told = http.warning_headers(request.warnings)
    headers = [(b"content-type", http.JSON), (b"cache-control", b"no-cache, private"), *told]
    await request.send({"type": "http.response.start", "status": 200, "headers": headers})
    await request.send({"type": "http.response.body", "body": b"", "more_body": True})
    async with asyncio.TaskGroup() as group:
        running = group.create_task(_limited(stream, seconds))
        gone = group.create_task(http.until_disconnect(request.receive))
        await asyncio.wait((running, gone), return_when=asyncio.FIRST_COMPLETED)
        running.cancel()
        gone.cancel()


async def _limited(stream: Watch, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stream.run()
    except TimeoutError:
        pass
    await stream.finish()
