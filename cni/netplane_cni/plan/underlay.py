"""Choose by which addresses nodes reach each other, where they have several. What leads there is plan/fabric.

A node in a virtual machine often has two networks: one to the outside, on which every machine has the same address
behind its own NAT (10.0.2.15 under Vagrant), and one on which the machines meet. Only the second will do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace

from netplane.model import address
from netplane.model.node import Node


def settle(nodes: Mapping[str, Node], name: str, local: Mapping[address.Packed, address.Prefix]) -> dict[str, Node]:
    """Return the nodes with the address to use first in each family; what needs no choice is returned as it is.

    `local` are the addresses of this machine's links, with the network that is directly behind each. Left out are
    addresses that several nodes claim, unless a node has no other of that family. Of this node's own, the one on whose
    network most others are is first; of another's, one that shares this network.
    """
    claims = Counter(ip for node in nodes.values() for ip in {*node.internal_ips, *node.external_ips})
    shared = {ip for ip, count in claims.items() if count > 1}
    found = {other: _unshared(node, shared) for other, node in nodes.items()} if shared else dict(nodes)
    me = found.get(name)
    if me is None:
        return found
    found[name] = me = _by_peers(me, [node for other, node in found.items() if other != name], local)
    near = [local[ip] for family in address.Family if (ip := me.ip(family)) in local and ip is not None]
    for other, node in found.items():
        if other != name and len(node.internal_ips) > 1:
            found[other] = _near_first(node, near)
    return found


def _unshared(node: Node, shared: Collection[address.Packed]) -> Node:
    own = {address.family(ip) for ip in (*node.internal_ips, *node.external_ips) if ip not in shared}
    internal = tuple(ip for ip in node.internal_ips if ip not in shared or address.family(ip) not in own)
    external = tuple(ip for ip in node.external_ips if ip not in shared or address.family(ip) not in own)
    if (internal, external) == (node.internal_ips, node.external_ips):
        return node
    return replace(node, internal_ips=internal, external_ips=external)


def _by_peers(me: Node, peers: Collection[Node], local: Mapping[address.Packed, address.Prefix]) -> Node:
    if len(me.internal_ips) < 2:
        return me
    theirs = [ip for peer in peers for ip in peer.internal_ips]
    reached = {ip: sum(other in local[ip] for other in theirs) if ip in local else 0 for ip in me.internal_ips}
    return _ordered(me, tuple(sorted(me.internal_ips, key=lambda ip: -reached[ip])))


def _near_first(node: Node, near: Collection[address.Prefix]) -> Node:
    return _ordered(node, tuple(sorted(node.internal_ips, key=lambda ip: not any(ip in network for network in near))))


def _ordered(node: Node, ips: tuple[address.Packed, ...]) -> Node:
    return node if ips == node.internal_ips else replace(node, internal_ips=ips)
