"""Write the programs by which packets of a flow take the way that the flow's last packet took. Laying them is run's.

At each end of the ways between pods (a pod's cable, a tunnel) there are two. `arriving` asks a table whether a packet
of the same flow, arriving at the same link, has left unchanged just now; if so it leaves as that one did, past routing,
connection tracking and everybody's rules. `leaving` fills the table: with flows whose packets left with the addresses
and ports that they had when they arrived. What was translated (Services, host ports, masquerade) so never is in it.

    arriving at A ──▶ known, and not for long ago? ── yes ──▶ MAC addresses, TTL ──▶ leave by B
                                    └─ no ──▶ rules, tracking, routes ──▶ leaving by B: (A, flow) → B, MACs, size, time

What the table says is believed for `LIFE`; then one packet goes the whole way again and must pass it. So a rule, route,
address or MTU that changes holds for flows that run already, and tracking sees each of them often enough to remember
it. What opens or ends a TCP connection always goes the whole way, and so do fragments, packets with options, those
about to die of their TTL, and those larger than any of the flow that has passed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from netplane.kernel.bpf.assembly import STACK, Assembly, network
from netplane.kernel.link.objects import Command, Link, Place, Program, remove, replace
from netplane_cni.plan import attach, fabric

NAME = "netplane"
PRIORITY = 0x6E70
"""Of our programs among others at the same link: mostly theirs come first."""
TRACKING = "net/netfilter/nf_conntrack_tcp_be_liberal", 1
"""Tracking sees some packets of a connection only: it must not take those for strays whose forerunners it missed."""
MODES_BY_LINK = frozenset({"direct", "auto", "bgp"})
"""Fabrics in which pods' packets leave by the node's own link as they are."""

ENTRIES = 1 << 14
"""Flows of one family that are remembered; those beyond go the whole way."""
LIFE = 32
"""Ticks of the kernel's clock: 0.13 s where it ticks 250 times a second, between 0.03 and 0.32 s elsewhere."""
SELDOM = 16
"""Of so many packets that go the whole way one is written down: who only asks a question does not pay for a table."""
VALUE = 32
"""Bytes of a flow's entry: link (4), size (4), time (8), MAC addresses (12), unused."""

_LINK, _LENGTH, _TIME, _MACS = 0, 4, 8, 16
_PACKET_SIZE, _ADDRESSED, _PROTOCOL, _VLAN, _FROM, _AT, _TAG, _DATA, _END, _SEGMENT = (
    0,
    4,
    16,
    20,
    36,
    40,
    44,
    76,
    80,
    176,
)
"""Places in struct __sk_buff (linux/bpf.h)."""
_LOOK_UP, _UPDATE, _RANDOM, _STORE, _REDIRECT, _TICKS = 1, 2, 7, 9, 23, 118
_RECOMPUTE = 1
_TCP, _UDP = 6, 17
_FLAGS = 0x07
"""FIN, SYN and RST."""
_ETHERNET = 14
_WORD = 8
"""Bytes of the stack under the key, for what is kept beside the registers."""


@dataclass(frozen=True, slots=True)
class Family:
    """Where the headers of one family have what, counted from the frame's beginning."""

    name: str
    ethertype: int
    protocol: int
    ttl: int
    addresses: int
    width: int
    header: int

    @property
    def key(self) -> int:
        """Bytes of a key: the link of arrival, both addresses, both ports, the protocol."""
        return 12 + 2 * self.width


V4 = Family("v4", 0x0800, protocol=23, ttl=22, addresses=26, width=4, header=20)
V6 = Family("v6", 0x86DD, protocol=20, ttl=21, addresses=22, width=16, header=40)
FAMILIES = V4, V6

_CONTEXT, _FRAME, _ENTRY, _SIZE = 6, 7, 8, 9
"""Registers."""


def chosen(links: Iterable[Link], underlay: int) -> list[int]:
    """Return the links that get programs: pods' routed cables, the tunnel, and the underlay unless it is 0.

    What has no MAC address has no room for one in its packets.
    """
    return [one.index for one in links if len(one.mac) == 6 and _is_chosen(one, underlay)]


def _is_chosen(one: Link, underlay: int) -> bool:
    if one.kind == "veth" and one.group == attach.GROUP:
        return not one.master
    return one.name == fabric.DEVICE or one.index == underlay


def lay(index: int, arriving: int, leaving: int) -> tuple[Command, ...]:
    """Return what gives a link the programs, open files; earlier ones of ours make room."""
    return (
        replace(Place(index)),
        replace(Program(index, NAME, PRIORITY, is_arriving=True, file=arriving)),
        replace(Program(index, NAME, PRIORITY, is_arriving=False, file=leaving)),
    )


def undo(index: int, found: Iterable[Program]) -> tuple[Command, ...]:
    """Return what takes our programs from a link where these are, and their place unless others use it, too."""
    there = list(found)
    ours = [one for one in there if one.name == NAME and one.priority == PRIORITY]
    if not ours:
        return ()
    return tuple(map(remove, ours)) if len(ours) < len(there) else (remove(Place(index)),)


