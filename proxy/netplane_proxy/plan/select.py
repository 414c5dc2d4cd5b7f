"""Choose which of a Service's endpoints serve on this node. How packets reach them is forwarding's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

from netplane.model import address
from netplane.model.address import Family, Packed
from netplane.model.service import EndpointSlice, ServicePort


class Backend(NamedTuple):
    """Where a connection may end. A NamedTuple, for a cluster has tens of thousands and all are compared."""

    ip: Packed
    port: int

    def __str__(self) -> str:
        """Print `10.0.0.1:8080`."""
        return address.with_port(self.ip, self.port)


class Candidate(NamedTuple):
    """One endpoint for one port. `is_draining` means that it still serves while it terminates."""

    backend: Backend
    is_local: bool
    is_ready: bool
    is_serving: bool
    is_draining: bool
    zone_hints: frozenset[str]
    node_hints: frozenset[str]


# In half the time that their names take: a cold start makes tens of thousands.
_backend: Callable[[tuple[Packed, int]], Backend] = partial(tuple.__new__, Backend)
_candidate: Callable[[tuple[Any, ...]], Candidate] = partial(tuple.__new__, Candidate)


class Choice(NamedTuple):
    """The backends for Cluster policy and those for Local policy, sorted; `here` are the addresses on this node."""

    cluster: tuple[Backend, ...]
    local: tuple[Backend, ...]
    here: frozenset[Packed]


_choice: Callable[[tuple[Any, ...]], Choice] = partial(tuple.__new__, Choice)
_NOBODY: frozenset[Packed] = frozenset()


def plain(port: ServicePort, family: Family, slices: Iterable[EndpointSlice], node_name: str) -> Choice | None:
    """Choose among the endpoints where all are ready and none has hints, as nearly always; None where it is not so."""
    found: list[Backend] = []
    local: list[Backend] = []
    for piece in slices:
        if piece.family is not family or piece.proxy_name is not None:
            continue
        for name, protocol, number, _ in piece.ports:
            if name != port.name or protocol is not port.protocol:
                continue
            for addresses, ready, _, _, where, _, zones, nodes, _, _ in piece.endpoints:
                ip = addresses[0]
                if not ready or zones or nodes or (ip[0] in _SUSPECT and is_special(ip)):
                    return None
                backend = _backend((ip, number))
                found.append(backend)
                if where == node_name and where:
                    local.append(backend)
    if len(set(found)) < len(found):
        return None
    found.sort()
    if not local:
        return _choice((tuple(found), (), _NOBODY))
    local.sort()
    return _choice((tuple(found), tuple(local), frozenset([backend.ip for backend in local])))


def candidates(
    port: ServicePort, family: Family, slices: Iterable[EndpointSlice], node_name: str
) -> tuple[Candidate, ...]:
    """List the endpoints of one Service port in one family, each place once, sorted by backend.

    Special addresses are none: see `is_special`. A place that several slices name (it moves from one to the other)
    counts as its best row: local before remote, ready before draining.
    """
    by_backend: dict[Backend, Candidate] = {}
    first = by_backend.setdefault
    for piece in slices:
        if piece.family is not family or piece.proxy_name is not None:
            continue
        for endpoint_port in piece.ports:
            if endpoint_port.name != port.name or endpoint_port.protocol is not port.protocol:
                continue
            number = endpoint_port.port
            for addresses, ready, serving, terminating, where, _, zones, nodes, _, _ in piece.endpoints:
                ip = addresses[0]
                if ip[0] in _SUSPECT and is_special(ip):
                    continue
                backend = _backend((ip, number))
                is_local = where == node_name and where != ""
                found = _candidate((backend, is_local, ready, serving, serving and terminating, zones, nodes))
                known = first(backend, found)
                if known is not found:
                    by_backend[backend] = max(known, found, key=_rank)
    return tuple([by_backend[backend] for backend in sorted(by_backend)])


def is_special(ip: Packed) -> bool:
    """Tell whether an address can be no endpoint's: it would lead into the node itself, to nobody, or to many.

    API servers of Kubernetes refuse such endpoints (CVE-2021-25737), and kube-proxy relies on it. Another API may not:
    then whoever writes EndpointSlices could lead others to what listens on a loopback address alone, or to a cloud's
    metadata, and IPVS would refuse the whole change.
    """
    return is_no_destination(ip) or address.any_contains(_LINK_LOCAL, ip)


def is_no_destination(ip: Packed) -> bool:
    """Tell whether nobody outside of a node can be reached at an address: loopback, unspecified, or of many."""
    return ip[0] in _SUSPECT and address.any_contains(_NO_DESTINATION, ip)


_NO_DESTINATION = tuple(
    map(address.prefix, ("0.0.0.0", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255", "::", "::1", "ff00::/8"))
)
_LINK_LOCAL = tuple(map(address.prefix, ("169.254.0.0/16", "fe80::/10")))
_SUSPECT = frozenset((0, 127, 169, *range(224, 240), 254, 255))
"""With what all of these begin, and few others."""


def choose(found: tuple[Candidate, ...], *, node_name: str, zone: str) -> Choice:
    """Choose as kube-proxy does (pkg/proxy/topology.go, CategorizeEndpoints).

    Ready endpoints serve; where none is ready, those that still serve while terminating do, for Cluster and Local
    policy each on its own (KEP-1669). Hints narrow Cluster policy alone, and only as far as somebody ready remains.
    """
    ready = [one for one in found if one.is_ready]
    draining = []
    if len(ready) < len(found):
        draining = [one for one in found if one.is_draining and not one.is_ready]
    cluster = _nearest(ready, node_name, zone) or draining
    local = [one.backend for one in ready if one.is_local] or [one.backend for one in draining if one.is_local]
    # Whoever of `cluster` is on this node is among `local`, too.
    here = frozenset([backend.ip for backend in local]) if local else _NOBODY
    return Choice(tuple([one.backend for one in cluster]), tuple(local), here)


def serving(found: tuple[Candidate, ...]) -> tuple[Backend, ...]:
    """List the backends that answer at all, ready or draining, wherever they are: running flows to them may go on."""
    return tuple(one.backend for one in found if one.is_serving or one.is_ready)


def _nearest(ready: list[Candidate], node_name: str, zone: str) -> list[Candidate]:
    """Return what the hints let through: this node's, else this zone's, else everything (KEP-2433, KEP-3015).

    One ready endpoint without a hint makes the hints void, and so do hints that leave this node without any endpoint.
    """
    if not ready:
        return ready
    if ready[0].node_hints and all(one.node_hints for one in ready):
        near = [one for one in ready if node_name in one.node_hints]
        if near:
            return near
    if ready[0].zone_hints and all(one.zone_hints for one in ready):
        near = [one for one in ready if zone in one.zone_hints]
        if near:
            return near
    return ready


def _rank(one: Candidate) -> tuple[bool, bool, bool, bool, list[str], list[str]]:
    return one.is_local, one.is_ready, one.is_serving, one.is_draining, sorted(one.zone_hints), sorted(one.node_hints)
