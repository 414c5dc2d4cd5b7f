"""Know what the kernel should hold for all Service ports, and what one change of them asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from netplane.kernel.ipvs.objects import Server, Virtual
from netplane.kernel.nft import objects
from netplane.kernel.nft.objects import Element, Set
from netplane_proxy.plan.forwarding import NodeFacts, PortForwarding, PortKey
from netplane_proxy.plan.ipvs import rows, tables
from netplane_proxy.plan.ipvs.rows import Row
from netplane_proxy.plan.ipvs.tables import LAYOUTS
from netplane_proxy.plan.ledger import Changes

Pair = tuple[Set, Element]


@dataclass(slots=True)
class Demand:
    """What a change asks for: servers as they should be now (None: gone), elements to remove and to add."""

    servers: dict[Virtual, Server | None] = field(default_factory=dict)
    removed: list[Pair] = field(default_factory=list)
    added: list[Pair] = field(default_factory=list)


class Book:
    """All rows, and which mark belongs to which Service port."""

    def __init__(self, node: NodeFacts, *, scheduler: str = "rr", numbers: Iterable[tuple[bytes, int]] = ()) -> None:
        """Start empty. `numbers` are marks' numbers that a former run gave, by the place they were given to."""
        self.node = node
        self.servers: dict[Virtual, Server] = {}
        self._scheduler = scheduler
        self._rows: dict[PortKey, Row] = {}
        self._counts: Counter[Pair] = Counter()
        self._numbers: dict[PortKey, int] = {}
        self._former = dict(numbers)
        self._given: set[int] = set()
        self._free: list[int] = []
        self._next = max(self._former.values(), default=-1) + 1
        for sets in LAYOUTS.values():
            self._counts.update(tables.node_elements(node, sets))

    def elements(self) -> list[Pair]:
        """Return all elements, of any number of Service ports that ask for them once."""
        return list(self._counts)

    def has(self, pair: Pair) -> bool:
        """Tell whether some Service port asks for an element."""
        return pair in self._counts

    def change(self, changes: Changes) -> Demand:
        """Take what became of some Service ports, and return what that asks for."""
        demand = Demand()
        step: Counter[Pair] = Counter()
        for key in sorted(changes):
            former = self._rows.pop(key, None)
            if former is not None:
                step.subtract(former.elements)
                for virtual in former.servers:
                    del self.servers[virtual]
                    demand.servers[virtual] = None
        for key in sorted(changes):
            port = changes[key]
            if port is None:
                self._release(key)
                continue
            row = self._rows[key] = self._compile(port)
            step.update(row.elements)
            self.servers |= row.servers
            demand.servers |= row.servers
        self._count(step, demand)
        return demand

    def _compile(self, port: PortForwarding) -> Row:
        if rows.needs_mark(port, self.node):
            number = self._number(port)
        else:
            number = None
            self._release(port.key)
        return rows.of_port(port, self.node, scheduler=self._scheduler, number=number)

    def _count(self, step: Counter[Pair], demand: Demand) -> None:
        for pair, difference in step.items():
            if not difference:
                continue
            before = self._counts[pair]
            after = self._counts[pair] = before + difference
            if not after:
                del self._counts[pair]
                demand.removed.append(pair)
            elif not before:
                demand.added.append(pair)

    def _number(self, port: PortForwarding) -> int:
        number = self._numbers.get(port.key)
        if number is None:
            number = self._adopted(port)
        if number is None and self._free:
            number = self._free.pop()
        if number is None:
            number, self._next = self._next, self._next + 1
        self._numbers[port.key] = number
        self._given.add(number)
        return number

    def _adopted(self, port: PortForwarding) -> int | None:
        """Return the number that a former run gave to one of the port's places, unless another port has it now."""
        for frontend in port.frontends:
            for where in rows.addresses(frontend, self.node, port.key.family):
                number = self._former.pop(tables.place_key(where, frontend.protocol, frontend.port), None)
                if number is not None and number not in self._given:
                    return number
        return None

    def _release(self, key: PortKey) -> None:
        number = self._numbers.pop(key, None)
        if number is not None:
            self._given.discard(number)
            self._free.append(number)


def numbers(marks: Iterable[Element]) -> list[tuple[bytes, int]]:
    """Read out of a `marks` map which places have which number."""
    found = []
    for element in marks:
        if isinstance(element.data, bytes):
            number = rows.number_of(objects.number(element.data))
            if number is not None:
                found.append((element.key, number))
    return found


def owned(virtual: Virtual) -> Pair | None:
    """Return the element by which a server is known as ours; None for one known by its mark."""
    if virtual.mark:
        return None
    sets = next(sets for sets in LAYOUTS.values() if sets.number == virtual.family)
    key = virtual.address + bytes((virtual.protocol, 0, 0, 0)) + virtual.port.to_bytes(2, "big") + b"\0\0"
    return sets.owned, Element(key)
