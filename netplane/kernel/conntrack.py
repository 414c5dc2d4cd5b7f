"""List tracked connections and delete single ones by their exact tuple, by ctnetlink packed by hand. Never all at once.

Which connections have to go is for others to decide. The kernel deletes every entry when it is asked to delete without
a tuple, so there is no such function here.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from netplane.kernel.errors import KernelError, from_os

NETLINK_NETFILTER = 12
SO_RCVBUFFORCE = 33
RECEIVE_BUFFER, RECEIVE_SIZE = 16 << 20, 1 << 18
ANSWER_TIMEOUT = 30.0
DUMP_ATTEMPTS = 5
AT_ONCE = 200

SUBSYSTEM = 1 << 8
CT_NEW, CT_GET, CT_DELETE = 0, 1, 2
TUPLE_ORIG, TUPLE_REPLY, ZONE, FILTER = 1, 2, 18, 25
TUPLE_IP, TUPLE_PROTO = 1, 2
PROTO_NUM, PROTO_SRC_PORT, PROTO_DST_PORT = 1, 2, 3
FILTER_ORIG_FLAGS, FILTER_REPLY_FLAGS = 1, 2
FLAG_PROTO_NUM = 1 << 3

NLMSG_ERROR, NLMSG_DONE = 2, 3
REQUEST, ACK, DUMP, DUMP_INTR, NESTED = 0x1, 0x4, 0x300, 0x10, 0x8000
AF_INET, AF_INET6 = 2, 10

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_BODY = _HEADER.size + 4
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
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
            self._socket.bind((0, 0))
        except OSError as error:
            raise from_os(error, "open a connection tracking socket") from error
        with contextlib.suppress(PermissionError):
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        self._socket.settimeout(ANSWER_TIMEOUT)
        self._sequence = 0

    def close(self) -> None:
        """Close it."""
        self._socket.close()

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
        first = self._sequence + 1
        parts = []
        for flow in flows:
            family = AF_INET if len(flow.source) == 4 else AF_INET6
            parts.append(self._packed(CT_DELETE, ACK, struct.pack("=BBH", family, 0, 0) + _original(flow)))
        answers = self._exchange(b"".join(parts), first, len(flows))
        refused = [code for code in answers if code not in (0, errno.ENOENT)]
        if refused:
            raise KernelError(refused[0], f"delete {len(flows)} tracked connections")
        return answers.count(0)

    def _exchange(self, data: bytes, first: int, count: int) -> list[int]:
        answers: list[int] = []
        self._send(data, "delete tracked connections")
        while len(answers) < count:
            for kind, _, sequence, body in _split(self._receive("delete tracked connections")):
                if kind == NLMSG_ERROR and sequence >= first:
                    answers.append(-struct.unpack_from("=i", body)[0])
        return answers

    def _dump(self, body: bytes) -> list[Flow]:
        for _ in range(DUMP_ATTEMPTS):
            message = self._packed(CT_GET, DUMP, body)
            self._send(message, "list tracked connections")
            found = self._dumped(self._sequence)
            if found is not None:
                return found
        raise KernelError(errno.EINTR, "list tracked connections", f"interrupted {DUMP_ATTEMPTS} times")

    def _dumped(self, wanted: int) -> list[Flow] | None:
        found: list[Flow] = []
        is_torn = False
        while True:
            for kind, flags, sequence, body in _split(self._receive("list tracked connections")):
                if sequence != wanted:
                    continue
                is_torn |= bool(flags & DUMP_INTR)
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    code = struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
                    if code:
                        raise KernelError(-code, "list tracked connections")
                    return None if is_torn else found
                flow = read(body)
                if flow is not None:
                    found.append(flow)

    def _packed(self, kind: int, flags: int, body: bytes) -> bytes:
        self._sequence = (self._sequence + 1) & 0x7FFFFFFF
        size = _HEADER.size + len(body)
        return _HEADER.pack(size, SUBSYSTEM | kind, REQUEST | flags, self._sequence, 0) + body

    def _send(self, data: bytes, tried: str) -> None:
        try:
            self._socket.send(data)
        except OSError as error:
            raise from_os(error, tried) from error

    def _receive(self, tried: str) -> bytes:
        try:
            return self._socket.recv(RECEIVE_SIZE)
        except TimeoutError as error:
            raise KernelError(errno.ETIMEDOUT, tried, f"no answer within {ANSWER_TIMEOUT:g} s") from error
        except OSError as error:
            raise from_os(error, tried) from error


def read(body: bytes) -> Flow | None:
    """Read one entry's message, without its netlink header; None for other zones and protocols without ports."""
    original = reply = None
    for kind, start, stop in _attributes(body, 4, len(body)):
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
    for kind, a, b in _attributes(body, start, stop):
        for part, c, d in _attributes(body, a, b):
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
    ip = _nested(TUPLE_IP, _attribute(1 + shift, flow.source), _attribute(2 + shift, flow.destination))
    ports = [_attribute(kind, port.to_bytes(2, "big")) for kind, port in ((2, flow.source_port), (3, flow.port))]
    return _nested(TUPLE_ORIG, ip, _nested(TUPLE_PROTO, _attribute(PROTO_NUM, bytes((flow.protocol,))), *ports))


def _only(protocol: int) -> bytes:
    """Return the filter that lets the kernel list one protocol alone."""
    wanted = _nested(TUPLE_ORIG, _nested(TUPLE_PROTO, _attribute(PROTO_NUM, bytes((protocol,)))))
    flags = struct.pack("=I", FLAG_PROTO_NUM), struct.pack("=I", 0)
    return wanted + _nested(FILTER, _attribute(FILTER_ORIG_FLAGS, flags[0]), _attribute(FILTER_REPLY_FLAGS, flags[1]))


def _attribute(kind: int, payload: bytes) -> bytes:
    return _ATTRIBUTE.pack(len(payload) + 4, kind) + payload + bytes(-len(payload) & 3)


def _nested(kind: int, *parts: bytes) -> bytes:
    return _attribute(kind | NESTED, b"".join(parts))


def _attributes(body: bytes, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    while start + 4 <= stop:
        size, kind = _ATTRIBUTE.unpack_from(body, start)
        if size < 4:
            return
        yield kind & 0x3FFF, start + 4, start + size
        start += (size + 3) & ~3


def _split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(data):
        size, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
        yield kind, flags, sequence, data[at + _HEADER.size : at + size]
        at += (size + 3) & ~3
