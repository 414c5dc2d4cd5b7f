"""Hear of changes that anyone makes to links and routes, as they happen. What to do about them is the listener's."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Literal

from netplane.kernel.errors import from_os
from netplane.kernel.link import decode, hearing, wire
from netplane.kernel.netlink import wire as netlink

RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100
RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE = 0x40, 0x400
ADDRESSES = RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR
GROUPS = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE
BUFFER = 4 << 20

KINDS: dict[int, tuple[Literal["link", "address", "route"], bool]] = {
    wire.NEWLINK: ("link", False),
    wire.DELLINK: ("link", True),
    wire.NEWADDR: ("address", False),
    wire.DELADDR: ("address", True),
    wire.NEWROUTE: ("route", False),
    wire.DELROUTE: ("route", True),
}


@dataclass(frozen=True, slots=True)
class Event:
    """One change. `port` is the netlink port of who made it, 0 for the kernel itself.

    For links `name` is set, for links and addresses `index`, for routes of the main table `protocol`.
    """

    kind: Literal["link", "address", "route", "lost"]
    is_removal: bool = False
    port: int = 0
    index: int = 0
    name: str = ""
    protocol: int = 0


class Monitor:
    """A socket that hears the changes in the namespace where it was made. `fileno` is readable when there are any."""

    def __init__(self, unheard: hearing.Unheard | None = None, *, groups: int = GROUPS) -> None:
        try:
            opened = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
            )
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            if unheard is not None:
                hearing.attach(opened, unheard)
            opened.bind((0, groups))
        except OSError as error:
            raise from_os(error, "listen to rtnetlink") from error
        self._socket = opened

    def fileno(self) -> int:
        """Return the number of the open file."""
        return self._socket.fileno()

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def take(self) -> list[Event]:
        """Return what was heard since the last call. An event `lost` says that more happened than could be kept."""
        found: list[Event] = []
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return found
            except OSError:
                found.append(Event("lost"))
                continue
            found += read(data)


def read(data: bytes) -> list[Event]:
    """Read what one receive gave."""
    found = []
    offset = 0
    for kind, _, _, body in wire.messages(data):
        length, _, _, _, port = netlink.HEADER.unpack_from(data, offset)
        offset += (length + 3) & ~3
        if kind in KINDS:
            event = _event(kind, port, body)
            found += [event] if event is not None else []
    return found


def _event(kind: int, port: int, body: memoryview) -> Event | None:
    what, is_removal = KINDS[kind]
    if what == "link":
        # Every pod's cable makes some of these: its name is enough, and comes first.
        _, _, index, _, _ = wire.IFINFO.unpack_from(body)
        name = wire.attribute_of(body, wire.IFINFO.size, wire.IFLA_IFNAME)
        return Event(what, is_removal, port, index, bytes(name).rstrip(b"\0").decode(errors="replace"))
    if what == "address":
        return Event(what, is_removal, port, decode.address(body).index)
    route = decode.route(body)
    return None if route is None else Event(what, is_removal, port, route.index, protocol=route.protocol)
