"""Leave unheard what a listener would not act on: a program of classic BPF that the kernel runs on each notice.

Waking up for a notice costs more than most of what it could tell: every cable of a pod makes four of them.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from netplane.kernel.link import wire
from netplane.kernel.netlink import wire as netlink

SO_ATTACH_FILTER = 26
LOAD_HALF, LOAD_BYTE, IF_EQUAL, RETURN = 0x28, 0x30, 0x15, 0x06
DROP, PASS = 0, 0xFFFFFFFF

# Where things lie behind a message's header: a link's first attribute is its name, and a route tells its maker.
_KIND = 4
_ATTRIBUTE, _NAME = netlink.HEADER.size + wire.IFINFO.size, netlink.HEADER.size + wire.IFINFO.size + 4
_PROTOCOL = netlink.HEADER.size + 5

_Step = tuple[int, int | str, int | str, int]
"""Code, where to go on if equal and if not (a label, or so many steps further), and the number."""


@dataclass(frozen=True, slots=True)
class Unheard:
    """Links whose names begin with `prefix` (unless `but` follows), and routes of other makers than `protocols`."""

    prefix: bytes
    but: bytes
    protocols: tuple[int, ...]


def attach(opened: socket.socket, unheard: Unheard) -> None:
    """Have the kernel leave them out of what the socket hears."""
    code = program(unheard)
    kept = ctypes.create_string_buffer(code, len(code))
    opened.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(code) // 8, ctypes.addressof(kept)))


def program(unheard: Unheard) -> bytes:
    """Return the program."""
    steps: list[_Step | str] = [(LOAD_HALF, 0, 0, _KIND)]
    for kind, label in ((wire.NEWLINK, "link"), (wire.DELLINK, "link")):
        steps.append((IF_EQUAL, label, 0, _host_half(kind)))
    for kind in (wire.NEWROUTE, wire.DELROUTE):
        steps.append((IF_EQUAL, "route", 0, _host_half(kind)))
    steps += [(RETURN, 0, 0, PASS), "link", (LOAD_HALF, 0, 0, _ATTRIBUTE + 2)]
    steps.append((IF_EQUAL, 0, "pass", _host_half(wire.IFLA_IFNAME)))
    for at, byte in enumerate(unheard.prefix, _NAME):
        steps += [(LOAD_BYTE, 0, 0, at), (IF_EQUAL, 0, "pass", byte)]
    for at, byte in enumerate(unheard.but, _NAME + len(unheard.prefix)):
        steps += [(LOAD_BYTE, 0, 0, at), (IF_EQUAL, 0, "drop", byte)]
    steps += ["pass", (RETURN, 0, 0, PASS), "route", (LOAD_BYTE, 0, 0, _PROTOCOL)]
    steps += [(IF_EQUAL, "heard", 0, protocol) for protocol in unheard.protocols]
    steps += ["drop", (RETURN, 0, 0, DROP), "heard", (RETURN, 0, 0, PASS)]
    return _assembled(steps)


def _assembled(steps: Sequence[_Step | str]) -> bytes:
    places: dict[str, int] = {}
    lines: list[_Step] = []
    for step in steps:
        if isinstance(step, str):
            places[step] = len(lines)
        else:
            lines.append(step)
    out = b""
    for here, (code, yes, no, number) in enumerate(lines, 1):
        jumps = [places[to] - here if isinstance(to, str) else to for to in (yes, no)]
        out += struct.pack("=HBBI", code, *jumps, number)
    return out


def _host_half(number: int) -> int:
    # Loads read network order, and netlink's numbers are in the host's.
    return int.from_bytes(number.to_bytes(2, sys.byteorder), "big")
