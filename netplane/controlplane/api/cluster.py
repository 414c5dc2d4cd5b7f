"""What every part of the server shares: store, registry, keys, settings, clock. No logic beyond finding things."""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from netplane.controlplane.api import (
    access,
    addresses,
    agents,
    auditrules,
    authorize,
    callers,
    conditions,
    converting,
    pki,
    places,
    policies,
    sampling,
    status,
    tunnels,
    webhooks,
)  # fmt: skip
from netplane.controlplane.api import (
    storage as storages,
)
from netplane.controlplane.registry import catalog, types
from netplane.controlplane.store import history, protocol
from netplane.kube import known
from netplane.kube.types import Key, Object
from netplane.lib import clock

Cidr = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
"""No vowels and no look-alikes: what `k8s.io/apimachinery/pkg/util/rand` uses for generated names."""

_ALIKE = 128
_NEVER = datetime.datetime.min.replace(tzinfo=datetime.UTC)
_SECOND = datetime.timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator chose."""

    data_dir: Path
    listen: tuple[tuple[str, int], ...]
    advertise: Address
    service_cidrs: tuple[Cidr, ...]
    cluster_cidrs: tuple[Cidr, ...]
    node_mask_sizes: tuple[int, ...]
    node_port_range: tuple[int, int] = (30000, 32767)
    runs_controllers: bool = True
    max_inflight: int = 800
    max_mutating_inflight: int = 400
    audit_path: Path | None = None
    audit_policy: auditrules.Policy | None = None
    etcd: storages.EtcdAccess | None = None
    pki_dir: Path | None = None

    @property
    def port(self) -> int:
        """The first port it listens on."""
        return self.listen[0][1]

    @property
    def advertised_port(self) -> int:
        """The port at the advertised address: of the socket bound to it, else to every address, else the first."""
        for wanted in (str(self.advertise), "0.0.0.0", "::"):
            for address, port in self.listen:
                if address == wanted:
                    return port
        return self.port


@dataclass(slots=True)
class Cluster:
    """The running server's parts. `registry` is replaced as CustomResourceDefinitions come and go."""

    store: protocol.Store
    registry: catalog.Registry
    keys: access.Keys
    authority: pki.Authority
    settings: Settings
    clock: clock.Clock
    authorizer: authorize.Authorizer
    addresses: addresses.Ledger
    is_stopping: bool = False
    is_ready: bool = False
    own_address: str = ""
    agents: agents.Agents = field(init=False)
    meter: sampling.Meter = field(init=False)
    webhooks: webhooks.Webhooks = field(init=False)
    converter: converting.Converter = field(init=False)
    policies: policies.Policies = field(init=False)
    problems: dict[str, str] = field(default_factory=dict)
    bookings: Counter[str] = field(default_factory=Counter)
    """By namespace, the writes that are booked in its quotas and not yet in the store."""
    _second: tuple[datetime.datetime, datetime.datetime, str] = (_NEVER, _NEVER, "")

    def __post_init__(self) -> None:
        self.agents = agents.Agents(
            node=lambda name: self.get("", "v1", "nodes", "", name),
            keys=self.keys,
            ca_pem=self.authority.pem().decode(),
            clock=self.clock,
        )
        self.meter = sampling.Meter(self.agents, self.clock)
        caller = callers.Caller(
            place=lambda namespace, name, port: places.of_service(self.store, namespace, name, str(port)),
            way=lambda to: tunnels.session(self.agents, to),
        )
        self.converter = converting.Converter(caller.post, new_uid)
        self.webhooks = webhooks.Webhooks(
            self.store,
            caller,
            self.converter,
            versions=self.versions_of,
            conditions=conditions.hold,
            new_uid=new_uid,
        )
        self.policies = policies.Policies(self.store, self.converter)

    def versions_of(self, of: types.ResourceType) -> tuple[types.ResourceType, ...]:
        """Return every served version of a type."""
        return tuple(each for each in self.registry.all() if each.is_stored and each.stored == of.stored)

    def type_of(self, group: str, version: str, plural: str) -> types.ResourceType:
        """Return the type served at a path; raise 404."""
        found = self.registry.find(group, version, plural)
        if found is None:
            raise status.no_such_path()
        return found

    def record(self, of: types.ResourceType, key: Key) -> history.Record | None:
        """Return the committed record of an object."""
        return self.store.cache(storage(of)).records.get(key)

    def get(self, group: str, version: str, plural: str, namespace: str, name: str) -> Object | None:
        """Return a committed object decoded, None when it is not there."""
        of = self.registry.find(group, version, plural)
        record = self.record(of, (namespace, name)) if of is not None else None
        return orjson.loads(record.value) if record is not None else None

    def is_alive(self, kind: str, namespace: str, name: str, uid: str) -> bool:
        """Whether the object a token is bound to is still that very one."""
        plural = {"ServiceAccount": "serviceaccounts", "Pod": "pods", "Secret": "secrets", "Node": "nodes"}[kind]
        obj = self.get("", "v1", plural, namespace, name)
        return obj is not None and (not uid or bool(obj["metadata"]["uid"] == uid))

    def now(self) -> str:
        """The current time as objects carry it. A second is written once, however many objects are made in it."""
        moment = self.clock.now()
        since, until, text = self._second
        if not since <= moment < until:
            since, text = moment.replace(microsecond=0), clock.rfc3339(moment)
            self._second = since, since + _SECOND, text
        return text


