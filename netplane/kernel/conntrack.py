"""List tracked connections and delete single ones by their exact tuple, by ctnetlink packed by hand. Never all at once.

Which connections have to go is for others to decide. The kernel deletes every entry when it is asked to delete without
a tuple, so there is no such function here.
"""

from __future__ import annotations

import errno
import itertools
import struct
from collections.abc import Iterable
from typing import NamedTuple

from netplane.kernel.errors import KernelError
from netplane.kernel.netlink import channel
from netplane.kernel.netlink import wire as netlink
from netplane.kernel.netlink.wire import attribute, attributes, nested

RECEIVE_BUFFER = 16 << 20
AT_ONCE = 200

SUBSYSTEM = 1 << 8
CT_NEW, CT_GET, CT_DELETE = 0, 1, 2
TUPLE_ORIG, TUPLE_REPLY, ZONE, FILTER = 1, 2, 18, 25
TUPLE_IP, TUPLE_PROTO = 1, 2
PROTO_NUM, PROTO_SRC_PORT, PROTO_DST_PORT = 1, 2, 3
FILTER_ORIG_FLAGS, FILTER_REPLY_FLAGS = 1, 2
FLAG_PROTO_NUM = 1 << 3

AF_INET, AF_INET6 = 2, 10

_UDP = 17


class Flow(NamedTuple):
    """One tracked connection: as its first packet came, and who answers it (the translated destination).

    Addresses are packed bytes, protocols IP protocol numbers.
    """

    protocol: int
    source: bytes
    source_port: int
    destination: bytes
    port: int
    answering: bytes
    answering_port: int


class Socket:
    """A netlink socket of the network namespace in which it was made. Needs CAP_NET_ADMIN there. For one thread."""

    def __init__(self) -> None:
        """Open it."""
        tried = "open a connection tracking socket"
        self._channel = channel.Channel(channel.NETFILTER, tried, buffers=(0, RECEIVE_BUFFER))

    def close(self) -> None:
        """Close it."""
        self._channel.close()

    def flows(self, family: int, *, protocol: int = _UDP) -> list[Flow]:
        """List the connections of a family (AF_INET or AF_INET6) and protocol, of the default zone.

        A listing is no snapshot: what comes or goes meanwhile may be there or not.
        """
        body = struct.pack("=BBH", family, 0, 0)
        try:
            found = self._dump(body + _only(protocol))
        except KernelError as error:
            # Kernels before 5.8 know no filter.
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            found = self._dump(body)
        return [flow for flow in found if flow.protocol == protocol]

    def delete(self, flows: Iterable[Flow]) -> int:
        """Delete connections by their exact tuples; return how many were still there."""
        waiting = list(flows)
        count = 0
        for start in range(0, len(waiting), AT_ONCE):
            count += self._delete(waiting[start : start + AT_ONCE])
        return count

    def _delete(self, flows: list[Flow]) -> int:
        first = self._channel.numbers(len(flows))
        parts = []
        for number, flow in enumerate(flows, first):
            family = AF_INET if len(flow.source) == 4 else AF_INET6
            body = struct.pack("=BBH", family, 0, 0) + _original(flow)
            request = netlink.Message(SUBSYSTEM | CT_DELETE, netlink.REQUEST | netlink.ACK, body)
            parts.append(netlink.packed(request, number))
        tried = f"delete {len(flows)} tracked connections"
        self._channel.send(b"".join(parts), tried)
        heard = self._channel.answers(first, first + len(flows) - 1, tried)
        verdicts = (netlink.refusal(body) for kind, _, _, body in heard if kind == netlink.ERROR)
        answers = list(itertools.islice(verdicts, len(flows)))
        refused = [code for code in answers if code not in (0, errno.ENOENT)]
        if refused:
            raise KernelError(refused[0], tried)
        return answers.count(0)

    def _dump(self, body: bytes) -> list[Flow]:
        request = netlink.Message(SUBSYSTEM | CT_GET, netlink.REQUEST | netlink.DUMP, body)
        found = self._channel.dump_of(request, "list tracked connections", read)
        return [flow for flow in found if flow is not None]


def read(body: bytes) -> Flow | None:
    """Read one entry's message, without its netlink header; None for other zones and protocols without ports."""
    original = reply = None
    for kind, start, stop in attributes(body, 4, len(body)):
        if kind == TUPLE_ORIG:
            original = _tuple(body, start, stop)
        elif kind == TUPLE_REPLY:
            reply = _tuple(body, start, stop)
        elif kind == ZONE:
            return None
        if original is not None and reply is not None and kind > ZONE:
            break
    if original is None or reply is None:
        return None
    protocol, source, source_port, destination, port = original
    return Flow(protocol, source, source_port, destination, port, reply[1], reply[2])


def _tuple(body: bytes, start: int, stop: int) -> tuple[int, bytes, int, bytes, int] | None:
    source = destination = b""
    protocol, ports = 0, [0, 0]
    for kind, a, b in attributes(body, start, stop):
        for part, c, d in attributes(body, a, b):
            if kind == TUPLE_IP:
                # Attributes 1 and 2 are IPv4's source and destination, 3 and 4 IPv6's.
                source, destination = (body[c:d], destination) if part & 1 else (source, body[c:d])
            elif part == PROTO_NUM:
                protocol = body[c]
            elif part in (PROTO_SRC_PORT, PROTO_DST_PORT):
                ports[part - PROTO_SRC_PORT] = int.from_bytes(body[c:d], "big")
    return (protocol, source, ports[0], destination, ports[1]) if ports[1] else None


def _original(flow: Flow) -> bytes:
    shift = 0 if len(flow.source) == 4 else 2
    ip = nested(TUPLE_IP, attribute(1 + shift, flow.source), attribute(2 + shift, flow.destination))
    ports = [attribute(kind, port.to_bytes(2, "big")) for kind, port in ((2, flow.source_port), (3, flow.port))]
    return nested(TUPLE_ORIG, ip, nested(TUPLE_PROTO, attribute(PROTO_NUM, bytes((flow.protocol,))), *ports))


def _only(protocol: int) -> bytes:
    """Return the filter that lets the kernel list one protocol alone."""
    wanted = nested(TUPLE_ORIG, nested(TUPLE_PROTO, attribute(PROTO_NUM, bytes((protocol,)))))
    flags = struct.pack("=I", FLAG_PROTO_NUM), struct.pack("=I", 0)
    return wanted + nested(FILTER, attribute(FILTER_ORIG_FLAGS, flags[0]), attribute(FILTER_REPLY_FLAGS, flags[1]))
