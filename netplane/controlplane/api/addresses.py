"""Give Services their addresses and node ports. How they are chosen is registry's; this knows what is taken."""

from __future__ import annotations

import secrets
from collections import ChainMap, Counter
from typing import TypeVar

import orjson

from netplane.controlplane.api import status
from netplane.controlplane.registry import types
from netplane.controlplane.registry.services import allocate
from netplane.controlplane.store import history, protocol
from netplane.kube.types import Key, Object

_STORAGE = "services"
_T = TypeVar("_T")
_Held = tuple[frozenset[str], frozenset[int]]


class Ledger:
    """What all Services hold, kept in step with the store by its events."""

    def __init__(self, store: protocol.Store, ranges: allocate.Ranges) -> None:
        self._store = store
        self._ranges = ranges
        self._position = -1
        self._by_key: dict[Key, _Held] = {}
        self._addresses: Counter[str] = Counter()
        self._ports: Counter[int] = Counter()

    def allocate(self, of: types.ResourceType, service: Object, old: Object | None) -> None:
        """Fill in what the Service's type needs; raise 422 for what is taken or out of range.

        Nothing else runs between this and the staging of the write, so two Services never get the same.
        """
        self._follow()
        staged = [allocate.held(orjson.loads(record.value)) for record in self._store.staged(_STORAGE)]
        addresses = ChainMap(self._addresses, *(dict.fromkeys(held[0], 1) for held in staged))
        ports = ChainMap(self._ports, *(dict.fromkeys(held[1], 1) for held in staged))
        taken = allocate.Taken(addresses, ports)
        found = allocate.allocate(service, old, ranges=self._ranges, taken=taken, pick=secrets.randbelow)
        if found:
            raise status.invalid(of, service["metadata"].get("name", ""), found)

    def _follow(self) -> None:
        cache = self._store.cache(_STORAGE)
        try:
            if self._position < 0:
                raise history.Expired
            events = cache.window.since(self._position, limit=1 << 30)
        except history.Expired:
            self._by_key.clear()
            self._addresses.clear()
            self._ports.clear()
            for record in cache.range():
                self._note(record.key, record)
        else:
            for event in events:
                self._note(event.key, event.new)
        self._position = cache.window.end

    def _note(self, key: Key, record: history.Record | None) -> None:
        before = self._by_key.pop(key, None)
        if before is not None:
            _release(self._addresses, before[0])
            _release(self._ports, before[1])
        if record is None:
            return
        now = allocate.held(orjson.loads(record.value))
        self._by_key[key] = now
        self._addresses.update(now[0])
        self._ports.update(now[1])


def _release(counts: Counter[_T], values: frozenset[_T]) -> None:
    for value in values:
        counts[value] -= 1
        if counts[value] <= 0:
            del counts[value]
