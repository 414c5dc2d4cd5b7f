"""Compile one Service port to chains of its own and to items of the trees that lead there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from netplane.kernel.xtables.objects import Rules
from netplane.model.address import Packed
from netplane_proxy.plan.forwarding import Backend, Frontend, Kind, PortForwarding
from netplane_proxy.plan.iptables import layout
from netplane_proxy.plan.iptables.frame import Frame
from netplane_proxy.plan.iptables.layout import FROM_NODE, chain, join, jump
from netplane_proxy.plan.iptables.tree import Item, port_key

_INTERNAL = frozenset((Kind.INTERNAL, Kind.INTERNAL_LOCAL))
_LOCAL = frozenset((Kind.INTERNAL_LOCAL, Kind.EXTERNAL_LOCAL))
_PLACE, _WHOLE_ADDRESS = 0, 1


@dataclass(slots=True)
class Compiled:
    """What one Service port asks for: chains of the nat table, and items of the trees by their roots' names.

    `cluster_ips` and `hairpin` are addresses that it may share with others.
    """

    chains: dict[str, Rules] = field(default_factory=dict)
    items: dict[str, list[Item]] = field(default_factory=dict)
    cluster_ips: tuple[Packed, ...] = ()
    hairpin: tuple[Packed, ...] = ()


def compile(row: PortForwarding, frame: Frame) -> Compiled:
    """Return what a Service port asks for on this node."""
    made = Compiled(hairpin=row.hairpin)
    mark = layout.port_digest(row.key)
    for frontend in row.frontends:
        where = layout.place(frontend.place)
        goal = _goal(row, frontend, mark)
        rules = [join(where, jump(goal))] if goal else []
        if frontend.address in frame.nodeport_addresses:
            # It may be the place of a NodePort too, to which whoever is refused here shall not come.
            rules.append(join(where, "-j ACCEPT"))
        if rules:
            _add(made, frontend, tuple(rules), roots=(layout.SERVICES, layout.NODEPORTS))
        refused = tuple(_refused(row, frontend, where))
        if refused:
            _add(made, frontend, refused, roots=(layout.REFUSE, layout.REFUSED_NODEPORTS))
    made.cluster_ips = tuple(one.address for one in row.frontends if one.kind in _INTERNAL and one.address is not None)
    made.chains = dict(_chains(row, frame, mark))
    return made


def cluster_ip(ip: Packed) -> Item:
    """Return the item that rejects all ports of a cluster IP which it does not have."""
    return Item(ip, (ip, _WHOLE_ADDRESS, 0, 0), (f"-d {layout.host(ip)} {jump(layout.REJECT)}",))


def hairpin(ip: Packed, frame: Frame) -> Item:
    """Return the item that masquerades a backend's connections to itself."""
    rule = f"-s {layout.host(ip)} -d {layout.host(ip)} {layout.mark(frame.mark)}"
    return Item(ip, (ip, _PLACE, 0, 0), (rule,))


def _add(made: Compiled, frontend: Frontend, rules: Rules, *, roots: tuple[str, str]) -> None:
    protocol, port = frontend.protocol, frontend.port
    key = frontend.address or port_key(protocol, port)
    item = Item(key, (frontend.address or b"", _PLACE, protocol, port), rules)
    made.items.setdefault(roots[frontend.address is None], []).append(item)


def _goal(row: PortForwarding, frontend: Frontend, mark: str) -> str:
    """Return the chain to which a frontend's packets go; "" when all are refused."""
    backends = (*row.cluster, *row.local) if frontend.kind is Kind.EXTERNAL_LOCAL else _backends(row, frontend.kind)
    if not backends:
        return ""
    return _chain_of(row, frontend, mark)


def _chain_of(row: PortForwarding, frontend: Frontend, mark: str) -> str:
    if frontend.source_ranges is not None:
        return chain("F", layout.digest(mark, *frontend.source_ranges))
    return chain("I" if frontend.kind in _INTERNAL else "X", mark)


def _backends(row: PortForwarding, kind: Kind) -> tuple[Backend, ...]:
    return row.local if kind in _LOCAL else row.cluster


def _refused(row: PortForwarding, frontend: Frontend, where: str) -> Iterator[str]:
    """Yield the filter's rules for those that find no backend, or may not come."""
    fate = ""
    if not _backends(row, frontend.kind):
        fate = layout.DROP if row.cluster else jump(layout.REJECT)
    if frontend.source_ranges is None:
        # What a cluster IP has no rule for is rejected anyway.
        if fate and not (frontend.kind in _INTERNAL and not row.cluster):
            yield join(where, fate)
        return
    if fate and not row.cluster:
        yield from (join(layout.source(prefix), where, fate) for prefix in frontend.source_ranges)
    yield join(where, layout.DROP)


def _chains(row: PortForwarding, frame: Frame, mark: str) -> Iterator[tuple[str, Rules]]:
    kinds = {frontend.kind for frontend in row.frontends}
    ways = {}
    for letter, backends, users in (
        ("C", row.cluster, kinds - {Kind.INTERNAL_LOCAL}),
        ("L", row.local, kinds & _LOCAL),
    ):
        ways[letter] = tuple(_balance(row, backends, mark, letter=letter)) if users else ()
        # Whoever is the only one to get there needs no jump; EXTERNAL_LOCAL gets to C from two rules.
        if ways[letter] and (len(users) > 1 or (letter == "C" and Kind.EXTERNAL_LOCAL in users)):
            yield chain(letter, mark), ways[letter]
            ways[letter] = (jump(chain(letter, mark)),)
    for kind in sorted(kinds):
        rules = tuple(_policy(kind, frame, cluster=ways["C"], local=ways["L"]))
        if rules:
            yield chain("I" if kind in _INTERNAL else "X", mark), rules
    for frontend in row.frontends:
        if frontend.source_ranges is not None and _goal(row, frontend, mark):
            to = jump(chain("X", mark))
            allowed = tuple(join(layout.source(prefix), to) for prefix in frontend.source_ranges)
            yield _chain_of(row, frontend, mark), allowed


def _policy(kind: Kind, frame: Frame, *, cluster: Rules, local: Rules) -> Iterator[str]:
    """Yield who goes which way, and who is masqueraded; nothing for a kind that has no backend."""
    marked = layout.mark(frame.mark)
    if kind is Kind.EXTERNAL_LOCAL:
        if cluster:
            yield from (join(match, *cluster) for match in frame.pods)
            yield join(FROM_NODE, marked)
            yield join(FROM_NODE, *cluster)
        yield from local
        return
    backends = local if kind in _LOCAL else cluster
    who = {"all": marked, "outside": frame.mark_outside, "never": ""}[frame.masquerade]
    rule = marked if kind is Kind.EXTERNAL else who
    if backends and rule:
        yield rule
    yield from backends


def _balance(row: PortForwarding, backends: tuple[Backend, ...], mark: str, *, letter: str) -> Iterator[str]:
    """Yield the choice of one of the backends with equal odds, after those that the client is bound to."""
    family, protocol = row.key.family, f"-p {row.key.protocol}"
    names = [""] * len(backends)
    if row.affinity_seconds:
        names = [f"{layout.PREFIX}{letter}-{layout.digest(mark, *backend)}" for backend in backends]
        for backend, name in zip(backends, names, strict=True):
            yield join(protocol, layout.recall(name, row.affinity_seconds, family), layout.dnat(backend))
    for index, (backend, name) in enumerate(zip(backends, names, strict=True)):
        chosen = layout.odds(len(backends) - index)
        yield join(protocol, chosen, layout.remember(name, family) if name else "", layout.dnat(backend))
