"""Remember what the paths to the other nodes follow from, so that a change of a few nodes costs those few.

Whom a change concerns is known without a look at the others: the node itself, those that claim the same address,
network or tunnel end, and holders of the same key. What touches this node's own place, or its choice of addresses, is
for plan/fabric, which looks at all nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from netplane.kernel.link.diff import Paths
from netplane.kernel.link.objects import Forward, Neighbour, Route
from netplane.kernel.wireguard.objects import Peer
from netplane.model import address
from netplane.model.node import Node
from netplane_cni.plan import fabric, wireguard
from netplane_cni.plan.fabric import Where
from netplane_cni.plan.settling import Settling

K = TypeVar("K", bound=Hashable)

MOST = 64
"""Nodes that change at once; for more a look at all is not dearer."""


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be there of the nodes concerned, and what was.

    `come` and `gone` are addresses on the underlay that packets now go to, or no more. `peers` are WireGuard's by key,
    None for those that go; `problems` are by node, "" for those that are over.
    """

    want: Paths
    have: Paths
    come: frozenset[address.Packed] = frozenset()
    gone: frozenset[address.Packed] = frozenset()
    peers: Mapping[bytes, Peer | None] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)


class Neighbourhood:
    """All nodes as the kernel was last brought to reach them. Of use while this node's place is the same."""

    def __init__(
        self, settling: Settling, plan: fabric.Plan, me: Node, settings: fabric.Settings, where: Where
    ) -> None:
        self.settling = settling
        self.plan = replace(plan, peers=(), sealed=(), closed=(), problems={})
        self.me = me
        self._limits = dict(where.limits)
        self._where = replace(where, limits=self._limits)
        self._settings = settings
        self._problems = dict(plan.problems)
        nodes = settling.nodes.values()
        self._claims = fabric.claims(nodes, me)
        self._shut = _Tally(cidr for node in nodes for cidr in fabric.shut(node, me, settings))
        self._reached = _Tally(ip for peer in (*plan.peers, *plan.sealed) for ip in fabric.ends(peer, me, plan.mode))
        self._holders: dict[bytes, set[str]] = {}
        for peer in plan.sealed:
            self._hold(peer, is_there=True)

    @property
    def problems(self) -> Mapping[str, str]:
        """Why there is no path to some nodes, by name."""
        return self._problems

    def follow(self, changes: Mapping[str, Node | None], limits: Mapping[address.Packed, int | None]) -> Step | None:
        """Return what changed nodes, and what is newly known of the paths to addresses, bring about.

        None when a look at all is needed, and a new one of these.
        """
        if max(len(changes), len(limits)) > MOST:
            return None
        before = self.settling.change(changes)
        if before is None or place(self.settling.nodes[self.me.name]) != place(self.me):
            return None
        concerned = self._claim(before) | self.settling.listing(limits)
        nodes = self.settling.nodes
        have, old_keys = self._sum([before.get(name, nodes.get(name)) for name in sorted(concerned)], is_there=False)
        for ip, limit in limits.items():
            self._limits.pop(ip, None)
            self._limits |= {ip: limit} if limit is not None else {}
        problems = self._judge(concerned)
        want, new_keys = self._sum([nodes.get(name) for name in sorted(concerned)], is_there=True)
        (come, gone), (shut, opened) = self._reached.change(), self._shut.change()
        return Step(
            replace(want, routes=want.routes | set(map(fabric.closing, shut))),
            replace(have, routes=have.routes | set(map(fabric.closing, opened))),
            come,
            gone,
            self._peers(old_keys | new_keys),
            problems,
        )

    def _claim(self, before: Mapping[str, Node | None]) -> set[str]:
        """Note what the changed nodes claim now; return all whose paths may differ for it."""
        concerned = set(before)
        for name, was in before.items():
            for node, change, sign in (
                (was, self._claims.remove, -1),
                (self.settling.nodes.get(name), self._claims.add, 1),
            ):
                if node is None:
                    continue
                mac = fabric.claimed_mac(node)
                change(name, node.pod_cidrs, mac)
                concerned |= self._claims.touched(node.pod_cidrs, mac)
                for cidr in fabric.shut(node, self.me, self._settings):
                    self._shut.count(cidr, sign)
        return concerned

    def _judge(self, names: Iterable[str]) -> dict[str, str]:
        """Note what is in the way to nodes now; return what differs."""
        found: dict[str, str] = {}
        for name in names:
            node = self.settling.nodes.get(name)
            why = fabric.obstacle(node, self.me, self._claims, self._settings) if node is not None else ""
            if why != self._problems.get(name, ""):
                found[name] = why
        for name, why in found.items():
            self._problems.pop(name, None)
            self._problems |= {name: why} if why else {}
        return found

    def _sum(self, nodes: Iterable[Node | None], *, is_there: bool) -> tuple[Paths, set[bytes]]:
        """Return the paths to those of some nodes that have any, and the keys they hold; count them in or out."""
        routes, neighbours, forwards, keys = set[Route](), set[Neighbour](), set[Forward](), set[bytes]()
        for node in nodes:
            if node is None or not self._is_reachable(node):
                continue
            is_sealed = fabric.is_sealed(self.me, node, self._settings)
            found = fabric.way(node, self.plan, self.me, self._where, is_sealed=is_sealed)
            routes |= found.routes
            neighbours |= found.neighbours
            forwards |= found.forwards
            keys |= self._hold(node, is_there=is_there) if is_sealed else set()
            for ip in fabric.ends(node, self.me, self.plan.mode):
                self._reached.count(ip, 1 if is_there else -1)
        return Paths(frozenset(routes), frozenset(neighbours), frozenset(forwards)), keys

    def _is_reachable(self, node: Node) -> bool:
        return fabric.is_reachable(node, self.me, self._problems, self._where.underlay, self._settings)

    def _hold(self, peer: Node, *, is_there: bool) -> set[bytes]:
        said = wireguard.announced(peer)
        keys = {key for key in (said.key, said.following) if key} if said else set()
        for key in keys:
            holders = self._holders.setdefault(key, set())
            (holders.add if is_there else holders.discard)(peer.name)
            if not holders:
                del self._holders[key]
        return keys

    def _peers(self, keys: Iterable[bytes]) -> dict[bytes, Peer | None]:
        family = fabric.underlay_family(self.me)
        found: dict[bytes, Peer | None] = {}
        for key in sorted(keys):
            holders = [self.settling.nodes[name] for name in sorted(self._holders.get(key, ()))]
            found[key] = wireguard.peers(holders, family).get(key)
        return found


class _Tally(Generic[K]):
    """How often something is wanted, and what that changed since it was asked last."""

    def __init__(self, items: Iterable[K]) -> None:
        self._counts = Counter(items)
        self._were: dict[K, bool] = {}

    def count(self, item: K, by: int) -> None:
        number = self._counts[item]
        self._were.setdefault(item, number > 0)
        self._counts[item] = number + by
        if not number + by:
            del self._counts[item]

    def change(self) -> tuple[frozenset[K], frozenset[K]]:
        """Return what is wanted that was not, and what was and is no more."""
        were, self._were = self._were, {}
        come = frozenset(item for item, was in were.items() if not was and item in self._counts)
        return come, frozenset(item for item, was in were.items() if was and item not in self._counts)


def place(me: Node) -> object:
    """Return what of this node's own Node matters to its paths."""
    return me.internal_ips, me.external_ips, me.pod_cidrs, me.zone, fabric.mac_of(me)
