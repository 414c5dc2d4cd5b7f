"""Choose by which addresses nodes reach each other, where they have several. What leads there is plan/fabric.

A node in a virtual machine often has two networks: one to the outside, on which every machine has the same address
behind its own NAT (10.0.2.15 under Vagrant), and one on which the machines meet. Only the second will do. Or one of
two networks does not lead to the others: then what answers (run/reach asks) counts for more than what is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace

from netplane.model import address
from netplane.model.node import Node

Local = Mapping[address.Packed, address.Prefix]
"""The addresses of this machine's links, with the network that is directly behind each."""

Question = tuple[address.Packed, address.Packed]
"""Of our addresses, by which we ask, and of another node's, which shall answer."""

SAMPLE = 32
"""Other nodes that are asked: which of a few networks leads to the nodes of a cluster does not take all of them."""


def settle(
    nodes: Mapping[str, Node], name: str, local: Local, answered: Collection[Question] = frozenset()
) -> dict[str, Node]:
    """Return the nodes with the address to use first in each family; what needs no choice is returned as it is.

    Left out are addresses that several nodes claim, unless a node has no other of that family. Of this node's own, the
    one by which most others answer is first; where that is no difference, the one on whose network most are. Of
    another's, one that answers it, or shares its network.
    """
    found = _distinct(nodes)
    me = found.get(name)
    if me is None:
        return found
    found[name] = me = _by_peers(me, [node for other, node in found.items() if other != name], local, answered)
    ours = [ip for family in address.Family if (ip := me.ip(family)) is not None]
    near = [local[ip] for ip in ours if ip in local]
    heard = {to for by, to in answered if by in ours}
    for other, node in found.items():
        if other != name and len(node.internal_ips) > 1:
            found[other] = _near_first(node, near, heard)
    return found


def questions(nodes: Mapping[str, Node], name: str, local: Local) -> tuple[Question, ...]:
    """Return what to ask before the choice; nothing where this node has none. Of many nodes some speak for all."""
    me = nodes.get(name)
    if me is None or len(me.internal_ips) < 2:
        return ()
    found = _distinct(nodes)
    ours = [ip for ip in found[name].internal_ips if ip in local]
    ours = [ip for ip in ours if sum(len(ip) == len(other) for other in ours) > 1]
    others = [found[other] for other in sorted(found) if other != name]
    some = others[:: max(1, len(others) // SAMPLE)][:SAMPLE]
    return tuple((by, to) for by in ours for node in some for to in node.internal_ips if len(by) == len(to))


def _distinct(nodes: Mapping[str, Node]) -> dict[str, Node]:
    claims = Counter(ip for node in nodes.values() for ip in {*node.internal_ips, *node.external_ips})
    shared = {ip for ip, count in claims.items() if count > 1}
    return {other: _unshared(node, shared) for other, node in nodes.items()} if shared else dict(nodes)


def _unshared(node: Node, shared: Collection[address.Packed]) -> Node:
    own = {address.family(ip) for ip in (*node.internal_ips, *node.external_ips) if ip not in shared}
    internal = tuple(ip for ip in node.internal_ips if ip not in shared or address.family(ip) not in own)
    external = tuple(ip for ip in node.external_ips if ip not in shared or address.family(ip) not in own)
    if (internal, external) == (node.internal_ips, node.external_ips):
        return node
    return replace(node, internal_ips=internal, external_ips=external)


def _by_peers(me: Node, peers: Collection[Node], local: Local, answered: Collection[Question]) -> Node:
    if len(me.internal_ips) < 2:
        return me

    def worth(ip: address.Packed) -> tuple[int, int, int]:
        """How many answer, how many of these on the network itself (no NAT feigns that), how many it has on paper."""
        heard = {to for by, to in answered if by == ip}
        network = local.get(ip)
        if network is None:
            return 0, 0, 0
        nearby = [[to for to in peer.internal_ips if to in network] for peer in peers]
        return (
            sum(not heard.isdisjoint(peer.internal_ips) for peer in peers) if heard else 0,
            sum(not heard.isdisjoint(some) for some in nearby) if heard else 0,
            sum(map(len, nearby)),
        )

    reached = {ip: worth(ip) for ip in me.internal_ips}
    return _ordered(me, tuple(sorted(me.internal_ips, key=lambda ip: reached[ip], reverse=True)))


def _near_first(node: Node, near: Collection[address.Prefix], heard: Collection[address.Packed]) -> Node:
    def distance(ip: address.Packed) -> tuple[bool, bool]:
        return ip not in heard, not any(ip in network for network in near)

    return _ordered(node, tuple(sorted(node.internal_ips, key=distance)))


def _ordered(node: Node, ips: tuple[address.Packed, ...]) -> Node:
    return node if ips == node.internal_ips else replace(node, internal_ips=ips)
