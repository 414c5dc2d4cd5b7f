"""What the API asks of a store, whichever body it has. The bodies are `embedded` (SQLite) and `etcd`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Protocol

from netplane.controlplane.store import cache, feed, history
from netplane.kube.types import Key, Object

Indexer = Callable[[str, Object], history.Index]
"""(storage name, object) to what selectors look at; given by whoever knows the resource types."""

Claims = Callable[[str, Object], frozenset[str]]
"""(storage name, object) to what the object alone may hold in the whole cluster: addresses, ports."""

Grounds = Callable[[str, frozenset[str], Callable[[str], cache.Cache]], Iterable[tuple[str, Key, int]]]
"""(storage name, what an object newly claims, the caches) to the objects that allow it to: storage name, key and
revision of each, 0 where none may be. Another server's change of one of them in the meantime is Taken as well.
"""


class StoreError(Exception):
    """The root of what a store answers instead of a record: Exists, Missing, Conflict, Taken, TooLarge, Unavailable."""


class Exists(StoreError):
    """A create found the key taken."""


class Missing(StoreError):
    """The key is not there."""


class Conflict(StoreError):
    """The object is at another revision than the caller saw."""

    def __init__(self, *, expected: int, found: int) -> None:
        super().__init__(f"expected revision {expected}, found {found}")
        self.expected = expected
        self.found = found


class Taken(StoreError):
    """Another server was faster: an object holds what this one claims, or that may not be claimed as it was seen."""


class TooLarge(StoreError):
    """The object is larger than the store takes."""


class Unavailable(StoreError):
    """The disk refused and kept nothing, or etcd does not answer and may have kept the write."""


class Store(Protocol):
    """Objects with compare-and-swap by revision, and the committed view that lists and watches read.

    A storage name is the type's `plural.group`; versions of one type share it. Objects given to a write are
    owned by the store afterwards. A write that returned is on disk and in the cache.
    """

    @property
    def revision(self) -> int:
        """The newest committed revision."""

    @property
    def backlog(self) -> int:
        """How many writes are on their way."""

    @property
    def problem(self) -> str:
        """Why the committed view cannot follow now, "" when all is well."""

    def storages(self) -> list[str]:
        """Return the names of the types that have or had objects."""

    async def fresh(self) -> None:
        """Wait until the committed view holds every write that was answered before this call, by whichever server."""

    async def sweep(self) -> None:
        """Let those objects go whose time is over, if that does not happen by itself; to be called now and then."""

    async def stop(self) -> None:
        """Bring to an end what is on its way, and close."""

    def cache(self, storage: str) -> cache.Cache:
        """Return the committed objects of a type."""

    def feed(self, storage: str) -> feed.Feed:
        """Return what wakes the watchers of a type."""

    def latest(self, storage: str, key: Key) -> history.Record | None:
        """Return the newest record a write must start from, staged writes included."""

    def staged(self, storage: str) -> Iterable[history.Record]:
        """Return what is written and not yet committed of a type, without deletions."""

    async def create(self, storage: str, obj: Object) -> history.Record:
        """Keep a new object; raise Exists."""

    async def update(self, storage: str, obj: Object, *, expected: int) -> history.Record:
        """Replace an object that stands at revision `expected`; raise Missing or Conflict."""

    async def delete(self, storage: str, obj: Object, *, expected: int) -> history.Record:
        """Remove the object that stands at revision `expected`; `obj` is its final state."""


Write = Coroutine[object, object, history.Record]
"""What the writing methods of a store return before they are awaited."""
