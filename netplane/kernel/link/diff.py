"""Say which commands turn the routes, neighbours and forwarding entries that are there into those wanted."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from netplane.kernel.link.objects import Command, Forward, Neighbour, Route, remove, replace
from netplane.lib import keyed

Item = TypeVar("Item", Route, Neighbour, Forward)


@dataclass(frozen=True, slots=True)
class Paths:
    """How packets leave a namespace, as far as one owner is concerned."""

    routes: frozenset[Route] = frozenset()
    neighbours: frozenset[Neighbour] = frozenset()
    forwards: frozenset[Forward] = frozenset()


def paths(want: Paths, have: Paths) -> tuple[Command, ...]:
    """Return the commands that turn `have` into `want`, none when they are equal, always in the same order.

    A route comes after the neighbour and the tunnel end that it needs and goes before them, so that no packet is sent
    to where nobody is. What only changes is replaced in one step and never missing in between.
    """
    add_forwards, drop_forwards = _delta(want.forwards, have.forwards, lambda f: (f.index, f.mac))
    add_neighbours, drop_neighbours = _delta(want.neighbours, have.neighbours, lambda n: (n.index, n.address))
    add_routes, drop_routes = _delta(want.routes, have.routes, lambda r: (r.network, r.length, r.metric))
    return (*add_forwards, *add_neighbours, *add_routes, *drop_routes, *drop_neighbours, *drop_forwards)


def _delta(
    want: Iterable[Item], have: Iterable[Item], key: Callable[[Item], Hashable]
) -> tuple[list[Command], list[Command]]:
    wanted: dict[Hashable, Item] = {key(item): item for item in sorted(want)}
    present: dict[Hashable, Item] = {key(item): item for item in sorted(have)}
    delta: keyed.Delta[Hashable, Item] = keyed.diff(wanted, present)
    added = sorted((*delta.add.values(), *delta.change.values()))
    return [replace(item) for item in added], [remove(item) for item in delta.remove.values()]
