"""Find the rules of an address or port in a few steps: chains of chains, each a few bits further into the key.

A list of 10,000 rules would cost every new connection of the node, whether it is for a Service or not; a tree costs it
as many rules as there are networks at the top. Chains without rules do not exist.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

from netplane.kernel.xtables.objects import Rules
from netplane.model import address
from netplane.model.address import Family
from netplane.model.service import Protocol
from netplane_proxy.plan.iptables import layout

Bits = tuple[int, bytes]
"""A node of a tree: how many leading bits of the key it stands for, and those bits with zeros after them."""

ADDRESS_LEVELS = {Family.V4: (16, 24, 28), Family.V6: (64, 112, 120, 124)}
PORT_LEVELS = (16, 20)
"""Of the protocol (8 bits) and the port: by 256 ports, by 16."""

Order = tuple[bytes, int, int, int]
"""What sorts items within a chain: address, rank, protocol and port."""

_ROOT: Bits = (0, b"")


class Item(NamedTuple):
    """Rules of one key."""

    key: bytes
    order: Order
    rules: Rules


class Shape(NamedTuple):
    """How a tree's nodes are told apart: where it cuts keys, what a node matches, and how its chain is named."""

    levels: tuple[int, ...]
    match: Callable[[Bits], str]
    name: Callable[[Bits], str]


class Tree:
    """The items of one tree, and of which chains they make it."""

    def __init__(self, table: str, root: str, shape: Shape) -> None:
        """Start empty; `root` is the chain that the tree hangs on, which may have rules of its own as well."""
        self.table = table
        self.root = root
        self._shape = shape
        self._leaves: dict[Bits, dict[Order, Rules]] = {}
        self._below: dict[Bits, set[Bits]] = {}
        self._nodes: dict[str, Bits] = {}

    def put(self, item: Item) -> Iterator[str]:
        """Add an item, or take it in place of another of its order. Yields the chains that are other now."""
        way = self._way(item.key)
        for upper, node in itertools.pairwise(way):
            below = self._below.setdefault(upper, set())
            if node not in below:
                below.add(node)
                self._nodes[self._shape.name(node)] = node
                yield self._name(upper)
        self._leaves.setdefault(way[-1], {})[item.order] = item.rules
        yield self._name(way[-1])

    def remove(self, item: Item) -> Iterator[str]:
        """Remove an item that is there. Yields the chains that are other now."""
        way = self._way(item.key)
        leaf = self._leaves[way[-1]]
        del leaf[item.order]
        yield self._name(way[-1])
        if leaf:
            return
        del self._leaves[way[-1]]
        for upper, node in zip(reversed(way[:-1]), reversed(way), strict=False):
            self._below[upper].discard(node)
            del self._nodes[self._shape.name(node)]
            yield self._name(upper)
            if self._below[upper]:
                return
            del self._below[upper]

    def rules(self, chain: str) -> Rules | None:
        """Return the rules that a chain has of this tree; None when the tree has no such chain."""
        node = _ROOT if chain == self.root else self._nodes.get(chain)
        if node is None:
            return None
        if node in self._leaves:
            leaf = self._leaves[node]
            return tuple(rule for order in sorted(leaf) for rule in leaf[order])
        return tuple(
            layout.join(self._shape.match(below), layout.jump(self._shape.name(below)))
            for below in sorted(self._below.get(node, ()))
        )

    def chains(self) -> Iterator[str]:
        """List all its chains but the root."""
        yield from self._nodes

    def _name(self, node: Bits) -> str:
        return self.root if node == _ROOT else self._shape.name(node)

    def _way(self, key: bytes) -> list[Bits]:
        return [_ROOT, *((bits, _cut(key, bits)) for bits in self._shape.levels)]


def by_destination(family: Family) -> Shape:
    """Look at where a packet goes."""
    return Shape(ADDRESS_LEVELS[family], lambda node: f"-d {_network(node)}", lambda node: _address_name("D", node))


def by_source(family: Family) -> Shape:
    """Look at where a packet comes from."""
    return Shape(ADDRESS_LEVELS[family], lambda node: f"-s {_network(node)}", lambda node: _address_name("S", node))


def by_port() -> Shape:
    """Look at protocol and port."""
    return Shape(PORT_LEVELS, lambda node: layout.port(*_ports(node)), _port_name)


def port_key(protocol: Protocol, port: int) -> bytes:
    """Return the key of a port."""
    return bytes((protocol,)) + port.to_bytes(2, "big")


def _cut(key: bytes, bits: int) -> bytes:
    whole, rest = divmod(bits, 8)
    kept = key[:whole]
    if rest:
        kept += bytes((key[whole] & (0xFF00 >> rest) & 0xFF,))
    return kept + bytes(len(key) - len(kept))


def _network(node: Bits) -> str:
    return f"{address.text(node[1])}/{node[0]}"


def _address_name(letter: str, node: Bits) -> str:
    bits, network = node
    if len(network) == 4:
        return f"{layout.PREFIX}{letter}-{'.'.join(map(str, network[: -(-bits // 8)]))}"
    return f"{layout.PREFIX}{letter}-{layout.digest(*node)}"


def _ports(node: Bits) -> tuple[Protocol, int, int]:
    bits, key = node
    first = int.from_bytes(key[1:], "big")
    return Protocol(key[0]), first, first + (1 << (24 - bits)) - 1


def _port_name(node: Bits) -> str:
    protocol, first, last = _ports(node)
    return f"{layout.PREFIX}N-{protocol}-{first}-{last}"
