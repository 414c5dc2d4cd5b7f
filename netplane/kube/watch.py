"""Turn the bytes of a watch into events. Where the bytes come from and what to do after the end is the caller's.

A watch is a sequence of JSON documents, one a line (Kubernetes API concepts, "Efficient detection of changes").
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import orjson

from netplane.kube import errors
from netplane.kube.types import EventType, Key, Object

INITIAL_EVENTS_END = "k8s.io/initial-events-end"
"""Annotation of the bookmark that ends the initial events of a WatchList (KEP-3157)."""


class Read(NamedTuple):
    """What a reader made of one object."""

    key: Key
    revision: str
    fact: Any


class Reader(Protocol):
    """Reads objects straight from their JSON (`quick`). None: the object is to be decoded whole."""

    def item(self, data: bytes | memoryview) -> Read | None:
        """Read one object."""

    def event(self, data: bytes) -> tuple[EventType, Read] | None:
        """Read one event of a watch."""


class Event(NamedTuple):
    """One change. A BOOKMARK's object holds a resourceVersion and no more.

    Where a reader understood it, `read` is what it made of the object, and `object` is empty.
    """

    type: EventType
    object: Object
    received: float = 0.0
    """When its bytes came, by the reader's monotonic clock."""
    read: Read | None = None

    @property
    def resource_version(self) -> str:
        """Where a later watch may resume."""
        if self.read is not None:
            return self.read.revision
        version: str = self.object.get("metadata", {}).get("resourceVersion", "")
        return version

    @property
    def ends_initial_events(self) -> bool:
        """Whether everything there was has now been told."""
        if self.type != "BOOKMARK":
            return False
        annotations = self.object.get("metadata", {}).get("annotations") or {}
        return annotations.get(INITIAL_EVENTS_END) == "true"


_event: Callable[[tuple[EventType, Object, float, Read | None]], Event] = partial(tuple.__new__, Event)
_READ: Object = {}
"""The object of whatever a reader understood."""


def resumed(resource_version: str) -> Event:
    """Return the bookmark that tells a follower that the server took up the watch where it had ended."""
    return Event("BOOKMARK", {"metadata": {"resourceVersion": resource_version}})


class Decoder:
    """Cuts a stream of bytes, however it was split, into events.

    An ERROR event or a broken line ends the stream: the events before it are still returned, `error` then holds why
    (`errors.Gone` when the history was compacted), and later bytes are ignored.
    """

    __slots__ = ("_parts", "_reader", "error")

    def __init__(self, reader: Reader | None = None) -> None:
        self._parts: list[bytes] = []
        self._reader = reader
        self.error: errors.ApiError | None = None

    def feed(self, data: bytes, *, received: float = 0.0) -> list[Event]:
        """Return the events whose last byte is in `data`."""
        if b"\n" not in data:
            self._parts.append(data)
            return []
        first, *lines = data.split(b"\n")
        lines.insert(0, b"".join((*self._parts, first)))
        self._parts = [lines.pop()]
        events = []
        for line in lines:
            event = self._decode(line, received) if self.error is None and line.strip() else None
            if event:
                events.append(event)
        return events

    def _decode(self, line: bytes, received: float) -> Event | None:
        if self._reader is not None and (told := self._reader.event(line)) is not None:
            return _event((told[0], _READ, received, told[1]))
        try:
            document = orjson.loads(line)
            kind, content = document["type"], document["object"]
        except (ValueError, TypeError, KeyError):
            self.error = errors.InternalError(500, "InternalError", f"watch sent a broken line: {line[:200]!r}")
            return None
        if kind == "ERROR":
            self.error = errors.from_status(content)
            return None
        return Event(kind, content, received)
