"""Compile one Service port to elements. Which ids and classes it has been given is book's."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import partial
from operator import itemgetter
from typing import NamedTuple

from netplane.kernel.nft import objects
from netplane.kernel.nft.objects import COMMENT_MAX, Element, Set, u32
from netplane.model.address import Family, Packed, Prefix
from netplane.model.service import Protocol
from netplane_proxy.plan import forwarding
from netplane_proxy.plan.forwarding import LOCAL_KINDS, Backend, Kind, PortForwarding, PortKey
from netplane_proxy.plan.nftables import layout
from netplane_proxy.plan.nftables.layout import LAYOUTS, Layout, Pairs


class Row(NamedTuple):
    """One Service port with what it was given: its list id, affinity class (0 none), and its backends' order.

    `cluster` and `local` are the backends as the kernel holds them, each `layout.Slots.width` bytes, in the order of
    their indexes. That order is history: a change moves as few as it can.
    """

    id: int
    affinity_class: int
    cluster: bytes
    local: bytes
    port: PortForwarding

    @property
    def layout(self) -> Layout:
        """The sets of its family."""
        return LAYOUTS[self.port.key.family]

    @property
    def lists(self) -> tuple[tuple[int, bytes], ...]:
        """The lists that its frontends lead to: id and backends."""
        has_cluster = has_local = False
        for frontend in self.port.frontends:
            has_cluster |= frontend.kind is not Kind.INTERNAL_LOCAL
            has_local |= frontend.kind in LOCAL_KINDS
        if not has_local:
            return ((self.id, self.cluster),) if has_cluster else ()
        local = (self.id | layout.LOCAL, self.local)
        return ((self.id, self.cluster), local) if has_cluster else (local,)

    def backends(self) -> dict[int, frozenset[bytes]]:
        """Return the backends by list id, without their order."""
        width = self.layout.slots.width
        return {
            list_id: frozenset(slots[at : at + width] for at in range(0, len(slots), width))
            for list_id, slots in self.lists
        }


_row: Callable[[tuple[int, int, bytes, bytes, PortForwarding]], Row] = partial(tuple.__new__, Row)


def row(port: PortForwarding, *, list_id: int, affinity_class: int, cluster: bytes = b"", local: bytes = b"") -> Row:
    """Return the row of a port; `cluster` and `local` are the orders that stand now, to be kept as far as they can."""
    width = LAYOUTS[port.key.family].slots.width
    return Row(
        list_id,
        affinity_class,
        arrange(cluster, port.cluster[: layout.MAX_BACKENDS], width),
        arrange(local, port.local[: layout.MAX_BACKENDS], width),
        port,
    )


def arrange(order: bytes, backends: Iterable[Backend], width: int) -> bytes:
    """Return the backends in an order that differs least from the one that stands.

    Whoever stays keeps the index; holes are filled by newcomers, then by moving the last ones. Without any order they
    stand as given.
    """
    if not order:
        return b"".join(dict.fromkeys([ip + _PORTS[port] for ip, port in backends]))
    wanted = dict.fromkeys([ip + _PORTS[port] for ip, port in backends], True)
    kept = [order[at : at + width] for at in range(0, len(order), width)]
    holes = [index for index, one in enumerate(kept) if not wanted.pop(one, False)]
    newcomers = list(wanted)
    for index, one in zip(holes, newcomers, strict=False):
        kept[index] = one
    kept += newcomers[len(holes) :]
    return b"".join(_closed(kept, holes[len(newcomers) :]))


def _closed(kept: list[bytes], holes: list[int]) -> list[bytes]:
    """Move the last ones into what holes there are."""
    left = set(holes)
    for hole in holes:
        while len(kept) - 1 in left:
            kept.pop()
        if hole < len(kept):
            kept[hole] = kept.pop()
            left.discard(hole)
    return kept


class _Ports(dict[int, bytes]):
    """Ports as the kernel holds them: the same few come again and again."""

    def __missing__(self, port: int) -> bytes:
        """Pack one that is new."""
        self[port] = packed = port.to_bytes(2, "big") + b"\0\0"
        return packed


_PORTS = _Ports()


def slot(backend: Backend) -> bytes:
    """Return a backend as the `endpoints` map holds it."""
    return backend.ip + _PORTS[backend.port]


def name(key: PortKey) -> str:
    """Return the comment on a port's frontends: its name, with a hash in place of the end when it is too long."""
    whole = str(key)
    if len(whole) < COMMENT_MAX:
        return objects.comment(whole)
    mark = hashlib.sha256(whole.encode()).hexdigest()[:12]
    return objects.comment(f"{whole[: COMMENT_MAX - 14]}~{mark}")


