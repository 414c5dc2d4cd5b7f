"""Turn a command into an rtnetlink message. Sending it is run's."""

from __future__ import annotations

import sys

from netplane.kernel.link import wire
from netplane.kernel.link.objects import (
    MAIN_TABLE,
    SCOPE_LINK,
    SCOPE_UNIVERSE,
    Address,
    Bridge,
    Command,
    Dummy,
    Forward,
    LinkChange,
    LinkGroup,
    LinkName,
    Neighbour,
    Place,
    PortEntry,
    Program,
    Route,
    Thing,
    TokenBucket,
    Verb,
    Veth,
    Vxlan,
    WireGuard,
)
from netplane.kernel.link.wire import u32
from netplane.kernel.netlink.wire import Message, attribute, text

FLAGS: dict[Verb, int] = {
    "add": wire.CREATE | wire.EXCL,
    "replace": wire.CREATE | wire.REPLACE,
    "remove": 0,
    "change": 0,
}


# Unasked, the kernel makes a queue per processor that could ever be, with files in sysfs for each, and then uses one
# (veth_init_queues): a third of the time that a cable takes on 2 processors, and more on more.
_ONE_QUEUE = u32(wire.IFLA_NUM_TX_QUEUES, 1) + u32(wire.IFLA_NUM_RX_QUEUES, 1)


def command(order: Command) -> Message:
    """Return the message that asks the kernel for it."""
    new, gone, payload = _parts(order.verb, order.thing)
    return Message(gone if order.verb == "remove" else new, FLAGS[order.verb], payload)


def _parts(verb: Verb, thing: Thing) -> tuple[int, int, bytes]:
    match thing:
        case Address():
            return wire.NEWADDR, wire.DELADDR, _address(thing)
        case Route():
            return wire.NEWROUTE, wire.DELROUTE, _route(thing)
        case Neighbour():
            return wire.NEWNEIGH, wire.DELNEIGH, _neighbour(thing)
        case Forward():
            return wire.NEWNEIGH, wire.DELNEIGH, _forward(thing)
        case PortEntry():
            return wire.NEWNEIGH, wire.DELNEIGH, _port_entry(thing)
        case TokenBucket():
            return wire.NEWQDISC, wire.DELQDISC, _bucket(verb, thing)
        case Place():
            head = wire.TCMSG.pack(0, thing.index, wire.TC_CLSACT_HANDLE, wire.TC_CLSACT, 0)
            return wire.NEWQDISC, wire.DELQDISC, head + text(wire.TCA_KIND, "clsact")
        case Program():
            return wire.NEWFILTER, wire.DELFILTER, _program(verb, thing)
        case LinkChange():
            return wire.NEWLINK, wire.DELLINK, _change(thing)
        case LinkGroup():
            return wire.NEWLINK, wire.DELLINK, wire.IFINFO.pack(0, 0, 0, 0, 0) + u32(wire.IFLA_GROUP, thing.group)
        case LinkName() | Veth() | Bridge() | Vxlan() | Dummy() | WireGuard():
            name = wire.IFINFO.pack(0, 0, 0, 0, 0) + text(wire.IFLA_IFNAME, thing.name)
            made = b"" if verb == "remove" or isinstance(thing, LinkName) else _new_link(thing)
            return wire.NEWLINK, wire.DELLINK, name + made


def _new_link(thing: Veth | Bridge | Vxlan | Dummy | WireGuard) -> bytes:
    match thing:
        case Veth():
            kind, data = "veth", _veth_peer(thing)
        case Bridge():
            kind, data = "bridge", _switch(thing)
        case Dummy():
            kind, data = "dummy", b""
        case WireGuard():
            kind, data = "wireguard", b""
        case Vxlan():
            kind, data = "vxlan", _vxlan(thing)
    info = text(wire.INFO_KIND, kind) + (attribute(wire.INFO_DATA, data) if data else b"")
    mac = b"" if isinstance(thing, WireGuard) else thing.mac
    own = _hardware(mac, thing.mtu)
    if isinstance(thing, Veth):
        own += _ONE_QUEUE + (u32(wire.IFLA_GROUP, thing.group) if thing.group else b"")
    return own + attribute(wire.IFLA_LINKINFO, info)


