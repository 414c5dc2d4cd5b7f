"""What stands in which map, and how it is packed. The chains that look it up are skeleton's.

A frontend leads to a list of backends by the list's id, and a list is plain data: its length in `lists`, its backends
by index in `endpoints`. So a change of backends touches no rule and no verdict map, and costs the same at any scale.
`meta priority` carries these numbers from rule to rule, for nft 1.0.6 knows no other register.

    id             bits 0-18 one per Service port, bit 19 the list of its local backends
    frontends,     id | affinity class << 20 (0 none) | Kind << 28 | 0x40000000 when source ranges apply
    nodeports
    lists          id | code << 20; code N is N backends, 0x800 | N the same with affinity, 0xffe reject, 0xfff drop
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from netplane.kernel.nft import objects
from netplane.kernel.nft.objects import IPV4, IPV6, MARK, NUMBER, PORT, PRIORITY, PROTOCOL, VERDICT, Set, Table, ip
from netplane.model.address import Family, Packed
from netplane.model.service import Protocol
from netplane_proxy.plan.forwarding import Kind

TABLE = "netplane"

Pairs = list[tuple[Set, objects.Element]]
"""Elements with the set that each is of."""

ID_BITS = 19
IDS = 1 << ID_BITS
LOCAL = 1 << ID_BITS
LIST_MASK = (LOCAL << 1) - 1
ID_MASK = LIST_MASK

CLASS_SHIFT = 20
CLASSES = 255
CLASS_MASK = CLASSES << CLASS_SHIFT
KIND_SHIFT = 28
KIND_MASK = 3 << KIND_SHIFT
RANGES = 0x40000000

CODE_SHIFT = 20
CODE_MASK = 0xFFF << CODE_SHIFT
STICKY = 0x800
REJECT, DROP = 0xFFE, 0xFFF
MAX_BACKENDS = 0x7FD
"""A list with more backends than this is cut: its later ones get no new connections."""

AFFINITY_SIZE = 262144
AFFINITY_TIMEOUT = 10800


class Slots(NamedTuple):
    """How wide one backend is in the `endpoints` map of a family: its address, its port, padding."""

    address: int
    width: int


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The sets and maps of one family's table. `affinity` is one map in IPv4; in IPv6 one for address, one for port."""

    family: Family
    table: Table
    about: Set
    frontends: Set
    nodeports: Set
    nodeport_ips: Set
    lists: Set
    endpoints: Set
    balance: Set
    remember: Set
    cluster_ips: Set
    service_cidrs: Set
    pod_cidrs: Set
    hairpin: Set
    hosts: Set
    source_ranges: Set
    affinity: tuple[Set, ...]
    slots: Slots

    @property
    def sets(self) -> tuple[Set, ...]:
        """All of them, in the order of the table's text."""
        return (*self.compiled, self.about, *self.affinity)

    @property
    def compiled(self) -> tuple[Set, ...]:
        """Those whose elements follow from the meaning alone; packets fill the others."""
        return (
            self.frontends,
            self.nodeports,
            self.nodeport_ips,
            self.lists,
            self.endpoints,
            self.balance,
            self.remember,
            self.cluster_ips,
            self.service_cidrs,
            self.pod_cidrs,
            self.hairpin,
            self.hosts,
            self.source_ranges,
        )


def _layout(family: Family) -> Layout:
    number = IPV4 if family is Family.V4 else IPV6
    table = Table(number, TABLE)
    source, destination = ip("saddr", number), ip("daddr", number)
    place = (destination, PROTOCOL, PORT)
    backend = (destination, PORT)
    return Layout(
        family,
        table,
        about=Set(table, "about", (MARK,)),
        frontends=Set(table, "frontends", place, (PRIORITY,)),
        nodeports=Set(table, "nodeports", (PROTOCOL, PORT), (PRIORITY,)),
        nodeport_ips=Set(table, "nodeport_ips", (destination,)),
        lists=Set(table, "lists", (PRIORITY,), (PRIORITY,)),
        endpoints=Set(table, "endpoints", (PRIORITY, NUMBER), backend),
        balance=Set(table, "balance", (PRIORITY,), (VERDICT,)),
        remember=Set(table, "remember", (PRIORITY,), (VERDICT,)),
        cluster_ips=Set(table, "cluster_ips", (destination,)),
        service_cidrs=Set(table, "service_cidrs", (destination,), is_interval=True),
        pod_cidrs=Set(table, "pod_cidrs", (source,), is_interval=True),
        hairpin=Set(table, "hairpin", (source, destination)),
        hosts=Set(table, "hosts", (source, PROTOCOL, PORT)),
        source_ranges=Set(table, "source_ranges", (*place, source), is_interval=True),
        affinity=_affinity(family, table, source, backend),
        slots=Slots(source.width, source.width + 4),
    )


def _affinity(
    family: Family, table: Table, source: objects.Field, backend: tuple[objects.Field, objects.Field]
) -> tuple[Set, ...]:
    """Return what remembers a client's backend, by client and list.

    nft 1.0.6 aborts on `update` with keys beyond 16 bytes and with data of several fields beyond that, so IPv6 has the
    client's hash in the key, and two maps. Two clients of one hash share a backend: odds, not harm.
    """

    def made(name: str, key: tuple[objects.Field, ...], data: tuple[objects.Field, ...]) -> Set:
        return Set(table, name, key, data, size=AFFINITY_SIZE, timeout=AFFINITY_TIMEOUT)

    if family is Family.V4:
        return (made("affinity", (source, PRIORITY), backend),)
    hashed = (PRIORITY, NUMBER)
    return made("affinity_ip", hashed, backend[:1]), made("affinity_port", hashed, backend[1:])


LAYOUTS: dict[Family, Layout] = {family: _layout(family) for family in Family}


def place_key(address: Packed | None, protocol: Protocol, port: int) -> bytes:
    """Return the key of `frontends`, or of `nodeports` without an address."""
    return (address or b"") + bytes((protocol, 0, 0, 0)) + port.to_bytes(2, "big") + b"\0\0"


def frontend_value(list_id: int, kind: Kind, affinity_class: int, *, has_ranges: bool) -> int:
    """Return what a frontend says."""
    return list_id | affinity_class << CLASS_SHIFT | kind << KIND_SHIFT | (RANGES if has_ranges else 0)
