"""Say which links, addresses and routes give a pod its network, and how to take them away. Doing it is run/attach.

A pod gets a routed address and shares its cable with nobody:

    pod: eth0 10.244.1.7/32, default via 169.254.1.1  ═══ veth ═══  np4f1e2d3c4b5: 10.244.1.7/32 → here  :node

The gateway 169.254.1.1 (fe80::1) is the same on every node and needs no address of the pod network. Both ends know
each other's MAC address by a permanent neighbour entry: no ARP, nothing to learn, nothing to poison.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TypeAlias

from netplane.kernel.link.objects import (
    SCOPE_LINK,
    Address,
    Command,
    LinkChange,
    LinkGroup,
    LinkName,
    Neighbour,
    Route,
    TokenBucket,
    Veth,
    add,
    change,
    remove,
    replace,
)
from netplane.model import address
from netplane_cni import spec
from netplane_cni.plan.ipam import Lease

GATEWAYS = {address.Family.V4: address.parse("169.254.1.1"), address.Family.V6: address.parse("fe80::1")}
HOST_MAC = bytes.fromhex("026e70000001")
"""The node's end of every pod's cable: each is a network of two, so one address serves all."""

POD_PROTOCOL = 111
"""The maker of our routes to pods in the kernel's tables (rtm_protocol); no registered routing daemon has it."""

LINK_PREFIX = b"np"
"""With it the names of pods' cables begin; those of the node's own devices go on with a dot, which no cable's does."""

GROUP = 0x6E70
LEAVING_GROUP = 0x6E71
"""Link groups of pods' cables, and of those that wait for their removal: the kernel removes a whole group at once."""

UNLIMITED = (1 << 31) - 1
SMALLEST_BURST, SMALLEST_QUEUE = 16 << 10, 64 << 10

ALIAS = "netplane:"
LOOPBACK_INDEX = 1

HOST_PARAMETERS = (
    ("forwarding", 1),  # packets from the pod may go on
    ("rp_filter", 1),  # and only those with the pod's own address as source: it cannot pose as another
    ("proxy_arp", 1),  # for programs that ask who has the gateway although the answer is in the table
    ("accept_redirects", 0),  # the pod may not bend the node's routes
    ("send_redirects", 0),  # and is never told of a shorter way: there is one way out
)


Gateway: TypeAlias = tuple[address.Packed, int]
"""A bridge's address, and the length of its network's prefix."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """What one attachment shall look like. With `gateways` it is on the node's bridge, which has these addresses."""

    lease: Lease
    mtu: int
    has_default_route: bool = True
    gateways: tuple[Gateway, ...] = ()


def link_name(container: str, ifname: str) -> str:
    """Return the name of the node's end of the cable: the same for every call about the attachment."""
    return LINK_PREFIX.decode() + hashlib.sha256(f"{container}\0{ifname}".encode()).hexdigest()[:11]


def pod_mac(container: str, ifname: str) -> bytes:
    """Return the pod's MAC address: its own, stable over retries, locally administered."""
    return b"\x02" + hashlib.sha256(f"mac\0{container}\0{ifname}".encode()).digest()[:5]


def alias(container: str, ifname: str) -> str:
    """Return what the cable carries as alias, so that it tells whose it is even when all files are lost."""
    return f"{ALIAS}{container}/{ifname}"[:255]


def owner(alias_text: str) -> tuple[str, str] | None:
    """Return the container id and interface name that an alias tells; None when it is not ours."""
    container, slash, ifname = alias_text.removeprefix(ALIAS).rpartition("/")
    return (container, ifname) if alias_text.startswith(ALIAS) and slash and container else None


def create(wiring: Wiring, namespace: int) -> tuple[Command, ...]:
    """Return what lays the cable; `namespace` is the pod's, as an open file."""
    lease = wiring.lease
    # Ports of a bridge need addresses of their own, or one that leaves would take the bridge's along.
    mac = pod_mac("node", lease.link) if wiring.gateways else HOST_MAC
    veth = Veth(lease.link, lease.ifname, namespace, mac, lease.mac, mtu=wiring.mtu, group=GROUP)
    return (add(veth),)