def _veth_peer(veth: Veth) -> bytes:
    # The peer cannot be up at its creation (ENOTCONN), but its index, address and MTU can be chosen.
    peer = wire.IFINFO.pack(0, 0, veth.peer_index, 0, 0) + text(wire.IFLA_IFNAME, veth.peer)
    if veth.namespace is not None:
        peer += u32(wire.IFLA_NET_NS_FD, veth.namespace)
    return attribute(wire.VETH_PEER, peer + _ONE_QUEUE + _hardware(veth.peer_mac, veth.mtu))


def _vxlan(vxlan: Vxlan) -> bytes:
    data = u32(wire.VXLAN_ID, vxlan.vni)
    if vxlan.underlay:
        data += u32(wire.VXLAN_LINK, vxlan.underlay)
    data += attribute(wire.VXLAN_LOCAL if len(vxlan.local) == 4 else wire.VXLAN_LOCAL6, vxlan.local)
    data += attribute(wire.VXLAN_LEARNING, b"\0")
    if len(vxlan.local) == 4:
        # The kernel's default is to have it. With the inner checksum left to the hardware, a masquerade that changes
        # the outer packet's port does not correct it (seen on Linux 6.18), and the packet is lost.
        data += attribute(wire.VXLAN_CSUM, b"\0")
    else:
        # RFC 6935: a tunnel over IPv6 may leave the outer UDP checksum out, as over IPv4; the inner ones remain.
        data += attribute(wire.VXLAN_ZERO_CSUM6_TX, b"\1") + attribute(wire.VXLAN_ZERO_CSUM6_RX, b"\1")
    return data + attribute(wire.VXLAN_PORT, vxlan.port.to_bytes(2, "big"))


def _switch(bridge: Bridge) -> bytes:
    if not bridge.asks_for_groups:
        return b""
    return attribute(wire.BRIDGE_SNOOPING, b"\1") + attribute(wire.BRIDGE_QUERIER, b"\1")


def _hardware(mac: bytes, mtu: int) -> bytes:
    return (attribute(wire.IFLA_ADDRESS, mac) if mac else b"") + (u32(wire.IFLA_MTU, mtu) if mtu else b"")


def _change(thing: LinkChange) -> bytes:
    flags, mask = (0, 0) if thing.is_up is None else (wire.IFF_UP if thing.is_up else 0, wire.IFF_UP)
    out = wire.IFINFO.pack(0, 0, thing.index, flags, mask)
    if not thing.index:
        out += text(wire.IFLA_IFNAME, thing.name)
    elif thing.rename is not None:
        out += text(wire.IFLA_IFNAME, thing.rename)
    out += _hardware(thing.mac or b"", thing.mtu or 0)
    out += b"" if thing.master is None else u32(wire.IFLA_MASTER, thing.master)
    out += b"" if thing.group is None else u32(wire.IFLA_GROUP, thing.group)
    out += b"" if thing.alias is None else attribute(wire.IFLA_IFALIAS, thing.alias.encode())
    if thing.port:
        switches = b"".join(attribute(wire.PORT_CONF[name], bytes([is_on])) for name, is_on in thing.port)
        info = text(wire.INFO_SLAVE_KIND, "bridge") + attribute(wire.INFO_SLAVE_DATA, switches)
        out += attribute(wire.IFLA_LINKINFO, info)
    return out + _per_family(thing)


def _per_family(thing: LinkChange) -> bytes:
    spec = b""
    if thing.inet:
        values = b"".join(u32(wire.INET_CONF[name], value) for name, value in thing.inet)
        spec += attribute(wire.AF_INET, attribute(wire.INET_CONF_ATTRIBUTE, values))
    if thing.addr_gen_none:
        mode = attribute(wire.INET6_ADDR_GEN_MODE, bytes([wire.ADDR_GEN_NONE]))
        spec += attribute(wire.AF_INET6, mode)
    return attribute(wire.IFLA_AF_SPEC, spec) if spec else b""


def _address(thing: Address) -> bytes:
    flags = wire.IFA_F_PERMANENT
    if len(thing.address) == 16:
        flags |= wire.IFA_F_NODAD  # a second without the address otherwise, for a doubt that IPAM has excluded
    if thing.is_quiet:
        flags |= wire.IFA_F_NOPREFIXROUTE
    head = wire.IFADDR.pack(wire.family(thing.address), thing.length, flags & 0xFF, thing.scope, thing.index)
    where = attribute(wire.IFA_LOCAL, thing.address) + attribute(wire.IFA_ADDRESS, thing.address)
    return head + where + u32(wire.IFA_FLAGS, flags)


