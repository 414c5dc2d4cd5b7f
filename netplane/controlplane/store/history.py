"""Remember what changed, for watchers and for lists at an older revision. Waking the watchers is feed's."""

from __future__ import annotations

import base64
import binascii
import bisect
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import orjson

from netplane.kube.types import EventType, Key

Labels = Mapping[str, str]
_TOLD_GROUPS = 64
_TOLD_BYTES = 4 << 20


class Expired(Exception):
    """The revision asked for has left the window: the client must list anew (HTTP 410)."""


class InvalidToken(Exception):
    """A continue token that this server did not make."""


class Index(NamedTuple):
    """What selectors look at, kept beside the bytes so that nothing is decoded to filter."""

    labels: Labels
    fields: Labels


@dataclass(frozen=True, slots=True)
class Record:
    """One object at one revision: the encoded bytes that every list and watch shares."""

    key: Key
    revision: int
    value: bytes
    index: Index


class Event:
    """One change of one object. `new` is None when it was deleted; `last` is then its final state."""

    __slots__ = ("_frames", "last", "new", "old", "revision")

    def __init__(self, *, revision: int, old: Record | None, new: Record | None, last: Record) -> None:
        self.revision = revision
        self.old = old
        self.new = new
        self.last = last
        self._frames: dict[str, bytes] = {}

    @property
    def key(self) -> Key:
        """The object's (namespace, name)."""
        return self.last.key

    def frame(self, type_: EventType) -> bytes:
        """Return the watch line of this event, built once however many watchers read it."""
        line = self._frames.get(type_)
        if line is None:
            line = frame(type_, self.last.value)
            self._frames[type_] = line
        return line

    @property
    def line(self) -> bytes:
        """The watch line for who sees every object."""
        return self.frame("DELETED" if self.new is None else "MODIFIED" if self.old else "ADDED")

    @property
    def size(self) -> int:
        """The bytes that the window keeps alive for it, roughly."""
        return len(self.last.value) + (len(self.old.value) if self.old else 0)


def frame(type_: EventType | Literal["ERROR"], value: bytes) -> bytes:
    """Return one line of a watch stream: `{"type":"ADDED","object":…}\\n`."""
    return b'{"type":"' + type_.encode() + b'","object":' + value + b"}\n"


class Window:
    """The last events of one resource type, numbered by position so that each watcher is one integer.

    `floor` is the highest revision of which the window cannot tell what came after it. Positions count from the
    window's birth and stay valid while events are dropped from its tail.
    """

    __slots__ = ("_bytes", "_events", "_first", "_limit", "_limit_bytes", "_told", "floor", "snapshot_floor")

    def __init__(self, *, floor: int, limit: int = 8192, limit_bytes: int = 24 << 20) -> None:
        self.floor = floor
        self.snapshot_floor = floor
        self._events: list[Event] = []
        self._first = 0
        self._bytes = 0
        self._told: dict[Hashable, tuple[int, int, bytes]] = {}
        self._limit = limit
        self._limit_bytes = limit_bytes

    @property
    def end(self) -> int:
        """The position after the newest event."""
        return self._first + len(self._events)

    def append(self, event: Event) -> None:
        """Add the newest event; drop the oldest quarter when the window is full."""
        self._events.append(event)
        self._bytes += event.size
        if len(self._events) > self._limit or self._bytes > self._limit_bytes:
            self._drop(max(1, len(self._events) // 4))

    def _drop(self, count: int) -> None:
        dropped = self._events[:count]
        del self._events[:count]
        self._first += count
        self._bytes -= sum(event.size for event in dropped)
        self.floor = max(self.floor, dropped[-1].revision)
        self.snapshot_floor = max(self.snapshot_floor, self.floor)

    def restart(self, floor: int) -> None:
        """Forget all events and let every watcher list anew: what happened up to `floor` is not known."""
        self._first += len(self._events) + 1
        self._events.clear()
        self._bytes = 0
        self.floor = self.snapshot_floor = floor

    def position(self, revision: int) -> int:
        """Return the position of the first event after `revision`; raise Expired when events may be missing."""
        if revision < self.floor:
            raise Expired(f"too old resource version: {revision} ({self.floor})")
        return self._first + bisect.bisect_right(self._events, revision, key=lambda event: event.revision)

    def since(self, position: int, *, limit: int) -> list[Event]:
        """Return up to `limit` events from `position` on; raise Expired when they have been dropped."""
        start = position - self._first
        if start < 0:
            raise Expired(f"too old resource version: the watcher lags behind revision {self.floor}")
        return self._events[start : start + limit]

    def lines(
        self, position: int, *, limit: int, group: Hashable = "", make: Callable[[Sequence[Event]], bytes] | None = None
    ) -> tuple[int, bytes]:
        """Return where up to `limit` events after `position` end, and their lines: made once for all who stand there.

        A group is told the same: by default the events of the namespace that it names, else what `make` makes of them.
        Raises Expired as `since` does.
        """
        told = self._told.get(group)
        if told is not None and told[0] == position and told[1] == min(self.end, position + limit):
            return told[1], told[2]
        events = self.since(position, limit=limit)
        if make is not None:
            text = make(events)
        else:
            text = b"".join([event.line for event in events if not group or event.key[0] == group])
        end = position + len(events)
        self._told.pop(group, None)
        if sum(len(each[2]) for each in self._told.values()) > _TOLD_BYTES or len(self._told) >= _TOLD_GROUPS:
            self._told.clear()
        self._told[group] = (position, end, text)
        return end, text

    def undo(self, revision: int) -> dict[Key, Record | None]:
        """Return what must be put over the current objects to see them as they were at `revision`."""
        if revision < self.snapshot_floor:
            raise Expired(f"The provided resource version is too old: {revision} ({self.snapshot_floor})")
        start = self.position(revision) - self._first
        undone: dict[Key, Record | None] = {}
        for event in reversed(self._events[start:]):
            undone[event.key] = event.old
        return undone


@dataclass(frozen=True, slots=True)
class Continue:
    """Where a list in pages stands: the revision of its snapshot and the last key that was sent."""

    revision: int
    after: Key

    def encode(self) -> str:
        """Return the opaque token for the client."""
        data = orjson.dumps({"v": "netplane/v1", "rv": self.revision, "after": self.after})
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode_continue(token: str) -> Continue:
    """Return what the token says; raise InvalidToken when it is none of ours."""
    try:
        data = orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        namespace, name = data["after"]
        if data["v"] != "netplane/v1":
            raise InvalidToken(f"continue token of another format: {data['v']}")
        return Continue(int(data["rv"]), (str(namespace), str(name)))
    except (binascii.Error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidToken(f"continue key is not valid: {error}") from error


def total(records: Iterable[Record]) -> int:
    """Return the bytes of the records together."""
    return sum(len(record.value) for record in records)
