"""Know which objects the pods of each node refer to, kept in step with the committed pods. Who may read them is node's.

Every look takes in the pods' events since the last one, so an answer costs what has changed and never a scan.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import orjson

from netplane.controlplane.api import references
from netplane.controlplane.store import history, protocol
from netplane.kube.types import Key, Object

_SLICE = 10_000
_LATE = b'"ephemeralContainers"'
"""The one part of a bound pod's references that can change."""


@dataclass(frozen=True, slots=True)
class _Held:
    node: str
    references: frozenset[references.Reference]


class Graph:
    """Nodes, the pods bound to them, and what those refer to."""

    def __init__(self, store: protocol.Store) -> None:
        self._store = store
        self._position = -1
        self._pods: dict[Key, _Held] = {}
        self._counts: Counter[tuple[str, str, str, str]] = Counter()

    def has_pod(self, node: str, namespace: str, name: str) -> bool:
        """Whether the pod is bound to the node."""
        self._catch_up()
        held = self._pods.get((namespace, name))
        return held is not None and held.node == node

    def refers(self, node: str, plural: str, namespace: str, name: str) -> bool:
        """Whether a pod of the node refers to the object."""
        self._catch_up()
        return (node, plural, namespace, name) in self._counts

    def refers_to_volume(self, node: str, name: str) -> bool:
        """Whether a pod of the node refers to the claim that a PersistentVolume is bound to."""
        record = self._store.cache("persistentvolumes").records.get(("", name))
        if record is None:
            return False
        volume: Object = orjson.loads(record.value)
        claim = (volume.get("spec") or {}).get("claimRef") or {}
        return self.refers(node, "persistentvolumeclaims", claim.get("namespace", ""), claim.get("name", ""))

    def _catch_up(self) -> None:
        pods = self._store.cache("pods")
        try:
            if self._position < 0:
                raise history.Expired("never looked")
            while self._position < pods.window.end:
                events = pods.window.since(self._position, limit=_SLICE)
                for event in events:
                    self._take(event.key, event.new)
                self._position += len(events)
        except history.Expired:
            self._pods.clear()
            self._counts.clear()
            for record in pods.range():
                self._take(record.key, record)
            self._position = pods.window.end

    def _take(self, key: Key, record: history.Record | None) -> None:
        held = self._pods.get(key)
        node = record.index.fields.get("spec.nodeName", "") if record is not None else ""
        if held is not None and record is not None and held.node == node and _LATE not in record.value:
            return
        if held is not None:
            del self._pods[key]
            self._count(key[0], held, -1)
        if record is not None and node:
            held = _Held(node, references.of(orjson.loads(record.value)))
            self._pods[key] = held
            self._count(key[0], held, 1)

    def _count(self, namespace: str, held: _Held, change: int) -> None:
        for plural, name in held.references:
            entry = (held.node, plural, namespace, name)
            self._counts[entry] += change
            if not self._counts[entry]:
                del self._counts[entry]
