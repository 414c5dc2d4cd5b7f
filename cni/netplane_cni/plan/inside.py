"""Keep the networks of all nodes' pods as few blocks, so that a node that joins or leaves costs that node alone.

5,000 nodes whose networks fill one cluster network are one block; one that leaves splits it, one that joins mends it.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Mapping

from netplane.model import address
from netplane.model.node import Node

Cidrs = tuple[address.Prefix, ...]


class Inside:
    """The union of the nodes' pod networks, and of some that are always in it."""

    def __init__(self, always: Iterable[address.Prefix] = ()) -> None:
        self._cidrs: dict[str, Cidrs] = {}
        self._held: Counter[address.Prefix] = Counter()
        self._rows: dict[int, list[address.Prefix]] = {4: [], 16: []}
        self._lengths: dict[int, Counter[int]] = {4: Counter(), 16: Counter()}
        self._blocks: set[address.Prefix] = set()
        self._networks: Cidrs | None = ()
        self._touched: set[address.Prefix] = set()
        for cidr in always:
            self._add(cidr)

    @property
    def networks(self) -> Cidrs:
        """The blocks: as large as can be, no two overlap. The same object as long as they are the same."""
        if self._networks is None:
            self._networks = tuple(sorted(self._blocks))
        return self._networks

    def follow(self, changes: Mapping[str, Node | None]) -> None:
        """Take nodes as they are now, None for those gone."""
        for name, node in changes.items():
            was, now = self._cidrs.pop(name, ()), node.pod_cidrs if node is not None else ()
            if now:
                self._cidrs[name] = now
            if was == now:
                continue
            for cidr in now:
                self._add(cidr)
            for cidr in was:
                self._remove(cidr)

    def take(self) -> dict[address.Prefix, bool]:
        """Return the blocks that came or went since it was asked last, and whether each is there now."""
        touched, self._touched = self._touched, set()
        return {block: block in self._blocks for block in sorted(touched)}

    def _add(self, cidr: address.Prefix) -> None:
        self._held[cidr] += 1
        if self._held[cidr] > 1:
            return
        width = len(cidr.network)
        bisect.insort(self._rows[width], cidr)
        self._lengths[width][cidr.length] += 1
        if self._around(cidr) is None:
            for held in self._within(cidr):
                if (block := self._around(held)) is not None:
                    self._drop(block)  # It is no larger than the new one, or it would be around that.
            self._cover(cidr)

    def _cover(self, cidr: address.Prefix) -> None:
        while cidr.length and (other := _twin(cidr)) in self._blocks:
            self._drop(other)
            cidr = cidr.wider(cidr.length - 1)
        self._put(cidr)

    def _remove(self, cidr: address.Prefix) -> None:
        self._held[cidr] -= 1
        if self._held[cidr] > 0:
            return
        del self._held[cidr]
        width = len(cidr.network)
        rows, lengths = self._rows[width], self._lengths[width]
        del rows[bisect.bisect_left(rows, cidr)]
        lengths[cidr.length] -= 1
        if not lengths[cidr.length]:
            del lengths[cidr.length]
        if any(cidr.wider(length) in self._held for length in lengths if length < cidr.length):
            return
        block = self._around(cidr)
        assert block is not None  # it was added
        self._drop(block)
        part = cidr
        while part != block:
            self._put(_twin(part))
            part = part.wider(part.length - 1)
        for held in sorted(self._within(cidr), key=lambda one: one.length):
            if self._around(held) is None:
                self._cover(held)

    def _within(self, cidr: address.Prefix) -> list[address.Prefix]:
        """Return the networks that are held inside one."""
        rows, last = self._rows[len(cidr.network)], cidr.last
        start = bisect.bisect_left(rows, cidr)
        end = bisect.bisect_right(rows, (last, len(last) * 8), lo=start)
        return [held for held in rows[start:end] if held != cidr]

    def _around(self, cidr: address.Prefix) -> address.Prefix | None:
        for length in range(cidr.length, -1, -1):
            if (wider := cidr.wider(length)) in self._blocks:
                return wider
        return None

    def _put(self, block: address.Prefix) -> None:
        self._blocks.add(block)
        self._touched.add(block)
        self._networks = None

    def _drop(self, block: address.Prefix) -> None:
        self._blocks.remove(block)
        self._touched.add(block)
        self._networks = None


def _twin(cidr: address.Prefix) -> address.Prefix:
    """Return the network that with this one makes the next larger."""
    width = len(cidr.network)
    bit = 1 << (width * 8 - cidr.length)
    return address.Prefix((int.from_bytes(cidr.network, "big") ^ bit).to_bytes(width, "big"), cidr.length)
