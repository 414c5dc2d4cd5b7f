"""Numbers and primitives of rtnetlink's messages (linux/rtnetlink.h, if_link.h, neighbour.h), host byte order."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator

from netplane.kernel.netlink.wire import ATTRIBUTE, HEADER, KIND

REPLACE, EXCL, CREATE = 0x100, 0x200, 0x400

NEWLINK, DELLINK, GETLINK = 16, 17, 18
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWNEIGH, DELNEIGH, GETNEIGH = 28, 29, 30

AF_UNSPEC, AF_INET, AF_BRIDGE, AF_INET6 = 0, 2, 7, 10

NEWQDISC, DELQDISC, GETQDISC = 36, 37, 38
TCMSG = struct.Struct("=BxxxiIII")
TC_ROOT = 0xFFFFFFFF
TCA_KIND, TCA_OPTIONS = 1, 2
TBF_PARAMETERS, TBF_RATE64, TBF_BURST = 1, 4, 6
TBF = struct.Struct("=BBHhHI12xIII")
"""struct tc_tbf_qopt: cell_log, link layer, overhead, cell_align, mpu and rate; no peak rate; limit, buffer, mtu."""
LINK_LAYER_ETHERNET = 1

NEWFILTER, DELFILTER, GETFILTER = 44, 45, 46
TC_CLSACT, TC_CLSACT_HANDLE, TC_ARRIVING, TC_LEAVING = 0xFFFFFFF1, 0xFFFF0000, 0xFFFFFFF2, 0xFFFFFFF3
BPF_FD, BPF_NAME, BPF_FLAGS, BPF_DIRECT = 6, 7, 8, 1
ALL_PROTOCOLS = int.from_bytes(b"\x00\x03", sys.byteorder)

IFINFO = struct.Struct("=BxHiII")
IFADDR = struct.Struct("=BBBBI")
RTMSG = struct.Struct("=BBBBBBBBI")
NDMSG = struct.Struct("=BxxxiHBB")
U32 = struct.Struct("=I")

IFF_UP = 1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER = 1, 3, 4, 5, 10
IFLA_LINKINFO, IFLA_IFALIAS, IFLA_AF_SPEC, IFLA_GROUP, IFLA_NET_NS_FD = 18, 20, 26, 27, 28
IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS = 29, 8
IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES = 31, 32
INFO_KIND, INFO_DATA, VETH_PEER = 1, 2, 1
INET_CONF_ATTRIBUTE, INET6_ADDR_GEN_MODE, ADDR_GEN_NONE = 1, 8, 1
VXLAN_ID, VXLAN_LINK, VXLAN_LOCAL, VXLAN_LEARNING, VXLAN_PORT, VXLAN_LOCAL6 = 1, 3, 4, 7, 15, 17
VXLAN_CSUM, VXLAN_ZERO_CSUM6_TX, VXLAN_ZERO_CSUM6_RX = 18, 19, 20

IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_NODAD, IFA_F_PERMANENT, IFA_F_NOPREFIXROUTE = 0x02, 0x80, 0x200

RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_TABLE = 1, 4, 5, 6, 7, 15
RTA_METRICS, RTAX_LOCK, RTAX_MTU = 8, 1, 2
RTNH_F_ONLINK = 4
ROUTE_TYPES = {"unicast": 1, "blackhole": 6, "unreachable": 7}
IP6_DEFAULT_METRIC = 1024

NDA_DST, NDA_LLADDR = 1, 2
NUD_NOARP, NUD_PERMANENT, NTF_SELF, NTF_MASTER = 0x40, 0x80, 2, 4

INFO_SLAVE_KIND, INFO_SLAVE_DATA = 4, 5
BRIDGE_SNOOPING, BRIDGE_QUERIER = 23, 25
PORT_CONF = {"hairpin": 4, "learning": 8, "flood": 9}
"""What a bridge's port does or not: send back where it came from, learn addresses, get frames to unknown ones."""

INET_CONF = {
    "forwarding": 1,
    "proxy_arp": 3,
    "accept_redirects": 4,
    "send_redirects": 6,
    "rp_filter": 8,
    "arp_ignore": 19,
}
"""The IPv4 parameters of a link that can be set by netlink, with no /proc at hand (linux/ip.h, IPV4_DEVCONF_*)."""


def u32(number: int, value: int) -> bytes:
    """Pack an attribute that holds a 32-bit number."""
    return ATTRIBUTE.pack(8, number) + U32.pack(value)


def attributes(buffer: memoryview, offset: int) -> dict[int, memoryview]:
    """Read the attributes from `offset` to the end; of repeated ones the last counts."""
    found: dict[int, memoryview] = {}
    end = len(buffer)
    while offset + 4 <= end:
        length, number = ATTRIBUTE.unpack_from(buffer, offset)
        if length < 4:
            break
        found[number & KIND] = buffer[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def attribute_of(buffer: memoryview, offset: int, number: int) -> memoryview:
    """Return the first attribute of that number from `offset` on; an empty one without."""
    end = len(buffer)
    while offset + 4 <= end:
        length, found = ATTRIBUTE.unpack_from(buffer, offset)
        if found & KIND == number or length < 4:
            return buffer[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return buffer[:0]


def messages(buffer: bytes) -> Iterator[tuple[int, int, int, memoryview]]:
    """Split what was received into (type, flags, sequence, payload)."""
    view = memoryview(buffer)
    offset = 0
    while offset + HEADER.size <= len(buffer):
        length, kind, flags, sequence, _ = HEADER.unpack_from(buffer, offset)
        if length < HEADER.size:
            return
        yield kind, flags, sequence, view[offset + HEADER.size : offset + length]
        offset += (length + 3) & ~3


def family(packed: bytes) -> int:
    """Return the AF_* number of a packed address."""
    return AF_INET if len(packed) == 4 else AF_INET6
