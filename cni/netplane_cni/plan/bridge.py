"""Say how pods' cables are laid when the node has a bridge for them, in place of a route into each. Doing it is run's.

    pod: eth0 10.244.1.7/24, default via 10.244.1.1  ═══ veth ═══  port of np.bridge, 10.244.1.1; 10.244.1.7/32 → it

Pods share an Ethernet: broadcast and multicast reach their neighbours. What is sent to one address still goes by way of
the node, so that Services and host ports are translated both ways, on one node as between nodes, without the kernel's
bridge filter. The bridge learns nothing: each port's address is written down when the pod comes, and what is sent to
an unknown one is dropped. Multicast goes to those that have asked for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from netplane.kernel.link.objects import (
    Address,
    Bridge,
    Command,
    LinkChange,
    Neighbour,
    PortEntry,
    Route,
    add,
    change,
    remove,
    replace,
)
from netplane.model import address
from netplane_cni import spec
from netplane_cni.plan import attach
from netplane_cni.plan.attach import HOST_MAC, POD_PROTOCOL, Wiring
from netplane_cni.plan.ipam import Lease, Pool

BRIDGE = "np.bridge"
Gateway: TypeAlias = attach.Gateway

PARAMETERS = (
    ("forwarding", 1),  # packets from pods may go on
    ("rp_filter", 1),  # with a source that is a pod's of this node
    ("accept_redirects", 0),  # pods may not bend the node's routes
    ("send_redirects", 0),  # that a neighbour is near is no reason to go past the node
)
POD_PARAMETERS = (
    ("net/ipv4/conf/all/accept_redirects", 0),  # the kernel would send one in spite of the above, were it on for all
    ("net/ipv4/conf/{}/accept_redirects", 0),
    ("net/ipv6/conf/{}/accept_redirects", 0),  # and for IPv6 always
)
"""What the pod's own namespace is set to: an answer that went past the node would miss its translation."""


def gateways(pools: Iterable[Pool]) -> tuple[Gateway, ...]:
    """Return the bridge's addresses: the second of each network, which no pod gets."""
    return tuple(
        ((int.from_bytes(pool.prefix.network, "big") + 1).to_bytes(len(pool.prefix.network), "big"), pool.prefix.length)
        for pool in pools
    )


def create() -> tuple[Command, ...]:
    """Return what makes the bridge."""
    return (add(Bridge(BRIDGE, HOST_MAC, asks_for_groups=True)),)


def prepare(wiring: Wiring, bridge: int) -> tuple[Command, ...]:
    """Return what the bridge needs; all of it may be there already."""
    # Without routes of their own: those to pods are exact, and the rest of the network stays refused.
    held = [replace(Address(bridge, ip, length, is_quiet=True)) for ip, length in wiring.gateways]
    return (change(LinkChange(index=bridge, is_up=True, inet=PARAMETERS, addr_gen_none=True)), *held)


def on_node(wiring: Wiring, index: int, bridge: int) -> tuple[Command, ...]:
    """Return what the node's end, `index`, needs as a port of the bridge."""
    lease = wiring.lease
    name = attach.alias(lease.container, lease.ifname)
    port = (("hairpin", True), ("learning", False), ("flood", False))
    commands = [
        change(LinkChange(index=index, alias=name, master=bridge, addr_gen_none=True)),
        change(LinkChange(index=index, port=port)),
        replace(PortEntry(index, lease.mac)),
        change(LinkChange(index=index, is_up=True)),
    ]
    for ip in lease.addresses:
        commands.append(replace(Neighbour(bridge, ip, lease.mac)))
        commands.append(replace(Route(ip, len(ip) * 8, bridge, protocol=POD_PROTOCOL)))
    return (*commands, *attach.limited(index, lease.bandwidth.ingress_rate, lease.bandwidth.ingress_burst))


def in_pod(wiring: Wiring, index: int) -> tuple[Command, ...]:
    """Return what the pod's end needs; `index` is its own, in the pod's namespace."""
    commands = [
        change(LinkChange(index=attach.LOOPBACK_INDEX, is_up=True)),
        change(LinkChange(index=index, is_up=True)),
    ]
    for ip in wiring.lease.addresses:
        gateway, length = gateway_of(ip, wiring)
        commands.append(add(Address(index, ip, length, is_quiet=True)))
        commands.append(replace(Neighbour(index, gateway, HOST_MAC)))
        if wiring.has_default_route:
            commands.append(add(Route(gateway, len(gateway) * 8, index)))
            commands.append(add(Route(bytes(len(ip)), 0, index, gateway)))
    given = wiring.lease.bandwidth
    return (*commands, *attach.limited(index, given.egress_rate, given.egress_burst))


def forget(lease: Lease, bridge: int) -> tuple[Command, ...]:
    """Return what takes a pod's addresses away from the bridge: they do not end with its cable."""
    return tuple(
        command
        for ip in lease.addresses
        for command in (
            remove(Route(ip, len(ip) * 8, bridge, protocol=POD_PROTOCOL)),
            remove(Neighbour(bridge, ip, b"")),
        )
    )


def gateway_of(ip: address.Packed, wiring: Wiring) -> Gateway:
    """Return the bridge's address of the family, and the length of its network."""
    return next((ip_, length) for ip_, length in wiring.gateways if len(ip_) == len(ip))


def result(wiring: Wiring, netns: str, dns: dict[str, object]) -> spec.Result:
    """Return what ADD answers."""
    lease = wiring.lease
    interfaces = (
        spec.Interface(BRIDGE, HOST_MAC.hex(":"), mtu=wiring.mtu),
        spec.Interface(lease.link, attach.pod_mac("node", lease.link).hex(":"), mtu=wiring.mtu),
        spec.Interface(lease.ifname, lease.mac.hex(":"), netns, wiring.mtu),
    )
    ways = [gateway_of(ip, wiring) for ip in lease.addresses]
    ips = [spec.IpConfig(ip, n, via, interface=2) for ip, (via, n) in zip(lease.addresses, ways, strict=True)]
    routes = [(address.Prefix(bytes(len(via)), 0), via) for via, _ in ways if wiring.has_default_route]
    return spec.Result(interfaces, tuple(ips), tuple(routes), dns)
