"""Keep the choice of addresses that plan/underlay makes for all nodes up to date, at the cost of those that change."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from netplane.model import address
from netplane.model.node import Node
from netplane_cni.plan import underlay
from netplane_cni.plan.underlay import Local, Question


class Settling:
    """What `underlay.settle` returns, as long as this node's own choice stays the same."""

    def __init__(
        self, nodes: Mapping[str, Node], name: str, local: Local, answered: Collection[Question] = frozenset()
    ) -> None:
        self._name = name
        self._local = local
        self._listed = dict(nodes)
        self._claims: dict[address.Packed, set[str]] = {}
        for node in nodes.values():
            for ip in _all(node):
                self._claims.setdefault(ip, set()).add(node.name)
        self.nodes: dict[str, Node] = underlay.settle(nodes, name, local, answered)
        """All nodes, each with the addresses to use first."""
        self._me = me = self._unshared(self._listed[name])
        self._heard = underlay.heard_by(answered, me.internal_ips)
        self._sums = {ip: [0, 0, 0] for ip in me.internal_ips} if len(me.internal_ips) > 1 else {}
        for other, node in self.nodes.items():
            if self._sums and other != name:
                self._count(node, 1)
        settled = self.nodes[name]
        self._side = underlay.side(settled, local, answered)

    @property
    def has_choice(self) -> bool:
        """Whether this node has several addresses of one family on its links, after those that others share."""
        return underlay.has_choice(self._me, self._local)

    def change(self, changes: Mapping[str, Node | None]) -> dict[str, Node | None] | None:
        """Take in nodes as they are now, None for those gone; return the nodes concerned as they were before.

        None where this node's own addresses are concerned: then all are to be looked at.
        """
        concerned: set[str] = set()
        for name, now in changes.items():
            was = self._listed.get(name)
            if now is not was:
                concerned |= self._claim(name, _all(was) if was else set(), _all(now) if now else set())
                concerned.add(name)
            if now is not None:
                self._listed[name] = now
            else:
                self._listed.pop(name, None)
        before = {name: self.nodes.get(name) for name in sorted(concerned)}
        if self._name in before and not self._is_same_me():
            return None
        for name in before:
            self._settle(name)
        return before if self._is_same_choice() else None

    def listing(self, ips: Iterable[address.Packed]) -> set[str]:
        """Return the nodes that have one of these addresses."""
        return {name for ip in ips for name in self._claims.get(ip, ())}

    def _claim(self, name: str, was: set[address.Packed], now: set[address.Packed]) -> set[str]:
        """Note whose addresses are whose; return those for whom an address became shared, or is no more."""
        flipped: set[str] = set()
        for ip in was - now:
            claims = self._claims[ip]
            claims.remove(name)
            flipped |= claims if len(claims) == 1 else set()
            if not claims:
                del self._claims[ip]
        for ip in now - was:
            claims = self._claims.setdefault(ip, set())
            flipped |= claims if len(claims) == 1 else set()
            claims.add(name)
        return flipped

    def _settle(self, name: str) -> None:
        was, listed = self.nodes.get(name), self._listed.get(name)
        if name == self._name:
            if listed is not None and was is not None:
                self.nodes[name] = underlay.ordered(listed, self.nodes[name].internal_ips, self._me.external_ips)
            return
        if was is not None and self._sums:
            self._count(was, -1)
        if listed is None:
            self.nodes.pop(name, None)
            return
        now = self._unshared(listed)
        now = underlay.near_first(now, *self._side) if len(now.internal_ips) > 1 else now
        self.nodes[name] = now
        if self._sums:
            self._count(now, 1)

    def _unshared(self, node: Node) -> Node:
        shared = {ip for ip in _all(node) if len(self._claims[ip]) > 1}
        return underlay.unshared(node, shared) if shared else node

    def _is_same_me(self) -> bool:
        listed = self._listed.get(self._name)
        if listed is None:
            return False
        me = self._unshared(listed)
        is_same = (me.internal_ips, me.external_ips) == (self._me.internal_ips, self._me.external_ips)
        self._me = me
        return is_same

    def _count(self, peer: Node, sign: int) -> None:
        for ip, sums in self._sums.items():
            for number, part in enumerate(underlay.worth(ip, peer, self._local, self._heard.get(ip, ()))):
                sums[number] += sign * part

    def _is_same_choice(self) -> bool:
        if not self._sums:
            return True
        order = sorted(self._me.internal_ips, key=lambda ip: self._sums[ip], reverse=True)
        return tuple(order) == self.nodes[self._name].internal_ips


def _all(node: Node) -> set[address.Packed]:
    return {*node.internal_ips, *node.external_ips}