def elements(row: Row) -> Pairs:
    """Return all elements of a row but those it shares with others (cluster IPs, hairpin)."""
    if not row.port.frontends:
        return []
    sets = row.layout
    found = _frontends(row, sets)
    for list_id, backends in row.lists:
        found.append((sets.lists, _list(row, list_id, backends)))
        found += _endpoints(sets, list_id, backends)
    return found


def uses(
    port: PortForwarding, is_pod: Callable[[Packed], bool], *, but: PortForwarding | None = None
) -> list[tuple[Set, bytes]]:
    """List the shared elements that a port uses and `but`, the same port at another time, does not.

    They are its cluster IP (none when it lost it to another), its hairpins, and those of its backends that are no pods,
    whose stray packets are known by them.
    """
    if not port.frontends:
        return []
    sets = LAYOUTS[port.key.family]
    other = _NOTHING if but is None or not but.frontends else but
    found: list[tuple[Set, bytes]] = []
    if port.frontends != other.frontends:
        found += [(sets.cluster_ips, ip) for ip in _cluster_ips(port) if ip not in _cluster_ips(other)]
    if port.hairpin != other.hairpin:
        found += [(sets.hairpin, ip + ip) for ip in port.hairpin if ip not in other.hairpin]
    own = set(port.cluster)
    own.update(port.local)
    own.difference_update(other.cluster, other.local)
    return found + sorted(hosts(port, own, is_pod), key=itemgetter(1))


def hosts(
    port: PortForwarding, backends: Iterable[Backend], is_pod: Callable[[Packed], bool]
) -> list[tuple[Set, bytes]]:
    """List the elements of those backends whose stray packets are known by address and port, for they are no pods."""
    protocol = port.key.protocol
    if not forwarding.may_stray(protocol):
        return []
    target = LAYOUTS[port.key.family].hosts
    return [(target, layout.place_key(ip, protocol, number)) for ip, number in backends if not is_pod(ip)]


_NOTHING = PortForwarding(PortKey("", "", "", Protocol.TCP, Family.V4))


def _cluster_ips(port: PortForwarding) -> list[Packed]:
    return [
        frontend.address
        for frontend in port.frontends
        if frontend.kind in (Kind.INTERNAL, Kind.INTERNAL_LOCAL) and frontend.address is not None
    ]


def step(former: Row, now: Row) -> tuple[Pairs, Pairs]:
    """Return the elements to remove and to add when a row of the same id changes: nothing that stays the same."""
    if not former.port.frontends or not now.port.frontends:
        return elements(former), elements(now)
    if former.affinity_class == now.affinity_class and former.port.frontends == now.port.frontends:
        return _step_of_backends(former, now)
    sets = now.layout
    had, has = dict(former.lists), dict(now.lists)
    have = {(sets.lists, u32(list_id)): _list(former, list_id, slots) for list_id, slots in had.items()}
    want = {(sets.lists, u32(list_id)): _list(now, list_id, slots) for list_id, slots in has.items()}
    have |= {(target, element.key): element for target, element in _frontends(former, sets)}
    want |= {(target, element.key): element for target, element in _frontends(now, sets)}
    removed = [(place[0], element) for place, element in have.items() if want.get(place) != element]
    added = [(place[0], element) for place, element in want.items() if have.get(place) != element]
    for list_id in {**had, **has}:
        _move(sets, list_id, had.get(list_id, b""), has.get(list_id, b""), removed, added)
    return removed, added


def _step_of_backends(former: Row, now: Row) -> tuple[Pairs, Pairs]:
    """Do as `step` does when only backends differ, which is the common change."""
    sets = now.layout
    removed: Pairs = []
    added: Pairs = []
    for (list_id, had), (_, has) in zip(former.lists, now.lists, strict=True):
        # What an empty list says depends on the other one, too.
        if len(had) != len(has) or not has:
            before, after = _list(former, list_id, had), _list(now, list_id, has)
            if before != after:
                removed.append((sets.lists, before))
                added.append((sets.lists, after))
        _move(sets, list_id, had, has, removed, added)
    return removed, added