def on_node(wiring: Wiring, index: int) -> tuple[Command, ...]:
    """Return what the node's end needs; `index` is its own."""
    lease = wiring.lease
    name = alias(lease.container, lease.ifname)
    commands = [
        change(LinkChange(index=index, alias=name, inet=HOST_PARAMETERS, addr_gen_none=True)),
        change(LinkChange(index=index, is_up=True)),
    ]
    for ip in lease.addresses:
        if address.family(ip) is address.Family.V6:
            # NDP has no proxy for all: the gateway's address is really there, for what forgot the table.
            commands.append(add(Address(index, GATEWAYS[address.Family.V6], 64, scope=SCOPE_LINK)))
        commands.append(replace(Neighbour(index, ip, lease.mac)))
        # Replace: a leftover route to this address leads to a pod that is gone, for the lease is ours.
        commands.append(replace(Route(ip, len(ip) * 8, index, protocol=POD_PROTOCOL)))
    return (*commands, *limited(index, lease.bandwidth.ingress_rate, lease.bandwidth.ingress_burst))


def in_pod(wiring: Wiring, index: int) -> tuple[Command, ...]:
    """Return what the pod's end needs; `index` is its own, in the pod's namespace."""
    commands = [
        change(LinkChange(index=LOOPBACK_INDEX, is_up=True)),
        change(LinkChange(index=index, is_up=True)),
    ]
    for ip in wiring.lease.addresses:
        gateway = GATEWAYS[address.family(ip)]
        commands.append(add(Address(index, ip, len(ip) * 8, is_quiet=True)))
        commands.append(replace(Neighbour(index, gateway, HOST_MAC)))
        if not wiring.has_default_route:
            continue
        if address.family(ip) is address.Family.V4:
            commands.append(add(Route(gateway, 32, index)))
        commands.append(add(Route(bytes(len(ip)), 0, index, gateway)))
    given = wiring.lease.bandwidth
    return (*commands, *limited(index, given.egress_rate, given.egress_burst))


def bucket(index: int, rate: int, burst: int) -> TokenBucket:
    """Return the limit of a link to `rate` bits per second, with bursts of so many bits.

    Who names no burst, or one without limit as containerd does, gets 10 ms of the rate, for a burst is unlimited.
    """
    per_second = rate // 8
    size = burst // 8 if 0 < burst < UNLIMITED else per_second // 100
    size = min(max(size, SMALLEST_BURST), 1 << 30)
    # What waits for longer than 50 ms is dropped: the sender shall slow down.
    return TokenBucket(index, per_second, size, min(max(per_second // 20, SMALLEST_QUEUE) + size, 0xFFFFFFFF))


def limited(index: int, rate: int, burst: int) -> tuple[Command, ...]:
    """Return what limits a link to a rate; nothing without one."""
    return (replace(bucket(index, rate, burst)),) if rate else ()


def undo(link: str) -> tuple[Command, ...]:
    """Return what removes the cable at once; addresses, routes and neighbours go with it."""
    return (remove(LinkName(link)),)


def leave(lease: Lease, index: int) -> tuple[Command, ...]:
    """Return what cuts the pod off now and marks its cable for `sweep`: removing it waits for the kernel, 16 ms."""
    routes = [remove(Route(ip, len(ip) * 8, index, protocol=POD_PROTOCOL)) for ip in lease.addresses]
    return (*routes, change(LinkChange(index=index, is_up=False, group=LEAVING_GROUP)))


def sweep() -> tuple[Command, ...]:
    """Return what removes every cable that was marked by `leave`."""
    return (remove(LinkGroup(LEAVING_GROUP)),)


def result(wiring: Wiring, netns: str, dns: dict[str, object]) -> spec.Result:
    """Return what ADD answers."""
    lease = wiring.lease
    interfaces = (
        spec.Interface(lease.link, HOST_MAC.hex(":"), mtu=wiring.mtu),
        spec.Interface(lease.ifname, lease.mac.hex(":"), netns, wiring.mtu),
    )
    ips, routes = [], []
    for ip in lease.addresses:
        gateway = GATEWAYS[address.family(ip)]
        ips.append(spec.IpConfig(ip, len(ip) * 8, gateway, interface=1))
        if wiring.has_default_route:
            routes.append((address.Prefix(bytes(len(ip)), 0), gateway))
    return spec.Result(interfaces, tuple(ips), tuple(routes), dns)
