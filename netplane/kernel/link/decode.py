"""Turn rtnetlink's listings into facts. Asking for them is run's."""

from __future__ import annotations

import sys

from netplane.kernel.link import wire
from netplane.kernel.link.objects import (
    MAIN_TABLE,
    Address,
    Forward,
    Link,
    Neighbour,
    Program,
    Route,
    RouteType,
    Vxlan,
)

ROUTE_TYPE_NAMES: dict[int, RouteType] = {1: "unicast", 6: "blackhole", 7: "unreachable"}


def link(payload: memoryview) -> Link:
    """Read an RTM_NEWLINK message."""
    _, _, index, flags, _ = wire.IFINFO.unpack_from(payload)
    found = wire.attributes(payload, wire.IFINFO.size)
    kind, data = _info(found)
    name = _text(found, wire.IFLA_IFNAME)
    mac, mtu = bytes(found.get(wire.IFLA_ADDRESS, b"")), _u32(found, wire.IFLA_MTU)
    return Link(
        index,
        name,
        kind,
        mac,
        mtu,
        is_up=bool(flags & wire.IFF_UP),
        master=_u32(found, wire.IFLA_MASTER),
        group=_u32(found, wire.IFLA_GROUP),
        alias=_text(found, wire.IFLA_IFALIAS),
        peer_index=_u32(found, wire.IFLA_LINK) if kind == "veth" else 0,
        vxlan=_vxlan(name, mac, mtu, data) if kind == "vxlan" and data is not None else None,
    )


def address(payload: memoryview) -> Address:
    """Read an RTM_NEWADDR message."""
    _, length, flags, scope, index = wire.IFADDR.unpack_from(payload)
    found = wire.attributes(payload, wire.IFADDR.size)
    all_flags = _u32(found, wire.IFA_FLAGS) or flags
    where = found.get(wire.IFA_LOCAL, found.get(wire.IFA_ADDRESS, memoryview(b"")))
    return Address(index, bytes(where), length, scope, is_quiet=bool(all_flags & wire.IFA_F_NOPREFIXROUTE))


def route(payload: memoryview) -> Route | None:
    """Read an RTM_NEWROUTE message; None for tables and types that `Route` does not speak of, and multiple paths."""
    family, length, _, _, table, protocol, _, kind, flags = wire.RTMSG.unpack_from(payload)
    found = wire.attributes(payload, wire.RTMSG.size)
    if (_u32(found, wire.RTA_TABLE) or table) != MAIN_TABLE or kind not in ROUTE_TYPE_NAMES:
        return None
    any_address = bytes(4 if family == wire.AF_INET else 16)
    metric = _u32(found, wire.RTA_PRIORITY)
    is_unicast = kind == wire.ROUTE_TYPES["unicast"]
    return Route(
        bytes(found.get(wire.RTA_DST, any_address)),
        length,
        # The kernel lists IPv6's refusals on the loopback device.
        index=_u32(found, wire.RTA_OIF) if is_unicast else 0,
        via=bytes(found.get(wire.RTA_GATEWAY, b"")),
        protocol=protocol,
        source=bytes(found.get(wire.RTA_PREFSRC, b"")),
        metric=0 if family == wire.AF_INET6 and metric == wire.IP6_DEFAULT_METRIC else metric,
        onlink=bool(flags & wire.RTNH_F_ONLINK),
        type=ROUTE_TYPE_NAMES[kind],
        mtu=_u32(wire.attributes(found[wire.RTA_METRICS], 0), wire.RTAX_MTU) if wire.RTA_METRICS in found else 0,
    )


def neighbour(payload: memoryview) -> Neighbour | None:
    """Read an RTM_NEWNEIGH message of an IP family; None unless it is permanent."""
    family, index, state, _, _ = wire.NDMSG.unpack_from(payload)
    if family not in (wire.AF_INET, wire.AF_INET6) or not state & wire.NUD_PERMANENT:
        return None
    found = wire.attributes(payload, wire.NDMSG.size)
    return Neighbour(index, bytes(found[wire.NDA_DST]), bytes(found.get(wire.NDA_LLADDR, b"")))


def forward(payload: memoryview) -> Forward | None:
    """Read an RTM_NEWNEIGH message of the bridge family; None unless it names a remote tunnel end."""
    family, index, _, flags, _ = wire.NDMSG.unpack_from(payload)
    found = wire.attributes(payload, wire.NDMSG.size)
    if family != wire.AF_BRIDGE or not flags & wire.NTF_SELF or wire.NDA_DST not in found:
        return None
    return Forward(index, bytes(found[wire.NDA_LLADDR]), bytes(found[wire.NDA_DST]))


def _info(found: dict[int, memoryview]) -> tuple[str, memoryview | None]:
    if wire.IFLA_LINKINFO not in found:
        return "", None
    info = wire.attributes(found[wire.IFLA_LINKINFO], 0)
    return _text(info, wire.INFO_KIND), info.get(wire.INFO_DATA)


def _vxlan(name: str, mac: bytes, mtu: int, data: memoryview) -> Vxlan:
    found = wire.attributes(data, 0)
    local = found.get(wire.VXLAN_LOCAL, found.get(wire.VXLAN_LOCAL6, memoryview(b"")))
    return Vxlan(
        name,
        _u32(found, wire.VXLAN_ID),
        int.from_bytes(found.get(wire.VXLAN_PORT, b"\0\0"), "big"),
        bytes(local),
        _u32(found, wire.VXLAN_LINK),
        mac,
        mtu,
    )


def _u32(found: dict[int, memoryview], number: int) -> int:
    return int(wire.U32.unpack_from(found[number])[0]) if number in found else 0


def _text(found: dict[int, memoryview], number: int) -> str:
    return bytes(found[number]).rstrip(b"\0").decode(errors="replace") if number in found else ""


def bucket_rate(payload: memoryview) -> tuple[int, int]:
    """Read an RTM_NEWQDISC message: the link's index, and the rate of its token bucket, 0 for other disciplines."""
    _, index, _, parent, _ = wire.TCMSG.unpack_from(payload)
    found = wire.attributes(payload, wire.TCMSG.size)
    if bytes(found.get(wire.TCA_KIND, b"")) != b"tbf\0" or parent != wire.TC_ROOT:
        return index, 0
    options = wire.attributes(found[wire.TCA_OPTIONS], 0)
    wide = options.get(wire.TBF_RATE64)
    return index, int.from_bytes(wide, sys.byteorder) if wide else int(wire.TBF.unpack(options[wire.TBF_PARAMETERS])[5])


def program(payload: memoryview) -> Program | None:
    """Read an RTM_NEWTFILTER message: filters of other kinds have no name; None for the head of a list."""
    _, index, handle, parent, info = wire.TCMSG.unpack_from(payload)
    if not handle:
        return None
    found = wire.attributes(payload, wire.TCMSG.size)
    is_program = _text(found, wire.TCA_KIND) == "bpf" and wire.TCA_OPTIONS in found
    options = wire.attributes(found[wire.TCA_OPTIONS], 0) if is_program else {}
    return Program(index, _text(options, wire.BPF_NAME), info >> 16, parent == wire.TC_ARRIVING)
