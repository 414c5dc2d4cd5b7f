"""Give Services their addresses and node ports. How they are chosen is registry's; this knows what is taken."""

from __future__ import annotations

import functools
import ipaddress
import secrets
from collections import Counter
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import orjson

from netplane.controlplane.api import status
from netplane.controlplane.registry import types
from netplane.controlplane.registry.services import allocate, ranges
from netplane.controlplane.store import cache, history, protocol
from netplane.kube.types import Key, Object

_STORAGE = "services"
_DEFAULT = ("", "kubernetes")
"""The ServiceCIDR that the server makes of its own ranges. Until it is there, they are given out as if it were."""
_T = TypeVar("_T")
_Ranges = allocate.Ranges
_Held = tuple[frozenset[str], frozenset[int]]


class Ledger:
    """What all Services hold, kept in step with the store by its events."""

    def __init__(self, store: protocol.Store, own: allocate.Ranges) -> None:
        self._store = store
        self._ranges = own
        self._seen: list[history.Record | None] = []
        self._position = -1
        self._by_key: dict[Key, _Held] = {}
        self._addresses: Counter[str] = Counter()
        self._ports: Counter[int] = Counter()

    def allocate(self, of: types.ResourceType, service: Object, old: Object | None) -> None:
        """Fill in what the Service's type needs; raise 422 for what is taken or out of range, 500 when all is taken.

        Nothing else runs between this and the staging of the write, so two Services never get the same.
        """
        self._follow()
        staged = [allocate.held(orjson.loads(record.value)) for record in self._store.staged(_STORAGE)]
        addresses = {each for held in staged for each in held[0]}
        ports = {each for held in staged for each in held[1]}
        taken = allocate.Taken(_Unavailable(self._addresses, addresses, self._store), _Either(self._ports, ports))
        try:
            found = allocate.allocate(service, old, ranges=self._open(), taken=taken, pick=secrets.randbelow)
        except allocate.Full as error:
            raise status.internal(str(error)) from error
        if found:
            raise status.invalid(of, service["metadata"].get("name", ""), found)

    def networks(self) -> set[ranges.Network]:
        """Return all that Services may have addresses of, also what is given out no more."""
        known = (ranges.networks(orjson.loads(record.value)) for record in self._store.cache(ranges.STORAGE).range())
        return {*self._ranges.own, *(network for each in known for network in each)}

    def _open(self) -> _Ranges:
        """Return what addresses are given out of now. The deletion of a range counts from its staging."""
        cached = self._store.cache(ranges.STORAGE).records
        found = [self._store.latest(ranges.STORAGE, key) for key in cached]
        if found != self._seen:
            self._seen = found
            given = [self._ranges.own] if _DEFAULT not in cached else []
            given += [_given(record.value) for record in found if record is not None]
            self._ranges = replace(self._ranges, open=tuple(dict.fromkeys(each for some in given for each in some)))
        return self._ranges

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


@dataclass(slots=True)
class _Either:
    """What is in one of two."""

    one: Container[object]
    other: Container[object]

    def __contains__(self, value: object) -> bool:
        return value in self.one or value in self.other


@dataclass(slots=True)
class _Unavailable:
    """The addresses that Services hold or are about to, and those that IPAddresses give to others."""

    held: Container[object]
    staged: Container[object]
    store: protocol.Store

    def __contains__(self, address: object) -> bool:
        if address in self.held or address in self.staged:
            return True
        shown = self.store.latest(ranges.ADDRESSES, ("", str(address)))
        return shown is not None and ranges.is_reserved(orjson.loads(shown.value))


def grounds(storage: str, claims: frozenset[str], view: Callable[[str], cache.Cache]) -> Iterator[tuple[str, Key, int]]:
    """Yield the IPAddress of each claimed address and a ServiceCIDR it is of, with the revisions they are seen at.

    Servers on etcd that have not yet heard of a change give nothing away any more: their transactions ask for these.
    """
    if storage != _STORAGE:
        return
    for text in sorted(claims):
        kind, _, value = text.partition("/")
        if kind != "address":
            continue
        shown = view(ranges.ADDRESSES).records.get(("", value))
        yield ranges.ADDRESSES, ("", value), shown.revision if shown is not None else 0
        address = ipaddress.ip_address(value)
        for record in view(ranges.STORAGE).records.values():
            if any(ranges.gives(network, address) for network in _given(record.value)):
                yield ranges.STORAGE, record.key, record.revision
                break


@functools.lru_cache(256)
def _given(value: bytes) -> tuple[ranges.Network, ...]:
    """Return what is given out of a ServiceCIDR, from its bytes."""
    obj = orjson.loads(value)
    return ranges.networks(obj) if ranges.is_open(obj) else ()


def _release(counts: Counter[_T], values: frozenset[_T]) -> None:
    for value in values:
        counts[value] -= 1
        if counts[value] <= 0:
            del counts[value]