def arriving(maps: Mapping[Family, int]) -> bytes:
    """Return the program for packets that a link receives; the maps are open files."""
    code = Assembly()
    code.copy(_CONTEXT, 1)
    # What is for another machine and seen all the same (PACKET_OTHERHOST), or for many, is not for forwarding.
    code.load(4, 1, _CONTEXT, _ADDRESSED)
    code.jump_if(1, "!=", 0, "pass")
    _begin(code)
    for family in FAMILIES:
        _read(code, family, is_arriving=True)
        code.load_map(1, maps[family])
        code.copy(2, STACK)
        code.reckon(2, "+", -_bottom(family))
        code.call(_LOOK_UP)
        miss = f"unknown {family.name}"
        code.jump_if(0, "==", 0, miss)
        code.copy(_ENTRY, 0)
        code.call(_TICKS)
        code.load(8, 1, _ENTRY, _TIME)
        code.combine(0, "-", 1)
        code.jump_if(0, ">", LIFE, miss)
        code.load(4, 1, _ENTRY, _LENGTH)
        code.jump_if_both(_SIZE, ">", 1, miss)
        _send(code, family)
        code.label(miss)
        code.call(_RANDOM)
        code.jump_if(0, "&", SELDOM - 1, "pass")
        code.load(4, 1, STACK, -_WORD)
        code.store(4, _CONTEXT, _TAG, 1)
        code.jump("pass")
        code.label(f"not {family.name}")
    return _ended(code)


def leaving(maps: Mapping[Family, int]) -> bytes:
    """Return the program for packets that a link sends."""
    code = Assembly()
    code.copy(_CONTEXT, 1)
    # No tag: it comes from this node, or by the short way, or from a link that has no program.
    code.load(4, 1, _CONTEXT, _TAG)
    code.jump_if(1, "==", 0, "pass")
    _begin(code)
    for family in FAMILIES:
        _read(code, family, is_arriving=False)
        code.load(4, 1, _CONTEXT, _TAG)
        code.load(4, 2, STACK, -_WORD)
        code.set(3, 0)
        code.store(4, _CONTEXT, _TAG, 3)
        code.jump_if_both(1, "!=", 2, "pass")
        code.load_map(1, maps[family])
        code.copy(2, STACK)
        code.reckon(2, "+", -_bottom(family))
        code.call(_LOOK_UP)
        code.copy(_ENTRY, 0)
        _remember(code, family, maps[family])
        code.label(f"not {family.name}")
    return _ended(code)


def _begin(code: Assembly) -> None:
    code.load(4, 1, _CONTEXT, _VLAN)
    code.jump_if(1, "!=", 0, "pass")
    code.load(4, _FRAME, _CONTEXT, _DATA)
    code.load(4, 3, _CONTEXT, _END)


def _ended(code: Assembly) -> bytes:
    code.label("pass")
    code.set(0, -1)  # TC_ACT_UNSPEC: as if there were no program.
    code.end()
    return code.code()


def _bottom(family: Family) -> int:
    return _WORD + (family.key + 7) // 8 * 8


def _read(code: Assembly, family: Family, *, is_arriving: bool) -> None:
    """Read the headers: the key is on the stack, its tag above, a packet's bytes on the way in a register."""
    code.load(4, 1, _CONTEXT, _PROTOCOL)
    code.jump_if(1, "!=", network(family.ethertype), f"not {family.name}")
    transport = _ETHERNET + family.header
    _needs(code, transport + 8)
    if family is V4:
        code.load(1, 1, _FRAME, _ETHERNET)
        code.jump_if(1, "!=", 0x45, "pass")  # Options.
        code.load(2, 1, _FRAME, 20)
        code.jump_if(1, "&", network(0x3FFF), "pass")  # Fragments.
    if is_arriving:
        code.load(1, 1, _FRAME, family.ttl)
        code.jump_if(1, "<=", 1, "pass")
    code.load(1, 5, _FRAME, family.protocol)
    code.set(_ENTRY, 8)
    code.jump_if(5, "==", _UDP, f"read {family.name}")
    code.jump_if(5, "!=", _TCP, "pass")
    _needs(code, transport + 20)
    code.load(1, 1, _FRAME, transport + 13)
    code.jump_if(1, "&", _FLAGS, "pass")
    code.load(1, _ENTRY, _FRAME, transport + 12)
    code.reckon(_ENTRY, ">>", 4)
    code.reckon(_ENTRY, "<<", 2)
    code.label(f"read {family.name}")
    _key(code, family, transport, is_arriving=is_arriving)
    code.load(4, _SIZE, _CONTEXT, _SEGMENT)
    code.jump_if(_SIZE, "!=", 0, f"segments {family.name}")
    code.load(4, _SIZE, _CONTEXT, _PACKET_SIZE)
    code.reckon(_SIZE, "-", _ETHERNET)
    code.jump(f"sized {family.name}")
    code.label(f"segments {family.name}")
    code.combine(_SIZE, "+", _ENTRY)
    code.reckon(_SIZE, "+", family.header)
    code.label(f"sized {family.name}")


