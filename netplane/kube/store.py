"""Keep a copy of a resource's objects from events and lists, in whatever order they come. Fetching is `informer`'s."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from types import MappingProxyType
from typing import Any, NamedTuple

from netplane.kube import watch
from netplane.kube.types import Key, Object, Resource, key_of

Transform = Callable[[Object], Any]
"""What to keep of an object: a typed fact, a smaller object, or None to leave it out. A ValueError leaves it out."""

_TOMBSTONES = 1000


class Change(NamedTuple):
    """One object that came, changed or went. The values are what the query's `transform` made, else the objects."""

    resource: Resource
    key: Key
    old: Any
    new: Any


@dataclass(frozen=True, slots=True)
class Rejected:
    """An object that the transform could not make sense of; it counts as absent."""

    resource: Resource
    key: Key
    reason: str


class _Entry(NamedTuple):
    value: Any
    version: int


# In half the time that their names take: a first list makes one of each for every object.
_change: Callable[[tuple[Resource, Key, Any, Any]], Change] = partial(tuple.__new__, Change)
_entry: Callable[[tuple[Any, int]], _Entry] = partial(tuple.__new__, _Entry)


@dataclass(slots=True)
class Staged:
    """A complete copy in the making, which `Store.replace` puts in place of the old one."""

    entries: dict[Key, _Entry] = field(default_factory=dict)


class Store:
    """The objects of one query. For each key the newest resourceVersion wins, so order and repetition do not matter."""

    def __init__(self, resource: Resource, transform: Transform | None = None) -> None:
        self.resource = resource
        self.rejected: list[Rejected] = []
        self._transform = transform
        self._values: dict[Key, Any] = {}
        self._versions: dict[Key, int] = {}
        self._tombstones: dict[Key, int] = {}

    @property
    def values(self) -> Mapping[Key, Any]:
        """A live read-only view of what is there."""
        return MappingProxyType(self._values)

    def apply(self, event: watch.Event) -> Change | None:
        """Take in one event; return the change it made, if any."""
        if event.type == "BOOKMARK":
            return None
        read = event.read
        if read is None:
            key, version = key_of(event.object), _version(event.object)
        else:
            key, version = read.key, _number(read.revision)
        if event.type == "DELETED":
            return self._remove(key, version)
        if version and (version <= self._versions.get(key, 0) or version <= self._tombstones.get(key, 0)):
            return None
        return self._put(key, self._kept(key, event.object) if read is None else read.fact, version)

    def stage(self, staged: Staged, objects: Iterable[Object]) -> None:
        """Add objects to a copy in the making."""
        entries = staged.entries
        for obj in objects:
            key, version = key_of(obj), _version(obj)
            there = entries.get(key)
            if there is None or not version or version > there.version:
                entries[key] = _entry((self._kept(key, obj), version))

    def stage_event(self, staged: Staged, event: watch.Event) -> None:
        """Take an event into a copy in the making: WatchList tells what there is as events."""
        if event.type == "DELETED":
            staged.entries.pop(key_of(event.object) if event.read is None else event.read.key, None)
        elif event.read is not None:
            self.stage_read(staged, (event.read,))
        elif event.type != "BOOKMARK":
            self.stage(staged, (event.object,))

    def stage_read(self, staged: Staged, objects: Iterable[watch.Read]) -> None:
        """Add what was read already to a copy in the making."""
        entries = staged.entries
        for key, revision, fact in objects:
            version = _number(revision)
            there = entries.get(key)
            if there is None or not version or version > there.version:
                entries[key] = _entry((fact, version))

    def replace(self, staged: Staged) -> list[Change]:
        """Put the copy in place, whatever was there before; return only what differs."""
        self._tombstones.clear()
        if not self._versions:
            return self._fill(staged)
        gone = [key for key in self._versions if key not in staged.entries]
        changes = [self._remove(key, 0) for key in gone]
        self._tombstones.clear()
        changes += [self._put(key, entry.value, entry.version) for key, entry in staged.entries.items()]
        return [change for change in changes if change is not None]

    def _fill(self, staged: Staged) -> list[Change]:
        """Put the first copy in place: everything is new."""
        self._versions = {key: entry.version for key, entry in staged.entries.items()}
        there = ((key, entry.value) for key, entry in staged.entries.items() if entry.value is not None)
        self._values.update(there)
        return [_change((self.resource, key, None, value)) for key, value in self._values.items()]

    def _kept(self, key: Key, obj: Object) -> Any:
        if self._transform is None:
            return obj
        try:
            return self._transform(obj)
        except ValueError as error:
            self.rejected.append(Rejected(self.resource, key, str(error)))
            return None

    def _put(self, key: Key, new: Any, version: int) -> Change | None:
        self._versions[key] = version
        if self._tombstones:
            self._tombstones.pop(key, None)
        old = self._values.get(key)
        if old == new:
            return None
        if new is None:
            del self._values[key]
        else:
            self._values[key] = new
        return _change((self.resource, key, old, new))

    def _remove(self, key: Key, version: int) -> Change | None:
        if version and version < self._versions.get(key, 0):
            return None
        self._versions.pop(key, None)
        self._tombstones[key] = max(version, self._tombstones.pop(key, 0))
        if len(self._tombstones) > _TOMBSTONES:
            del self._tombstones[next(iter(self._tombstones))]
        old = self._values.pop(key, None)
        return Change(self.resource, key, old, None) if old is not None else None


class Pending:
    """Changes gathered until somebody takes them: one per object, from what was last taken to what is now."""

    def __init__(self) -> None:
        self._changes: dict[Resource, dict[Key, Change]] = {}
        self._received: float | None = None

    def __bool__(self) -> bool:
        return any(self._changes.values())

    def add(self, changes: Iterable[Change], received: float) -> None:
        """Add changes; one that undoes an earlier one leaves nothing."""
        if self._received is None:
            self._received = received
        for change in changes:
            waiting = self._changes.get(change.resource)
            if waiting is None:
                waiting = self._changes[change.resource] = {}
            earlier = waiting.pop(change.key, None)
            if earlier is None:
                waiting[change.key] = change
            elif earlier.old != change.new:
                waiting[change.key] = change._replace(old=earlier.old)

    def take(self) -> tuple[tuple[Change, ...], float | None]:
        """Return and forget the changes, and when the first of their bytes came."""
        changes = tuple(chain.from_iterable(waiting.values() for waiting in self._changes.values()))
        received, self._received = self._received, None
        self._changes = {}
        return changes, received


def _version(obj: Object) -> int:
    """Return the resourceVersion as a number, 0 when it is not one: then every event counts as newer."""
    return _number(obj["metadata"].get("resourceVersion", ""))


def _number(revision: str) -> int:
    return int(revision) if revision.isdigit() else 0
