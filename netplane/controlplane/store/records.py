"""Make records of stored bytes. The labels and fields of many objects are the same: one copy of each set is kept."""

from __future__ import annotations

import orjson

from netplane.controlplane.store import history, protocol
from netplane.kube.types import Key, Object

_MOST_LABELS = 100_000


class Records:
    """Makes records with what selectors look at, as the indexer of the resource types says."""

    __slots__ = ("_fields", "_index", "_labels")

    def __init__(self, index: protocol.Indexer) -> None:
        self._index = index
        self._labels: dict[tuple[tuple[str, str], ...], history.Labels] = {}
        self._fields: dict[tuple[str, ...], history.Labels] = {}

    def make(self, storage: str, key: Key, revision: int, value: bytes, *, obj: Object | None = None) -> history.Record:
        """Return the record of an object's bytes; who has the object decoded passes it along."""
        index = self._index(storage, obj if obj is not None else orjson.loads(value))
        labels = tuple(sorted(index.labels.items()))
        fields = (storage, *index.fields.values())
        if len(self._labels) + len(self._fields) > _MOST_LABELS:
            self._labels.clear()
            self._fields.clear()
        interned = history.Index(
            self._labels.setdefault(labels, index.labels), self._fields.setdefault(fields, index.fields)
        )
        return history.Record(key, revision, value, interned)


def key_of(obj: Object) -> Key:
    """Return an object's (namespace, name)."""
    metadata = obj["metadata"]
    return str(metadata.get("namespace", "")), str(metadata["name"])