class Turnover(NamedTuple):
    """What becomes of a row when as many backends come as go: elements, and who went and came."""

    row: Row
    removed: Pairs
    added: Pairs
    gone: list[Backend]
    came: list[Backend]


def turnover(former: Row, port: PortForwarding) -> Turnover | None:
    """Do what `row`, `step` and `uses` do, in a third of the time, for the change that is by far the most common.

    It is that backends of the cluster's list are replaced and nothing else differs; None when it is another.
    """
    was = former.port
    had, has = was.cluster, port.cluster
    if not (
        len(had) == len(has) <= layout.MAX_BACKENDS
        and was.frontends == port.frontends
        and was.hairpin == port.hairpin
        and not (was.local or port.local or former.affinity_class or port.affinity_seconds)
        and port.frontends
        and port.frontends[0].kind is not Kind.INTERNAL_LOCAL  # There may be no list of the cluster's then.
    ):
        return None
    stays = set(had).intersection(has)
    gone = [one for one in had if one not in stays]
    came = [one for one in has if one not in stays]
    sets, order, head, made = former.layout, former.cluster, u32(former.id), objects.element
    target, width = sets.endpoints, sets.slots.width
    removed: Pairs = []
    added: Pairs = []
    for at, one in zip(sorted([_place(order, slot(one), width) for one in gone]), came, strict=True):
        key, after = head + _INDEXES[at // width], slot(one)
        removed.append((target, made((key, order[at : at + width], "", None))))
        added.append((target, made((key, after, "", None))))
        order = order[:at] + after + order[at + width :]
    return Turnover(_row((former.id, 0, order, former.local, port)), removed, added, gone, came)


def _place(order: bytes, wanted: bytes, width: int) -> int:
    """Return where a backend's slot begins."""
    at = order.index(wanted)
    while at % width:
        at = order.index(wanted, at + 1)
    return at


def _move(sets: Layout, list_id: int, had: bytes, has: bytes, removed: Pairs, added: Pairs) -> None:
    if had == has:
        return
    target, width, head, made = sets.endpoints, sets.slots.width, u32(list_id), objects.element
    for at in range(0, max(len(had), len(has)), width):
        before, after = had[at : at + width], has[at : at + width]
        if before == after:
            continue
        key = head + _INDEXES[at // width]
        if before:
            removed.append((target, made((key, before, "", None))))
        if after:
            added.append((target, made((key, after, "", None))))


def _frontends(row: Row, sets: Layout) -> Pairs:
    comment = name(row.port.key)
    found: Pairs = []
    for frontend in row.port.frontends:
        ranges = frontend.source_ranges
        key = layout.place_key(frontend.address, frontend.protocol, frontend.port)
        value = layout.frontend_value(row.id, frontend.kind, row.affinity_class, has_ranges=ranges is not None)
        target = sets.nodeports if frontend.address is None else sets.frontends
        found.append((target, Element(key, u32(value), comment)))
        for prefix in ranges or ():
            found.append((sets.source_ranges, _range(key, prefix)))
    return found


def _range(key: bytes, prefix: Prefix) -> Element:
    return Element(key + prefix.network, None, "", key + prefix.last)


def _list(row: Row, list_id: int, backends: bytes) -> Element:
    code = len(backends) // row.layout.slots.width
    if not code:
        # Kubernetes: refuse where nobody serves; stay silent where others do, for a balancer to go there.
        code = layout.DROP if list_id & layout.LOCAL and row.cluster else layout.REJECT
    elif row.affinity_class:
        code |= layout.STICKY
    return Element(u32(list_id), u32(list_id | code << layout.CODE_SHIFT))


def _endpoints(sets: Layout, list_id: int, backends: bytes) -> Pairs:
    target, width, head = sets.endpoints, sets.slots.width, u32(list_id)
    made = objects.element
    return [
        (target, made((head + _INDEXES[at // width], backends[at : at + width], "", None)))
        for at in range(0, len(backends), width)
    ]


_INDEXES = [u32(index) for index in range(layout.MAX_BACKENDS)]
