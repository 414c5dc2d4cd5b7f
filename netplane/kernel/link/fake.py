"""Stand in for the kernel's links in tests. It passes the same tests as the real one (tests/parity)."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import replace

from netplane.kernel.errors import KernelError
from netplane.kernel.link.diff import Paths
from netplane.kernel.link.objects import (
    Address,
    Bridge,
    Command,
    Dummy,
    Forward,
    Link,
    LinkChange,
    LinkGroup,
    LinkName,
    Neighbour,
    Place,
    PortEntry,
    Program,
    Route,
    TokenBucket,
    Veth,
    Vxlan,
    WireGuard,
)


class Fake:
    """One network namespace. `namespaces` gives the stand-ins that a veth's peer may be born in, by open file."""

    def __init__(self, namespaces: dict[int, Fake] | None = None) -> None:
        self._namespaces = namespaces or {}
        self._links: dict[int, Link] = {1: Link(1, "lo", mac=bytes(6), mtu=65536)}
        self._peers: dict[int, tuple[Fake, int]] = {}
        self._addresses: dict[tuple[int, bytes, int], Address] = {}
        self._routes: dict[tuple[bytes, int, int], Route] = {}
        self._neighbours: dict[tuple[int, bytes], Neighbour] = {}
        self._forwards: dict[tuple[int, bytes], Forward] = {}
        self._rates: dict[int, int] = {}

    def commit(self, commands: Sequence[Command]) -> None:
        """Do the commands in order. All are tried; the first refusal is raised afterwards."""
        failure: KernelError | None = None
        for command in commands:
            number = self._do(command)
            if number and failure is None:
                failure = KernelError(number, str(command))
        if failure is not None:
            raise failure

    def link(self, which: str | int) -> Link | None:
        """Return one link, by name or index; None without it."""
        return next((link for link in self._links.values() if which in (link.name, link.index)), None)

    def links(self) -> list[Link]:
        """Return all links."""
        return list(self._links.values())

    def addresses(self, index: int = 0) -> list[Address]:
        """Return the addresses of one link, or all."""
        return [a for a in self._addresses.values() if index in (0, a.index)]

    def rate(self, index: int) -> int:
        """Return the bytes per second that a token bucket lets the link send, 0 without one."""
        return self._rates.get(index, 0)

    def paths(self, *, protocol: int, index: int = 0) -> Paths:
        """Return the routes made by `protocol`, and the permanent neighbours and forwards of the link `index`."""
        return Paths(
            frozenset(r for r in self._routes.values() if r.protocol == protocol),
            frozenset(n for n in self._neighbours.values() if index and n.index == index),
            frozenset(f for f in self._forwards.values() if index and f.index == index),
        )

    def _do(self, command: Command) -> int:
        thing = command.thing
        match thing:
            case Veth() | Bridge() | Vxlan() | Dummy() | WireGuard() if command.verb == "add":
                return self._add_link(thing)
            case LinkName() | Veth() | Bridge() | Vxlan() | Dummy() | WireGuard():
                name = thing.name
                return self._remove_links([link.index for link in self._links.values() if link.name == name])
            case LinkGroup(group=group):
                return self._remove_links([link.index for link in self._links.values() if link.group == group])
            case LinkChange():
                return self._change(thing)
            case Address() | Neighbour() | Forward() | Route():
                return self._entry(command, thing)
            case PortEntry(index=index) | Place(index=index) | Program(index=index):
                return 0 if index in self._links else errno.ENODEV
            case TokenBucket(index=index):
                return self._limit(command, thing, index)

    def _limit(self, command: Command, bucket: TokenBucket, index: int) -> int:
        if index not in self._links:
            return errno.ENODEV
        if command.verb == "remove":
            self._rates.pop(index, None)
        else:
            self._rates[index] = bucket.rate
        return 0

    def _add_link(self, thing: Veth | Bridge | Vxlan | Dummy | WireGuard) -> int:
        if self.link(thing.name):
            return errno.EEXIST
        index = self._free_index()
        if isinstance(thing, Vxlan):
            self._links[index] = Link(index, thing.name, "vxlan", thing.mac, thing.mtu, vxlan=thing)
        elif isinstance(thing, WireGuard):
            self._links[index] = Link(index, thing.name, "wireguard", mtu=thing.mtu or 1420)
        elif isinstance(thing, Bridge | Dummy):
            kind = "bridge" if isinstance(thing, Bridge) else "dummy"
            self._links[index] = Link(index, thing.name, kind, thing.mac, thing.mtu or 1500)
        else:
            return self._add_veth(thing, index)
        return 0

    def _add_veth(self, veth: Veth, index: int) -> int:
        place = self if veth.namespace is None else self._namespaces[veth.namespace]
        peer_index = veth.peer_index or place._free_index(beside=index if place is self else 0)
        if place.link(veth.peer) or peer_index in place._links:
            return errno.EEXIST
        mtu = veth.mtu or 1500
        place._links[peer_index] = Link(peer_index, veth.peer, "veth", veth.peer_mac, mtu, peer_index=index)
        self._links[index] = Link(index, veth.name, "veth", veth.mac, mtu, group=veth.group, peer_index=peer_index)
        place._peers[peer_index], self._peers[index] = (self, index), (place, peer_index)
        return 0

    def _free_index(self, *, beside: int = 0) -> int:
        return max(*self._links, beside) + 1

    def _remove_links(self, indices: Sequence[int]) -> int:
        for index in indices:
            self._drop(index)
            if index in self._peers:
                other, peer = self._peers.pop(index)
                other._drop(peer)
                other._peers.pop(peer, None)
        return 0

    def _drop(self, index: int) -> None:
        self._links.pop(index, None)
        self._rates.pop(index, None)
        self._down(index)
        for table in (self._addresses, self._neighbours, self._forwards):
            for key in [key for key in table if key[0] == index]:
                del table[key]  # type: ignore[arg-type]  # each table's own keys, which all begin with an index

    def _down(self, index: int) -> None:
        self._routes = {key: route for key, route in self._routes.items() if route.index != index}

    def _change(self, thing: LinkChange) -> int:
        link = self._links.get(thing.index) if thing.index else self.link(thing.name)
        if link is None:
            return errno.ENODEV
        if thing.is_up is False:
            self._down(link.index)
        self._links[link.index] = replace(
            link,
            is_up=link.is_up if thing.is_up is None else thing.is_up,
            mtu=thing.mtu or link.mtu,
            mac=thing.mac or link.mac,
            master=link.master if thing.master is None else thing.master,
            group=link.group if thing.group is None else thing.group,
            alias=link.alias if thing.alias is None else thing.alias,
            name=thing.rename or link.name,
        )
        return 0

    def _entry(self, command: Command, thing: Address | Neighbour | Forward | Route) -> int:
        table, key = self._place(thing)
        if command.verb == "remove":
            table.pop(key, None)
            return 0
        if thing.index and thing.index not in self._links:
            return errno.ENODEV
        if isinstance(thing, Route) and thing.index and not self._links[thing.index].is_up:
            return errno.ENETDOWN
        if command.verb == "add" and key in table:
            return errno.EEXIST
        table[key] = thing
        return 0

    def _place(self, thing: Address | Neighbour | Forward | Route) -> tuple[dict[object, object], object]:
        tables: tuple[dict[object, object], object]
        match thing:
            case Address():
                tables = self._addresses, (thing.index, thing.address, thing.length)  # type: ignore[assignment]  # one table
            case Neighbour():
                tables = self._neighbours, (thing.index, thing.address)  # type: ignore[assignment]  # of its own
            case Forward():
                tables = self._forwards, (thing.index, thing.mac)  # type: ignore[assignment]  # key and value
            case Route():
                tables = self._routes, (thing.network, thing.length, thing.metric)  # type: ignore[assignment]  # types
        return tables
