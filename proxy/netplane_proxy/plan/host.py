"""Gather what matters of this node from its Node object, the configuration, and the addresses it has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

from netplane.model import address
from netplane.model.address import Family, Packed, Prefix
from netplane.model.node import Node
from netplane_proxy.plan.forwarding import NodeFacts

LocalMode = Literal["ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"]
LOCAL_MODES: tuple[LocalMode, ...] = get_args(LocalMode)
"""By what a pod's packet is known: its source, or the interface by which it comes in."""

_NEVER = tuple(map(address.prefix, ("127.0.0.0/8", "169.254.0.0/16", "::1/128", "fe80::/10")))
"""Addresses that are no node addresses. Of the loopback ones, those in `LOOPBACK` are taken by name."""

_NAME_MOST = 15
"""How long an interface's name may be (IFNAMSIZ without its end)."""

LOOPBACK = {Family.V4: address.parse("127.0.0.1"), Family.V6: address.parse("::1")}


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user configured. `nodeport_prefixes` is None for "primary": the Node's own addresses.

    `has_localhost_nodeports` lets the node reach NodePorts at 127.0.0.1 and ::1 as well, as kube-proxy's
    localhostNodePorts does: where the prefixes, if there are any, contain them. `pod_interface` is the name of the
    bridge, or what the names begin with, in the modes that look at interfaces.
    """

    node_name: str
    nodeport_prefixes: tuple[Prefix, ...] | None = None
    cluster_cidrs: tuple[Prefix, ...] = ()
    service_cidrs: tuple[Prefix, ...] = ()
    local_mode: LocalMode = "ClusterCIDR"
    masquerade_bit: int = 14
    masquerade_all: bool = False
    has_localhost_nodeports: bool = False
    pod_interface: str = ""


def facts(settings: Settings, node: Node | None, addresses: tuple[Packed, ...]) -> NodeFacts:
    """Return the facts; without a Node object (yet) those that do not need one."""
    node_ips = tuple(ip for family in Family if node is not None and (ip := node.ip(family)) is not None)
    if settings.nodeport_prefixes is None:
        nodeport_addresses = node_ips
    else:
        nodeport_addresses = tuple(ip for ip in addresses if address.any_contains(settings.nodeport_prefixes, ip))
    pod_cidrs, pod_interfaces = settings.cluster_cidrs, ""
    if settings.local_mode == "NodeCIDR":
        pod_cidrs = node.pod_cidrs if node is not None else ()
    elif settings.local_mode != "ClusterCIDR":
        pod_cidrs = ()
        # A prefix as long as a name may be is the whole name, and with more behind it none that tools take.
        is_prefix = settings.local_mode == "InterfaceNamePrefix" and len(settings.pod_interface) < _NAME_MOST
        pod_interfaces = f"{settings.pod_interface}{'*' * is_prefix}"
    return NodeFacts(
        name=settings.node_name,
        zone=node.zone if node is not None else "",
        node_ips=tuple(sorted(node_ips)),
        nodeport_addresses=tuple(sorted({*_global(nodeport_addresses), *_loopback(settings, node_ips)})),
        pod_cidrs=tuple(sorted(pod_cidrs)),
        service_cidrs=tuple(sorted(settings.service_cidrs)),
        masquerade_bit=settings.masquerade_bit,
        masquerade_all=settings.masquerade_all,
        pod_interfaces=pod_interfaces,
    )


def follow(former: Node | None, now: Node | None) -> Node | None:
    """Return the Node to go by, given what was gone by so far and what the API has now.

    One that is deleted stays as it was known, and what one that was made anew does not say yet (a cloud gives it its
    addresses later) is taken from before: the machine is still there, and so are connections to its NodePorts.
    kube-proxy passes over such Nodes, too.
    """
    if former is None or now is None:
        return now or former
    if not (now.internal_ips or now.external_ips):
        now = replace(now, internal_ips=former.internal_ips, external_ips=former.external_ips)
    return now if now.pod_cidrs else replace(now, pod_cidrs=former.pod_cidrs)


def _global(addresses: tuple[Packed, ...]) -> Iterator[Packed]:
    return (ip for ip in addresses if not address.any_contains(_NEVER, ip))


def _loopback(settings: Settings, node_ips: tuple[Packed, ...]) -> Iterator[Packed]:
    """Yield the loopback addresses that NodePorts stand on: of the families in which the node can speak."""
    if not settings.has_localhost_nodeports:
        return
    for family in {address.family(ip) for ip in node_ips}:
        here = LOOPBACK[family]
        if settings.nodeport_prefixes is None or address.any_contains(settings.nodeport_prefixes, here):
            yield here
