"""Know which nodes claim which networks and tunnel ends, so that who gets in whose way is found without all others.

Of two nodes that claim the same, the one that comes first by name has it; this node comes before any other.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Collection, Iterator

from netplane.model import address

Row = tuple[bytes, int, str]


class Claims:
    """The pod networks and tunnel ends of nodes. A change costs what it touches, whatever the number of nodes."""

    def __init__(self, me: str) -> None:
        self._me = me
        self._rows: dict[int, list[Row]] = {4: [], 16: []}
        self._lengths: dict[int, Counter[int]] = {4: Counter(), 16: Counter()}
        self._names: dict[address.Prefix, set[str]] = {}
        self._macs: dict[bytes, set[str]] = {}

    def add(self, name: str, cidrs: Collection[address.Prefix], mac: bytes) -> None:
        """Take in what a node claims; `mac` is empty while it has no tunnel end."""
        for cidr in set(cidrs):
            width = len(cidr.network)
            bisect.insort(self._rows[width], (*cidr, name))
            self._lengths[width][cidr.length] += 1
            self._names.setdefault(cidr, set()).add(name)
        if mac:
            self._macs.setdefault(mac, set()).add(name)

    def remove(self, name: str, cidrs: Collection[address.Prefix], mac: bytes) -> None:
        """Forget what `add` was told."""
        for cidr in set(cidrs):
            width = len(cidr.network)
            del self._rows[width][bisect.bisect_left(self._rows[width], (*cidr, name))]
            lengths, names = self._lengths[width], self._names[cidr]
            lengths[cidr.length] -= 1
            if not lengths[cidr.length]:
                del lengths[cidr.length]
            names.remove(name)
            if not names:
                del self._names[cidr]
        if mac:
            self._macs[mac].remove(name)
            if not self._macs[mac]:
                del self._macs[mac]

    def touched(self, cidrs: Collection[address.Prefix], mac: bytes) -> set[str]:
        """Return the nodes that claim some of these networks, or the tunnel end."""
        found = {name for cidr in cidrs for name in self._overlapping(cidr)}
        return found | self._macs.get(mac, set())

    def overlapped(self, name: str, cidrs: Collection[address.Prefix]) -> str:
        """Return the node before this one whose networks overlap; "" without one."""
        return self._first(name, {other for cidr in cidrs for other in self._overlapping(cidr)})

    def doubled(self, name: str, mac: bytes) -> str:
        """Return the node before this one that has the same tunnel end; "" without one."""
        return self._first(name, self._macs.get(mac, set()))

    def _first(self, name: str, others: Collection[str]) -> str:
        if name == self._me or (len(others) == 1 and name in others):
            return ""
        before = (other for other in others if other == self._me or other < name)
        return min(before, key=lambda other: (other != self._me, other), default="")

    def _overlapping(self, cidr: address.Prefix) -> Iterator[str]:
        width = len(cidr.network)
        rows, last = self._rows[width], cidr.last
        at = bisect.bisect_left(rows, (cidr.network, 0, ""))
        while at < len(rows) and rows[at][0] <= last:
            yield rows[at][2]
            at += 1
        for length in self._lengths[width]:
            if length < cidr.length:
                yield from self._names.get(cidr.wider(length), ())