def _needs(code: Assembly, length: int) -> None:
    code.copy(4, _FRAME)
    code.reckon(4, "+", length)
    code.jump_if_both(4, ">", 3, "pass")


def _key(code: Assembly, family: Family, transport: int, *, is_arriving: bool) -> None:
    bottom = -_bottom(family)
    code.load(4, 1, _CONTEXT, _AT if is_arriving else _FROM)
    code.store(4, STACK, bottom, 1)
    code.set(2, 0)
    for offset in range(0, 2 * family.width, 4):
        code.load(4, 1, _FRAME, family.addresses + offset)
        code.store(4, STACK, bottom + 4 + offset, 1)
        code.combine(2, "^", 1)
    code.load(4, 1, _FRAME, transport)
    code.store(4, STACK, bottom + 4 + 2 * family.width, 1)
    code.combine(2, "^", 1)
    code.store(4, STACK, bottom + 8 + 2 * family.width, 5)
    code.copy(1, 2)
    code.reckon(1, ">>", 16)
    code.combine(2, "^", 1)
    code.reckon(2, "&", 0xFFFE)
    code.reckon(2, "|", 1)
    code.store(4, STACK, -_WORD, 2)


def _send(code: Assembly, family: Family) -> None:
    for offset in (0, 4, 8):
        code.load(4, 1, _ENTRY, _MACS + offset)
        code.store(4, _FRAME, offset, 1)
    code.load(1, 1, _FRAME, family.ttl)
    code.reckon(1, "-", 1)
    if family is V4:
        code.store(1, _FRAME, family.ttl, 1)
        # RFC 1624, as the kernel's ip_decrease_ttl.
        code.load(2, 1, _FRAME, 24)
        code.reckon(1, "+", network(0x0100))
        code.jump_if(1, "<", 0xFFFF, "summed")
        code.reckon(1, "+", 1)
        code.label("summed")
        code.store(2, _FRAME, 24, 1)
    else:
        # No sum in the header makes up for it, so a sum over the whole packet that a card has made must follow.
        code.store(1, STACK, -_WORD, 1)
        code.copy(1, _CONTEXT)
        code.set(2, family.ttl)
        code.copy(3, STACK)
        code.reckon(3, "+", -_WORD)
        code.set(4, 1)
        code.set(5, _RECOMPUTE)
        code.call(_STORE)
    code.load(4, 1, _ENTRY, _LINK)
    code.set(2, 0)
    code.call(_REDIRECT)
    code.end()


def _remember(code: Assembly, family: Family, table: int) -> None:
    """Write down the way that the packet takes, by the time that is now in register 5."""
    code.call(_TICKS)
    code.copy(5, 0)
    code.jump_if(_ENTRY, "==", 0, f"new {family.name}")
    _renew(code, family)
    code.label(f"new {family.name}")
    _insert(code, family, table)


def _renew(code: Assembly, family: Family) -> None:
    """Keep an entry that tells the same way; go to `new` with one that tells another."""
    code.load(4, 1, _ENTRY, _LINK)
    code.load(4, 2, _CONTEXT, _AT)
    code.jump_if_both(1, "!=", 2, f"new {family.name}")
    for offset in (0, 4, 8):
        code.load(4, 1, _ENTRY, _MACS + offset)
        code.load(4, 2, _FRAME, offset)
        code.jump_if_both(1, "!=", 2, f"new {family.name}")
    code.load(8, 1, _ENTRY, _TIME)
    code.copy(2, 5)
    code.combine(2, "-", 1)
    code.jump_if(2, "<=", LIFE, f"fresh {family.name}")
    code.store(4, _ENTRY, _LENGTH, _SIZE)
    code.store(8, _ENTRY, _TIME, 5)
    code.jump("pass")
    code.label(f"fresh {family.name}")
    code.load(4, 1, _ENTRY, _LENGTH)
    code.jump_if_both(_SIZE, "<=", 1, "pass")
    code.store(4, _ENTRY, _LENGTH, _SIZE)
    code.jump("pass")


def _insert(code: Assembly, family: Family, table: int) -> None:
    place = -_bottom(family) - VALUE
    code.load(4, 1, _CONTEXT, _AT)
    code.store(4, STACK, place + _LINK, 1)
    code.store(4, STACK, place + _LENGTH, _SIZE)
    code.store(8, STACK, place + _TIME, 5)
    for offset in (0, 4, 8):
        code.load(4, 1, _FRAME, offset)
        code.store(4, STACK, place + _MACS + offset, 1)
    code.set(1, 0)
    code.store(4, STACK, place + _MACS + 12, 1)
    code.load_map(1, table)
    code.copy(2, STACK)
    code.reckon(2, "+", -_bottom(family))
    code.copy(3, STACK)
    code.reckon(3, "+", place)
    code.set(4, 0)
    code.call(_UPDATE)
    code.jump("pass")
