"""Hold the committed objects of one resource type, sorted, with their history. What is staged is embedded's."""

from __future__ import annotations

import bisect
from collections.abc import Iterator

from netplane.controlplane.store import history
from netplane.kube.types import Key

_AFTER_EVERY_NAME = "\U0010ffff"


class Cache:
    """The current objects of one resource type, in key order, and the window of their changes."""

    __slots__ = ("_keys", "records", "window")

    def __init__(self, *, floor: int) -> None:
        self.records: dict[Key, history.Record] = {}
        self._keys: list[Key] = []
        self.window = history.Window(floor=floor)

    def load(self, records: list[history.Record]) -> None:
        """Fill an empty cache from the disk."""
        self.records = {record.key: record for record in records}
        self._keys = sorted(self.records)

    def apply(self, *, revision: int, record: history.Record | None, last: history.Record) -> history.Event:
        """Take one committed change in: `record` is the new state, None a deletion whose final state is `last`."""
        key = last.key
        old = self.records.get(key)
        if record is not None:
            if old is None:
                bisect.insort(self._keys, key)
            self.records[key] = record
        elif old is not None:
            del self.records[key]
            del self._keys[bisect.bisect_left(self._keys, key)]
        event = history.Event(revision=revision, old=old, new=record, last=last)
        self.window.append(event)
        return event

    def range(self, *, namespace: str = "", after: Key | None = None) -> Iterator[history.Record]:
        """Iterate the current records in key order, of one namespace or all, after a key. No changes meanwhile."""
        start, end = self._bounds(namespace, after)
        for position in range(start, end):
            yield self.records[self._keys[position]]

    def snapshot(
        self, *, revision: int | None = None, namespace: str = "", after: Key | None = None
    ) -> list[history.Record]:
        """Return the records in key order, as they were at `revision` when one is given.

        Raises history.Expired when the window no longer reaches back that far.
        """
        if revision is None:
            return list(self.range(namespace=namespace, after=after))
        undone = self.window.undo(revision)
        if not undone:
            return list(self.range(namespace=namespace, after=after))
        kept = [record for record in self.range(namespace=namespace, after=after) if record.key not in undone]
        back = [
            record
            for key, record in undone.items()
            if record is not None and (not namespace or key[0] == namespace) and (after is None or key > after)
        ]
        return sorted(kept + back, key=lambda record: record.key)

    def first(
        self, limit: int, *, revision: int | None = None, namespace: str = "", after: Key | None = None
    ) -> tuple[list[history.Record], int]:
        """Return the first records of what `snapshot` returns (0: all), and how many are left out; raises as it does.

        What is left out costs nothing where the snapshot is of now.
        """
        if revision is None or not self.window.undo(revision):
            start, end = self._bounds(namespace, after)
            upto = min(end, start + limit) if limit else end
            return list(map(self.records.__getitem__, self._keys[start:upto])), end - upto
        records = self.snapshot(revision=revision, namespace=namespace, after=after)
        upto = min(len(records), limit) if limit else len(records)
        return records[:upto], len(records) - upto

    def _bounds(self, namespace: str, after: Key | None) -> tuple[int, int]:
        start, end = 0, len(self._keys)
        if namespace:
            start = bisect.bisect_left(self._keys, (namespace, ""))
            end = bisect.bisect_right(self._keys, (namespace, _AFTER_EVERY_NAME))
        if after is not None:
            start = max(start, bisect.bisect_right(self._keys, after))
        return start, end