def storage(of: types.ResourceType) -> str:
    """Return the store's name for a type; all versions of a type share it."""
    return of.storage


class _Uids:
    """Random UIDs (RFC 9562, version 4), the randomness fetched for many at once.

    Every call of the system lets the store's thread have the interpreter, which it gives back when it likes.
    """

    def __init__(self) -> None:
        self._stock: list[str] = []

    def next(self) -> str:
        if not self._stock:
            digits = _DIGITS.findall(os.urandom(16 * _UIDS_AT_ONCE).hex())
            self._stock = [f"{a}-{b}-4{c}-{_VARIANTS[d]}{e}-{f}" for a, b, c, d, e, f in digits]
        return self._stock.pop()


class _Suffixes:
    """Random endings of names, the randomness fetched for many at once as well."""

    def __init__(self) -> None:
        self._stock: list[str] = []

    def next(self) -> str:
        while not self._stock:
            # Every letter is as likely as the others: bytes past a multiple of their number are left out.
            whole = 256 - 256 % len(_SUFFIX_LETTERS)
            text = "".join(_SUFFIX_LETTERS[each % len(_SUFFIX_LETTERS)] for each in os.urandom(1280) if each < whole)
            self._stock = [text[at : at + 5] for at in range(0, len(text) - 4, 5)]
        return self._stock.pop()


_UIDS_AT_ONCE = 256
_DIGITS = re.compile("(.{8})(.{4}).(.{3})(.)(.{3})(.{12})")
_VARIANTS = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
_UIDS = _Uids()
_SUFFIXES = _Suffixes()


def new_uid() -> str:
    """Return a fresh UID."""
    return _UIDS.next()


def name_suffix() -> str:
    """Return the five letters that `generateName` gets."""
    return _SUFFIXES.next()


def index(labels_of: catalog.Registry) -> protocol.Indexer:
    """Return the function that reads labels and selectable fields of stored objects, by the registry's types."""
    by_storage = {storage(of): of.field_labels for of in labels_of.all() if of.is_storage}
    alike: dict[tuple[str, bytes, bytes], history.Labels] = {}

    def read(name: str, obj: Object) -> history.Index:
        fields = by_storage.get(name)
        labels = obj["metadata"].get("labels") or {}
        spec, status = obj.get("spec"), obj.get("status")
        if spec.__class__ is known.Known and status.__class__ is known.Known and fields:
            # Objects of one template, whose fields all lie in these two: pods that were just made.
            parts = (name, spec.text, status.text)
            told = alike.get(parts)
            if told is None:
                if len(alike) >= _ALIKE:
                    alike.clear()
                told = alike[parts] = {k: f(obj) for k, f in fields.items()}
            return history.Index(labels, told)
        return history.Index(labels, {k: f(obj) for k, f in fields.items()} if fields else {})

    return read
