"""Make records of stored bytes. Labels and fields of many objects are the same: what selectors see is kept once."""

from __future__ import annotations

import sys

import orjson

from netplane.controlplane.store import history, protocol
from netplane.kube.types import Key, Object

_MOST_LABELS = 100_000


class Records:
    """Makes records with what selectors look at, as the indexer of the resource types says."""

    __slots__ = ("_index", "_known")

    def __init__(self, index: protocol.Indexer) -> None:
        self._index = index
        self._known: dict[tuple[object, ...], history.Index] = {}

    def make(self, storage: str, key: Key, revision: int, value: bytes, *, obj: Object | None = None) -> history.Record:
        """Return the record of an object's bytes; who has the object decoded passes it along."""
        index = self._index(storage, obj if obj is not None else orjson.loads(value))
        seen = (storage, *index.fields.values(), *sorted(index.labels.items()))
        if len(self._known) > _MOST_LABELS:
            self._known.clear()
        return history.Record(key, revision, value, self._known.setdefault(seen, index))


def key_of(obj: Object) -> Key:
    """Return an object's (namespace, name); of a namespace's name there is one, which sorts and hashes at once."""
    metadata = obj["metadata"]
    return sys.intern(str(metadata.get("namespace", ""))), str(metadata["name"])
