"""Say where an object is in etcd and what its value looks like. Pure.

`PREFIX/STORAGE/NAMESPACE/NAME` holds the object as JSON; the namespace of cluster-scoped ones is empty. The revision
of a write is only known once etcd has made it, so the value has an empty resourceVersion in a place that is found at
once: first in the metadata, and before them only apiVersion and kind. Keys of our own begin with `PREFIX/.`.
"""

from __future__ import annotations

import orjson

from netplane.kube import known
from netplane.kube.types import Key, Object

_MARK = b'"resourceVersion":"'


class Layout:
    """The keys under one prefix."""

    __slots__ = ("_root", "compaction", "end", "identity", "pulse", "start")

    def __init__(self, prefix: str) -> None:
        self._root = prefix.rstrip("/").encode() + b"/"
        self.start = self._root
        self.end = self._root[:-1] + b"0"
        """The first key after all of the prefix: "0" follows "/"."""
        self.compaction = self._root + b".compaction"
        self.pulse = self._root + b".pulse"
        self.identity = self._root + b".identity"

    def of(self, storage: str, key: Key) -> bytes:
        """Return the key of an object."""
        return self._root + f"{storage}/{key[0]}/{key[1]}".encode()

    def claim(self, what: str) -> bytes:
        """Return the key that says who holds something that only one object may hold."""
        return self._root + b".held/" + what.encode()

    def read(self, key: bytes) -> tuple[str, Key] | None:
        """Return (storage, (namespace, name)) of an object's key, None for one of our own."""
        rest = key[len(self._root) :].decode()
        if rest.startswith("."):
            return None
        storage, namespace, name = rest.split("/", 2)
        return storage, (namespace, name)


def pack(obj: Object) -> bytes:
    """Return the object as etcd keeps it."""
    head: Object = {name: obj[name] for name in ("apiVersion", "kind") if name in obj}
    metadata = {"resourceVersion": "", **{k: v for k, v in obj["metadata"].items() if k != "resourceVersion"}}
    return known.encoded({**head, "metadata": metadata, **{k: v for k, v in obj.items() if k != "metadata"}})


def stamped(value: bytes, revision: int) -> bytes:
    """Return a value with its resourceVersion set."""
    start = value.index(_MARK) + len(_MARK)
    return b"%b%d%b" % (value[:start], revision, value[value.index(b'"', start) :])


def unpacked(value: bytes) -> Object:
    """Return the object of a value."""
    obj: Object = orjson.loads(value)
    return obj
