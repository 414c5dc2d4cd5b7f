"""Gather what matters of this node from its Node object, the configuration, and the addresses it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from netplane.model import address
from netplane.model.address import Family, Packed, Prefix
from netplane.model.node import Node
from netplane_proxy.plan.forwarding import NodeFacts

LocalMode = Literal["ClusterCIDR", "NodeCIDR"]

_NEVER = tuple(map(address.prefix, ("127.0.0.0/8", "169.254.0.0/16", "::1/128", "fe80::/10")))
"""No NodePort there: loopback would need route_localnet, and link-local addresses are no node addresses."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user configured. `nodeport_prefixes` is None for "primary": the Node's own addresses alone."""

    node_name: str
    nodeport_prefixes: tuple[Prefix, ...] | None = None
    cluster_cidrs: tuple[Prefix, ...] = ()
    service_cidrs: tuple[Prefix, ...] = ()
    local_mode: LocalMode = "ClusterCIDR"
    masquerade_bit: int = 14
    masquerade_all: bool = False


def facts(settings: Settings, node: Node | None, addresses: tuple[Packed, ...]) -> NodeFacts:
    """Return the facts; without a Node object (yet) those that do not need one."""
    node_ips = tuple(ip for family in Family if node is not None and (ip := node.ip(family)) is not None)
    if settings.nodeport_prefixes is None:
        nodeport_addresses = node_ips
    else:
        nodeport_addresses = tuple(ip for ip in addresses if address.any_contains(settings.nodeport_prefixes, ip))
    pod_cidrs = settings.cluster_cidrs
    if settings.local_mode == "NodeCIDR":
        pod_cidrs = node.pod_cidrs if node is not None else ()
    return NodeFacts(
        name=settings.node_name,
        zone=node.zone if node is not None else "",
        node_ips=tuple(sorted(node_ips)),
        nodeport_addresses=tuple(sorted(ip for ip in nodeport_addresses if not address.any_contains(_NEVER, ip))),
        pod_cidrs=tuple(sorted(pod_cidrs)),
        service_cidrs=tuple(sorted(settings.service_cidrs)),
        masquerade_bit=settings.masquerade_bit,
        masquerade_all=settings.masquerade_all,
    )
