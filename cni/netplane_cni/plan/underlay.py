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
    near, heard = side(me, local, answered)
    for other, node in found.items():
        if other != name and len(node.internal_ips) > 1:
            found[other] = near_first(node, near, heard)
    return found


def side(me: Node, local: Local, answered: Collection[Question]) -> tuple[list[address.Prefix], set[address.Packed]]:
    """Return on which networks this node is by the addresses that it uses, and who answers it there."""
    ours = [ip for family in address.Family if (ip := me.ip(family)) is not None]
    return [local[ip] for ip in ours if ip in local], {to for by, to in answered if by in ours}


def has_choice(me: Node, local: Local) -> bool:
    """Tell whether a node has several addresses of one family on its links."""
    ours = [len(ip) for ip in me.internal_ips if ip in local]
    return len(ours) > len(set(ours))


def questions(nodes: Mapping[str, Node], name: str, local: Local) -> tuple[Question, ...]:
    """Return what to ask before the choice; nothing where this node has none. Of many nodes some speak for all."""
    me = nodes.get(name)
    if me is None or len(me.internal_ips) < 2:
        return ()
    found = _distinct(nodes)
    ours = [ip for ip in found[name].internal_ips if ip in local]
    ours = [ip for ip in ours if sum(len(ip) == len(other) for other in ours) > 1]
    if not ours:
        return ()
    others = [found[other] for other in sorted(found) if other != name]
    some = others[:: max(1, len(others) // SAMPLE)][:SAMPLE]
    return tuple((by, to) for by in ours for node in some for to in node.internal_ips if len(by) == len(to))


def _distinct(nodes: Mapping[str, Node]) -> dict[str, Node]:
    claims = Counter(ip for node in nodes.values() for ip in {*node.internal_ips, *node.external_ips})
    shared = {ip for ip, count in claims.items() if count > 1}
    return {other: unshared(node, shared) for other, node in nodes.items()} if shared else dict(nodes)


def unshared(node: Node, shared: Collection[address.Packed]) -> Node:
    """Return a node without the addresses that others claim, too, unless it has no other of that family."""
    own = {address.family(ip) for ip in (*node.internal_ips, *node.external_ips) if ip not in shared}
    internal = tuple(ip for ip in node.internal_ips if ip not in shared or address.family(ip) not in own)
    external = tuple(ip for ip in node.external_ips if ip not in shared or address.family(ip) not in own)
    return ordered(node, internal, external)


def _by_peers(me: Node, peers: Collection[Node], local: Local, answered: Collection[Question]) -> Node:
    if len(me.internal_ips) < 2:
        return me
    heard = heard_by(answered, me.internal_ips)
    sums = {}
    for ip in me.internal_ips:
        rows = [worth(ip, peer, local, heard.get(ip, ())) for peer in peers]
        sums[ip] = [sum(row[part] for row in rows) for part in range(3)]
    order = sorted(me.internal_ips, key=lambda ip: sums[ip], reverse=True)
    return ordered(me, tuple(order), me.external_ips)


def heard_by(
    answered: Collection[Question], ours: Collection[address.Packed]
) -> dict[address.Packed, frozenset[address.Packed]]:
    """Return who answers by which of these addresses."""
    return {ip: frozenset(to for by, to in answered if by == ip) for ip in ours} if answered else {}


def worth(ip: address.Packed, peer: Node, local: Local, heard: Collection[address.Packed]) -> tuple[bool, bool, int]:
    """Return what a peer says for an address of this node, what counts most first.

    Whether it answers, whether it does on the network itself (no NAT feigns that), and how often it is there on paper.
    """
    network = local.get(ip)
    if network is None:
        return False, False, 0
    nearby = [to for to in peer.internal_ips if to in network]
    return any(to in heard for to in peer.internal_ips), any(to in heard for to in nearby), len(nearby)


def near_first(node: Node, near: Collection[address.Prefix], heard: Collection[address.Packed]) -> Node:
    """Return another node with the addresses first that answer, and then those on networks of this one."""

    def distance(ip: address.Packed) -> tuple[bool, bool]:
        return ip not in heard, not any(ip in network for network in near)

    return ordered(node, tuple(sorted(node.internal_ips, key=distance)), node.external_ips)


def ordered(node: Node, internal: tuple[address.Packed, ...], external: tuple[address.Packed, ...]) -> Node:
    """Return a node with these addresses in place of its own; itself where they are the same."""
    if (internal, external) == (node.internal_ips, node.external_ips):
        return node
    return replace(node, internal_ips=internal, external_ips=external)
