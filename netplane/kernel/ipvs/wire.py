"""IPVS changes and dumps as generic netlink bytes (include/uapi/linux/ip_vs.h). Sending is run's."""

from __future__ import annotations

import struct

from netplane.kernel.ipvs.objects import IPV4, Change, Destination, Load, Scheduling, Virtual
from netplane.kernel.netlink.wire import attribute, attributes, nested, text

U16, U32, PORT = struct.Struct("=H"), struct.Struct("=I"), struct.Struct(">H")
FLAGS = struct.Struct("=II")

NEW_SERVICE, SET_SERVICE, REMOVE_SERVICE, GET_SERVICE = 1, 2, 3, 4
NEW_DESTINATION, SET_DESTINATION, REMOVE_DESTINATION, GET_DESTINATION = 5, 6, 7, 8
SERVICE, DESTINATION = 1, 2
(FAMILY, PROTOCOL, ADDRESS, SERVICE_PORT, MARK, SCHEDULER, SERVICE_FLAGS, TIMEOUT, NETMASK) = range(1, 10)
DESTINATION_ADDRESS, DESTINATION_PORT, FORWARD, WEIGHT, UPPER, LOWER, ACTIVE, INACTIVE = range(1, 9)
DESTINATION_FAMILY = 11

PERSISTENT, HASHED = 0x1, 0x2
MASQUERADING = 0

_COMMANDS = {
    ("add", False): NEW_SERVICE,
    ("set", False): SET_SERVICE,
    ("remove", False): REMOVE_SERVICE,
    ("add", True): NEW_DESTINATION,
    ("set", True): SET_DESTINATION,
    ("remove", True): REMOVE_DESTINATION,
}


def change(wanted: Change) -> tuple[int, bytes]:
    """Return the command and the attributes that make a change."""
    command = _COMMANDS[wanted.verb, wanted.destination is not None]
    if wanted.destination is not None:
        return command, nested(SERVICE, virtual(wanted.virtual)) + nested(DESTINATION, _destination(wanted))
    if wanted.verb == "remove":
        return command, nested(SERVICE, virtual(wanted.virtual))
    return command, nested(SERVICE, virtual(wanted.virtual), _scheduling(wanted.virtual, wanted.scheduling))


def virtual(which: Virtual) -> bytes:
    """Return the attributes that name a virtual server."""
    family = attribute(FAMILY, U16.pack(which.family))
    if which.mark:
        return family + attribute(MARK, U32.pack(which.mark))
    return (
        family
        + attribute(PROTOCOL, U16.pack(which.protocol))
        + attribute(ADDRESS, which.address.ljust(16, b"\0"))
        + attribute(SERVICE_PORT, PORT.pack(which.port))
    )


def _scheduling(which: Virtual, wanted: Scheduling) -> bytes:
    flags = wanted.flags | (PERSISTENT if wanted.persistence else 0)
    # By how many of its bits a client is known: all. IPv4 has a mask here, IPv6 a prefix length.
    mask = b"\xff" * 4 if which.family == IPV4 else U32.pack(128)
    return (
        text(SCHEDULER, wanted.scheduler)
        + attribute(SERVICE_FLAGS, FLAGS.pack(flags, 0xFFFFFFFF))
        + attribute(TIMEOUT, U32.pack(wanted.persistence))
        + attribute(NETMASK, mask)
    )


def _destination(wanted: Change) -> bytes:
    assert wanted.destination is not None
    found = attribute(DESTINATION_ADDRESS, wanted.destination.address.ljust(16, b"\0"))
    found += attribute(DESTINATION_PORT, PORT.pack(wanted.destination.port))
    if wanted.verb != "remove":
        found += attribute(FORWARD, U32.pack(MASQUERADING)) + attribute(WEIGHT, U32.pack(wanted.weight))
        found += attribute(UPPER, U32.pack(0)) + attribute(LOWER, U32.pack(0))
    return found + attribute(DESTINATION_FAMILY, U16.pack(wanted.virtual.family))


def read_server(body: bytes) -> tuple[Virtual, Scheduling]:
    """Read a virtual server out of a dump's message, without its netlink header."""
    found = _fields(body, SERVICE)
    family = U16.unpack(found[FAMILY])[0]
    scheduler = found[SCHEDULER].rstrip(b"\0").decode(errors="replace")
    flags = FLAGS.unpack(found[SERVICE_FLAGS])[0]
    timeout = U32.unpack(found[TIMEOUT])[0] if flags & PERSISTENT else 0
    scheduling = Scheduling(scheduler, flags & ~(PERSISTENT | HASHED), timeout)
    if MARK in found:
        return Virtual(family, 0, b"", 0, U32.unpack(found[MARK])[0]), scheduling
    width = 4 if family == IPV4 else 16
    protocol, port = U16.unpack(found[PROTOCOL])[0], PORT.unpack(found[SERVICE_PORT])[0]
    return Virtual(family, protocol, found[ADDRESS][:width], port), scheduling


def read_destination(body: bytes) -> tuple[Destination, Load]:
    """Read a destination out of a dump's message, without its netlink header."""
    found = _fields(body, DESTINATION)
    width = 4 if U16.unpack(found[DESTINATION_FAMILY])[0] == IPV4 else 16
    where = Destination(found[DESTINATION_ADDRESS][:width], PORT.unpack(found[DESTINATION_PORT])[0])
    connections = U32.unpack(found[ACTIVE])[0] + U32.unpack(found[INACTIVE])[0]
    return where, Load(U32.unpack(found[WEIGHT])[0], connections)


def _fields(body: bytes, kind: int) -> dict[int, bytes]:
    for found, start, stop in attributes(body, 4, len(body)):
        if found == kind:
            return {which: body[a:b] for which, a, b in attributes(body, start, stop)}
    return {}
