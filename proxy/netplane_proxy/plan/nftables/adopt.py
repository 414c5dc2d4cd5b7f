"""Compare what a kernel holds with what is meant, and take over the numbers that a former run gave out.

The result is a row of batches, each of which leaves every Service that was there and still is forwarding: all that one
Service port needs changes in one batch, what many share comes first, and what refuses the rest comes last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from netplane.kernel.nft import objects
from netplane.kernel.nft.objects import Element, Set
from netplane.model.address import Family
from netplane.model.service import Protocol
from netplane_proxy.plan.forwarding import Forwarding, NodeFacts, PortForwarding, PortKey
from netplane_proxy.plan.nftables import balance, layout, rows, skeleton
from netplane_proxy.plan.nftables.book import Book, Change, Ids, intervals, node_elements
from netplane_proxy.plan.nftables.layout import LAYOUTS, Layout
from netplane_proxy.plan.nftables.rows import Row

BATCH = 4000
"""About how many elements one batch has: a few milliseconds of the kernel's time."""

Elements = dict[bytes, Element]
Name = tuple[Family, Protocol, str]


@dataclass(slots=True)
class Observed:
    """What the tables hold: elements by key by set, and the names of the chains. It is used up by `compare`."""

    elements: dict[Set, Elements] = field(default_factory=dict)
    chains: dict[Family, tuple[str, ...]] = field(default_factory=dict)

    def of(self, target: Set) -> Elements:
        """Return a set's elements by key."""
        return self.elements.setdefault(target, {})


def book(node: NodeFacts, seen: Observed) -> tuple[Book, dict[Name, Row]]:
    """Return a book without rows that gives out no number that is in use, and the rows to start from by their names."""
    classes: dict[int, int] = {}
    for chains in seen.chains.values():
        known, _ = skeleton.recover(chains)
        classes |= {seconds: number for seconds, number in known.items() if number not in classes.values()}
    made = Book(node, classes=classes)
    standing: dict[Name, Row] = {}
    for family, sets in LAYOUTS.items():
        made.counts[family] = skeleton.recover(seen.chains.get(family, ()))[1]
        ids = _names(seen, sets)
        made.ids[family] = Ids({number & (layout.LOCAL - 1) for number in _ids_in_use(seen, sets)} | set(ids.values()))
        orders = _orders(seen, sets)
        for name, number in ids.items():
            standing[name] = _standing(number, orders)
    return made, standing


def _standing(number: int, orders: Mapping[int, bytes]) -> Row:
    return Row(number, 0, orders.get(number, b""), orders.get(number | layout.LOCAL, b""), _NOBODY)


_NOBODY = PortForwarding(PortKey("", "", "", Protocol.TCP, Family.V4))


def _names(seen: Observed, sets: Layout) -> dict[Name, int]:
    """Read the list ids off the frontends by the names in their comments; a doubtful one is left out."""
    ids: dict[Name, int] = {}
    owners: dict[int, Name] = {}
    for target, at in ((sets.frontends, sets.slots.address), (sets.nodeports, 0)):
        for element in seen.of(target).values():
            if not element.comment or not isinstance(element.data, bytes) or element.key[at] not in _PROTOCOLS:
                continue
            name = sets.family, Protocol(element.key[at]), element.comment
            number = objects.number(element.data) & (layout.LOCAL - 1)
            if owners.setdefault(number, name) == name:
                ids.setdefault(name, number)
    return ids


_PROTOCOLS = frozenset(map(int, Protocol))


def _ids_in_use(seen: Observed, sets: Layout) -> Iterator[int]:
    for key in seen.of(sets.lists):
        yield objects.number(key)
    for key in seen.of(sets.endpoints):
        yield objects.number(key[:4])


def _orders(seen: Observed, sets: Layout) -> dict[int, bytes]:
    """Return the backends of each list in the order of their indexes, as far as these have no gap."""
    by_list: dict[bytes, dict[int, bytes]] = {}
    for key, element in seen.of(sets.endpoints).items():
        if isinstance(element.data, bytes):
            by_list.setdefault(key[:4], {})[objects.number(key[4:])] = element.data
    orders: dict[int, bytes] = {}
    for key, found in by_list.items():
        count = next((index for index in range(len(found)) if index not in found), len(found))
        orders[objects.number(key)] = b"".join(found[index] for index in range(count))
    return orders


def place(made: Book, standing: Mapping[Name, Row], forwarding: Forwarding) -> None:
    """Enter all Service ports into the book, with the numbers and the order that stand."""
    for key in sorted(forwarding.ports):
        port = forwarding.ports[key]
        former = standing.get((key.family, key.protocol, rows.name(key))) if standing else None
        made.take(made.place(port, former))


