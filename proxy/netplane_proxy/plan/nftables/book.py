"""Know what the tables hold for all Service ports, and which numbers were given out. Comparing is adopt's.

Numbers (list ids, affinity classes) and the order of backends are history, not meaning: two kernels that mean the same
may differ in them, and a restart takes them over from the kernel.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from netplane.kernel.nft.objects import Batch, Chain, Element, Set
from netplane.model import address
from netplane.model.address import Family, Prefix
from netplane_proxy.plan import forwarding
from netplane_proxy.plan.forwarding import NodeFacts, PortForwarding, PortKey
from netplane_proxy.plan.nftables import balance, layout, rows, skeleton
from netplane_proxy.plan.nftables.layout import LAYOUTS, Pairs
from netplane_proxy.plan.nftables.rows import Row
from netplane_proxy.plan.nftables.skeleton import Parameters

RESTING = 1024
"""An id is used again only when so many others wait as well: by then nothing remembers its former owner."""


class Ids:
    """The list ids of one family."""

    def __init__(self, taken: Iterable[int] = ()) -> None:
        """Start with some that are in use."""
        used = set(taken)
        self._next = max(used, default=0) + 1
        self._free = deque(number for number in range(1, self._next) if number not in used)

    def take(self) -> int:
        """Give out one that nobody has."""
        if self._next < layout.IDS and len(self._free) <= RESTING:
            self._next += 1
            return self._next - 1
        if not self._free:
            raise ValueError(f"more than {layout.IDS - 1} Service ports do not fit into the nftables layout")
        return self._free.popleft()

    def give_back(self, number: int) -> None:
        """Take one back."""
        self._free.append(number)


@dataclass(slots=True)
class Change:
    """What one transaction shall do. `bereaved` lists lost backends that clients may be bound to: what is left."""

    chains: list[Chain] = field(default_factory=list)
    removed: Pairs = field(default_factory=list)
    added: Pairs = field(default_factory=list)
    bereaved: dict[tuple[Family, int], frozenset[bytes]] = field(default_factory=dict)

    def batch(self) -> Batch:
        """Return it as a batch: chains, all removals, then all additions, those of one set together."""
        batch = Batch()
        for chain in self.chains:
            batch.replace_chain(chain)
        for target, elements in _by_set(self.removed).items():
            batch.remove(target, elements)
        for target, elements in _by_set(self.added).items():
            batch.add(target, elements)
        return batch


def _by_set(pairs: Pairs) -> dict[Set, list[Element]]:
    found: dict[Set, list[Element]] = {}
    for target, element in pairs:
        if target in found:
            found[target].append(element)
        else:
            found[target] = [element]
    return found


class Book:
    """Every Service port's row. A change is written here first; when the kernel refuses it, the book is void."""

    def __init__(self, node: NodeFacts, *, classes: Mapping[int, int] | None = None) -> None:
        """Start without rows; `classes` (numbers by seconds) are those that have chains."""
        self.node = node
        self.rows: dict[PortKey, Row] = {}
        self.ids: dict[Family, Ids] = {family: Ids() for family in Family}
        self._classes = dict(classes or {})
        self.counts: dict[Family, set[int]] = {family: set() for family in Family}
        """The list lengths that have chains, or shall have them."""
        self.shared: dict[Set, dict[bytes, int]] = {
            target: {} for sets in LAYOUTS.values() for target in (sets.cluster_ips, sets.hairpin, sets.hosts)
        }
        """How many Service ports use each key of the sets whose elements they share."""
        self._is_pod = forwarding.pod_test(node)

    @property
    def demand(self) -> int:
        """How many affinity classes there are: when it grows, the skeleton must."""
        return len(self._classes)

    def parameters(self, family: Family) -> Parameters:
        """Return what the skeleton must be like for the rows to work."""
        return skeleton.parameters(self.node, family, classes=self._classes)

    def change(self, changes: Mapping[PortKey, PortForwarding | None]) -> Change:
        """Take changes of Service ports (None: gone) and return what they ask of the kernel."""
        change = Change()
        shared: dict[tuple[Set, bytes], bool] = {}
        for key, port in changes.items():
            former = self.rows.get(key)
            if former is not None and port is not None and (made := rows.turnover(former, port)) is not None:
                self._turn_over(former, made, change, shared)
                continue
            self._count(former.port if former is not None else None, port, shared)
            if port is None:
                if former is not None:
                    change.removed.extend(rows.elements(former))
                    self._forget(former, change)
            else:
                row = self.place(port, former)
                self._update(former, row, change)
                self._provide(row, change)
        self._settle(shared, change)
        return change

    def _turn_over(
        self, former: Row, made: rows.Turnover, change: Change, shared: dict[tuple[Set, bytes], bool]
    ) -> None:
        self.rows[made.row.port.key] = made.row
        change.removed += made.removed
        change.added += made.added
        for use in rows.hosts(former.port, made.gone, self._is_pod):
            self._use(use, -1, shared)
        for use in rows.hosts(made.row.port, made.came, self._is_pod):
            self._use(use, 1, shared)

    def place(self, port: PortForwarding, former: Row | None = None) -> Row:
        """Give a port its row, numbers included. `former` is the row that stands."""
        number = self._class(port.affinity_seconds) if port.affinity_seconds else 0
        if former is None:
            row = rows.row(port, list_id=self.ids[port.key.family].take(), affinity_class=number)
        else:
            row = rows.row(port, list_id=former.id, affinity_class=number, cluster=former.cluster, local=former.local)
        self.rows[port.key] = row
        return row

    def take(self, row: Row) -> None:
        """Count a row's part in what it shares, without asking anything of the kernel."""
        self._count(None, row.port, {})
        self._provide(row, Change())

    def backends(self, family: Family) -> dict[int, frozenset[bytes]]:
        """Return the backends by list id, for lists with affinity."""
        return {
            list_id: slots
            for row in self.rows.values()
            if row.port.key.family is family and row.affinity_class
            for list_id, slots in row.backends().items()
        }

    def _update(self, former: Row | None, now: Row, change: Change) -> None:
        if former is None:
            change.added.extend(rows.elements(now))
            return
        removed, added = rows.step(former, now)
        change.removed += removed
        change.added += added
        if former.affinity_class:
            kept = now.backends() if now.affinity_class else {}
            for list_id, slots in former.backends().items():
                left = kept.get(list_id, frozenset())
                if not slots <= left:
                    change.bereaved[now.port.key.family, list_id] = left

    def _provide(self, row: Row, change: Change) -> None:
        """See that there are chains for the lengths of a row's lists."""
        sets = row.layout
        known = self.counts[sets.family]
        for _, slots in row.lists:
            count = len(slots) // sets.slots.width
            if count and count not in known:
                known.add(count)
                change.chains += balance.chains(sets, count)
                change.added += balance.verdicts(sets, count)

    def _forget(self, row: Row, change: Change) -> None:
        family = row.port.key.family
        del self.rows[row.port.key]
        self.ids[family].give_back(row.id)
        if row.affinity_class:
            change.bereaved |= {(family, list_id): frozenset() for list_id, _ in row.lists}

    def _class(self, seconds: int) -> int:
        """Return the class of an affinity time-out; when all are given out, that of the nearest time."""
        number = self._classes.get(seconds)
        if number is not None:
            return number
        free = set(range(1, layout.CLASSES + 1)).difference(self._classes.values())
        if not free:
            return self._classes[min(self._classes, key=lambda known: (abs(known - seconds), known))]
        self._classes[seconds] = min(free)
        return self._classes[seconds]

    def _count(
        self, former: PortForwarding | None, now: PortForwarding | None, touched: dict[tuple[Set, bytes], bool]
    ) -> None:
        """Count uses of shared elements; note for each touched one whether the kernel has it."""
        if former is not None:
            for use in rows.uses(former, self._is_pod, but=now):
                self._use(use, -1, touched)
        if now is not None:
            for use in rows.uses(now, self._is_pod, but=former):
                self._use(use, 1, touched)

    def _use(self, use: tuple[Set, bytes], by: int, touched: dict[tuple[Set, bytes], bool]) -> None:
        target, key = use
        counts = self.shared[target]
        before = counts.get(key, 0)
        touched.setdefault(use, before > 0)
        if before + by:
            counts[key] = before + by
        else:
            del counts[key]

    def _settle(self, touched: dict[tuple[Set, bytes], bool], change: Change) -> None:
        for (target, key), was in touched.items():
            is_used = key in self.shared[target]
            if was and not is_used:
                change.removed.append((target, Element(key)))
            elif is_used and not was:
                change.added.append((target, Element(key)))


def node_elements(node: NodeFacts, family: Family) -> Pairs:
    """Return the elements that follow from the node's facts, but for `service_cidrs`."""
    sets = LAYOUTS[family]
    found: Pairs = [(sets.nodeport_ips, Element(ip)) for ip in node.nodeport_addresses if address.family(ip) is family]
    found += [(sets.pod_cidrs, one) for one in intervals(node.pod_cidrs, family)]
    return found


def intervals(prefixes: Iterable[Prefix], family: Family) -> list[Element]:
    """Return networks as intervals that neither overlap nor touch, as the kernel's sets want them."""
    found: list[tuple[int, int]] = []
    width = family.bits // 8
    for prefix in sorted(prefix for prefix in prefixes if prefix.family is family):
        first, last = int.from_bytes(prefix.network, "big"), int.from_bytes(prefix.last, "big")
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(last, found[-1][1])
        else:
            found.append((first, last))
    return [Element(first.to_bytes(width, "big"), key_end=last.to_bytes(width, "big")) for first, last in found]
