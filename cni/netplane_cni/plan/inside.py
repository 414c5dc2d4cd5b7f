"""Keep the networks of all nodes' pods as few blocks, so that a node that joins or leaves costs that node alone.

5,000 nodes whose networks fill one cluster network are one block; one that leaves splits it, one that joins mends it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from netplane.model import address
from netplane.model.node import Node
from netplane_cni.plan.neighbourhood import changed


class Inside:
    """The union of the nodes' pod networks."""

    def __init__(self) -> None:
        self._nodes: Mapping[str, Node] = {}
        self._held: Counter[address.Prefix] = Counter()
        self._lengths: Counter[tuple[int, int]] = Counter()
        self._blocks: set[address.Prefix] = set()
        self._networks: tuple[address.Prefix, ...] | None = ()

    @property
    def networks(self) -> tuple[address.Prefix, ...]:
        """The blocks: as large as can be, no two overlap. The same object as long as they are the same."""
        if self._networks is None:
            self._networks = tuple(sorted(self._blocks))
        return self._networks

    def follow(self, nodes: Mapping[str, Node]) -> None:
        """Take the nodes as they are now."""
        before, self._nodes = self._nodes, nodes
        for name in changed(before, nodes):
            was = before[name].pod_cidrs if name in before else ()
            now = nodes[name].pod_cidrs if name in nodes else ()
            if was == now:
                continue
            for cidr in now:
                self._add(cidr)
            for cidr in was:
                self._remove(cidr)

    def _add(self, cidr: address.Prefix) -> None:
        self._held[cidr] += 1
        if self._held[cidr] > 1:
            return
        self._lengths[_size(cidr)] += 1
        if self._around(cidr) is None:
            if self._near(cidr):  # else none lies within another
                self._blocks -= {block for block in self._blocks if block.network in cidr}
            self._cover(cidr)

    def _cover(self, cidr: address.Prefix) -> None:
        while cidr.length and (other := _twin(cidr)) in self._blocks:
            self._blocks.remove(other)
            cidr = _wider(cidr)
        self._blocks.add(cidr)
        self._networks = None

    def _remove(self, cidr: address.Prefix) -> None:
        self._held[cidr] -= 1
        if self._held[cidr] > 0:
            return
        del self._held[cidr]
        self._lengths[_size(cidr)] -= 1
        if not self._lengths[_size(cidr)]:
            del self._lengths[_size(cidr)]
        block = self._around(cidr)
        assert block is not None  # it was added
        if any(other.overlaps(cidr) for other in self._near(cidr)):
            self._anew()
            return
        self._blocks.remove(block)
        while cidr != block:
            self._blocks.add(_twin(cidr))
            cidr = _wider(cidr)
        self._networks = None

    def _near(self, cidr: address.Prefix) -> Collection[address.Prefix]:
        """Return the networks that may overlap one that is held no more: none where all have its size."""
        return self._held if self._lengths.keys() - {_size(cidr), *_other_family(self._lengths, cidr)} else ()

    def _around(self, cidr: address.Prefix) -> address.Prefix | None:
        while cidr not in self._blocks:
            if not cidr.length:
                return None
            cidr = _wider(cidr)
        return cidr

    def _anew(self) -> None:
        self._blocks = set()
        for cidr in sorted(self._held, key=lambda held: held.length):
            if self._around(cidr) is None:
                self._cover(cidr)
        self._networks = None


def _size(cidr: address.Prefix) -> tuple[int, int]:
    return len(cidr.network), cidr.length


def _other_family(sizes: Iterable[tuple[int, int]], cidr: address.Prefix) -> list[tuple[int, int]]:
    return [size for size in sizes if size[0] != len(cidr.network)]


def _wider(cidr: address.Prefix) -> address.Prefix:
    """Return the network of twice the size around one."""
    width = len(cidr.network)
    bit = 1 << (width * 8 - cidr.length)
    return address.Prefix((int.from_bytes(cidr.network, "big") & ~bit).to_bytes(width, "big"), cidr.length - 1)


def _twin(cidr: address.Prefix) -> address.Prefix:
    """Return the network that with this one makes the next larger."""
    width = len(cidr.network)
    bit = 1 << (width * 8 - cidr.length)
    return address.Prefix((int.from_bytes(cidr.network, "big") ^ bit).to_bytes(width, "big"), cidr.length)