def compare(made: Book, seen: Observed) -> Iterator[Change]:
    """Yield what turns the kernel that was seen into what the book says, in order, each to be one transaction."""
    change = Change()
    for family, sets in LAYOUTS.items():
        for target in sets.compiled:
            seen.of(target)
        _first(made, seen, family, sets, change)
    ranges = _ranges_by_place(seen)
    is_empty = not any(seen.elements.values())
    for row in made.rows.values():
        if is_empty:
            change.added += rows.elements(row)
        else:
            _row(row, seen, ranges, change)
        if len(change.added) + len(change.removed) >= BATCH:
            yield change
            change = Change()
    yield from _leftovers(seen, ranges, change)
    change = Change()
    for family, sets in LAYOUTS.items():
        _last(made, seen, family, sets, change)
    yield change


def _first(made: Book, seen: Observed, family: Family, sets: Layout, change: Change) -> None:
    there = skeleton.recover(seen.chains.get(family, ()))[1]
    want = [*skeleton.verdicts(sets, made.parameters(family)), *node_elements(made.node, family)]
    for count in sorted(made.counts[family]):
        want += balance.verdicts(sets, count)
        if count not in there:
            change.chains += balance.chains(sets, count)
    want += [(target, Element(key)) for target in (sets.hairpin, sets.hosts) for key in made.shared[target]]
    for target, element in want:
        _settle(target, element, seen.of(target), change)
    for target in (sets.balance, sets.remember, sets.nodeport_ips, sets.pod_cidrs, sets.hairpin, sets.hosts):
        change.removed += [(target, element) for element in seen.of(target).values()]
        seen.of(target).clear()


def _row(row: Row, seen: Observed, ranges: dict[tuple[Set, bytes], Elements], change: Change) -> None:
    sets, have = row.layout, seen.elements
    for target, element in rows.elements(row):
        if target is sets.source_ranges:
            _settle(target, element, ranges.get((target, _place(sets, element.key)), {}), change)
        elif have[target].get(element.key) == element:
            del have[target][element.key]
        else:
            _settle(target, element, have[target], change)
    if ranges:
        # Those a frontend no longer has go in the same transaction that tells it so.
        for frontend in row.port.frontends:
            key = layout.place_key(frontend.address, frontend.protocol, frontend.port)
            gone = ranges.pop((sets.source_ranges, key), {})
            change.removed += [(sets.source_ranges, element) for element in gone.values()]


def _settle(target: Set, element: Element, have: Elements, change: Change) -> None:
    found = have.pop(element.key, None)
    if found == element:
        return
    if found is not None:
        change.removed.append((target, found))
    change.added.append((target, element))


def _place(sets: Layout, key: bytes) -> bytes:
    return key[: sets.frontends.key_width]


def _ranges_by_place(seen: Observed) -> dict[tuple[Set, bytes], Elements]:
    found: dict[tuple[Set, bytes], Elements] = {}
    for sets in LAYOUTS.values():
        target = sets.source_ranges
        for key, element in seen.of(target).items():
            found.setdefault((target, _place(sets, key)), {})[key] = element
    return found


def _leftovers(seen: Observed, ranges: dict[tuple[Set, bytes], Elements], change: Change) -> Iterator[Change]:
    """Yield the rest: what no Service port has any more, frontends before what they lead to."""
    pending: list[tuple[Set, Iterable[Element]]] = []
    for sets in LAYOUTS.values():
        pending += [(target, seen.of(target).values()) for target in (sets.frontends, sets.nodeports)]
    pending += [(target, elements.values()) for (target, _), elements in ranges.items()]
    for sets in LAYOUTS.values():
        pending += [(target, seen.of(target).values()) for target in (sets.lists, sets.endpoints)]
    for target, elements in pending:
        for element in elements:
            change.removed.append((target, element))
            if len(change.added) + len(change.removed) >= BATCH:
                yield change
                change = Change()
    yield change


def _last(made: Book, seen: Observed, family: Family, sets: Layout, change: Change) -> None:
    want = [(sets.cluster_ips, Element(ip)) for ip in made.shared[sets.cluster_ips]]
    want += [(sets.service_cidrs, one) for one in intervals(made.node.service_cidrs, family)]
    for target, element in want:
        _settle(target, element, seen.of(target), change)
    for target in (sets.cluster_ips, sets.service_cidrs):
        change.removed += [(target, element) for element in seen.of(target).values()]