def _route(thing: Route) -> bytes:
    scope = SCOPE_LINK if thing.index and not thing.via and len(thing.network) == 4 else SCOPE_UNIVERSE
    head = wire.RTMSG.pack(
        wire.family(thing.network),
        thing.length,
        0,
        0,
        MAIN_TABLE,
        thing.protocol,
        scope,
        wire.ROUTE_TYPES[thing.type],
        wire.RTNH_F_ONLINK if thing.onlink else 0,
    )
    out = attribute(wire.RTA_DST, thing.network) if thing.length else b""
    out += attribute(wire.RTA_GATEWAY, thing.via) if thing.via else b""
    out += u32(wire.RTA_OIF, thing.index) if thing.index else b""
    out += attribute(wire.RTA_PREFSRC, thing.source) if thing.source else b""
    out += attribute(wire.RTA_METRICS, _metrics(thing)) if thing.mtu else b""
    return head + out + (u32(wire.RTA_PRIORITY, thing.metric) if thing.metric else b"")


def _metrics(thing: Route) -> bytes:
    # IPv6 holds forwarded packets to a route's MTU only when it is locked (ip6_dst_mtu_maybe_forward); IPv4 always
    # does, and a lock would let its own packets be fragmented on the way.
    lock = u32(wire.RTAX_LOCK, 1 << wire.RTAX_MTU) if len(thing.network) == 16 else b""
    return lock + u32(wire.RTAX_MTU, thing.mtu)


def _neighbour(thing: Neighbour) -> bytes:
    head = wire.NDMSG.pack(wire.family(thing.address), thing.index, wire.NUD_PERMANENT, 0, 0)
    mac = attribute(wire.NDA_LLADDR, thing.mac) if thing.mac else b""
    return head + attribute(wire.NDA_DST, thing.address) + mac


def _forward(thing: Forward) -> bytes:
    state = wire.NUD_NOARP | wire.NUD_PERMANENT
    head = wire.NDMSG.pack(wire.AF_BRIDGE, thing.index, state, wire.NTF_SELF, 0)
    return head + attribute(wire.NDA_LLADDR, thing.mac) + attribute(wire.NDA_DST, thing.remote)


def _port_entry(thing: PortEntry) -> bytes:
    head = wire.NDMSG.pack(wire.AF_BRIDGE, thing.index, wire.NUD_NOARP, wire.NTF_MASTER, 0)
    return head + attribute(wire.NDA_LLADDR, thing.mac)


def _bucket(verb: Verb, thing: TokenBucket) -> bytes:
    head = wire.TCMSG.pack(0, thing.index, 0, wire.TC_ROOT, 0)
    if verb == "remove":
        return head  # With a kind named, the kernel finds fault with it (EINVAL) where no queue is left to remove.
    rate = min(thing.rate, 0xFFFFFFFF)
    # With an Ethernet link layer the kernel reckons by itself and needs no table of transmission times.
    options = attribute(
        wire.TBF_PARAMETERS, wire.TBF.pack(0, wire.LINK_LAYER_ETHERNET, 0, 0, 0, rate, thing.queue, 0, 0)
    )
    options += attribute(wire.TBF_RATE64, thing.rate.to_bytes(8, sys.byteorder)) if thing.rate > rate else b""
    options += u32(wire.TBF_BURST, thing.burst)
    return head + text(wire.TCA_KIND, "tbf") + attribute(wire.TCA_OPTIONS, options)


def _program(verb: Verb, thing: Program) -> bytes:
    end = wire.TC_ARRIVING if thing.is_arriving else wire.TC_LEAVING
    head = wire.TCMSG.pack(0, thing.index, 1, end, thing.priority << 16 | wire.ALL_PROTOCOLS)
    head += text(wire.TCA_KIND, "bpf")
    if verb == "remove":
        return head
    options = u32(wire.BPF_FD, thing.file) + text(wire.BPF_NAME, thing.name) + u32(wire.BPF_FLAGS, wire.BPF_DIRECT)
    return head + attribute(wire.TCA_OPTIONS, options)
