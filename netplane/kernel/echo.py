"""Ask other machines by ICMP echo: do they answer, does a packet of some size arrive whole?"""

from __future__ import annotations

import errno
import os
import socket
import struct

from netplane.kernel.errors import from_os

ECHO = {4: (8, 0), 16: (128, 129)}
"""Question and answer, by the length of an address."""
IP_HEADER = {4: 20, 16: 40}
HEADER = struct.Struct(">BBHHH")
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PROBE = 10, 23, 3
"""PROBE: not to be fragmented, and whatever the kernel has heard of the path so far does not matter."""
SO_BINDTOIFINDEX = 62
SOL_RAW, ICMP_FILTER, ICMPV6_FILTER = 255, 1, 1
SMALLEST = {4: IP_HEADER[4] + HEADER.size, 16: IP_HEADER[16] + HEADER.size}
UNSENT = frozenset({errno.EMSGSIZE, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.ENOBUFS, errno.EAGAIN})


class Echo:
    """A raw socket of one family (`width` 4 or 16) in the namespace where it was made. Needs CAP_NET_RAW."""

    def __init__(self, width: int, *, source: bytes = b"", link: int = 0) -> None:
        """Open it; what it sends has this source, where one is given, and leaves by the link of this index."""
        self._width = width
        self._identity = int.from_bytes(os.urandom(2), "big")
        family, protocol = (
            (socket.AF_INET, socket.IPPROTO_ICMP) if width == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
        )
        try:
            self._socket = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
            if width == 4:
                self._socket.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PROBE)
                self._socket.setsockopt(SOL_RAW, ICMP_FILTER, struct.pack("=I", ~1 & 0xFFFFFFFF))
            else:
                self._socket.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PROBE)
                passed = [0xFFFFFFFF] * 8
                passed[ECHO[16][1] >> 5] &= ~(1 << (ECHO[16][1] & 31))
                self._socket.setsockopt(socket.IPPROTO_ICMPV6, ICMPV6_FILTER, struct.pack("=8I", *passed))
            if link:
                self._socket.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, link)
            if source:
                self._socket.bind((socket.inet_ntop(family, source), 0))
        except OSError as error:
            raise from_os(error, "open a raw socket for ICMP") from error

    def fileno(self) -> int:
        """Return the number of the open file; it is readable when there may be answers."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def ask(self, address: bytes, size: int, sequence: int) -> bool:
        """Send a question that is `size` bytes with its IP header; tell whether it has left."""
        body = bytes(size - SMALLEST[self._width])
        kind = ECHO[self._width][0]
        head = HEADER.pack(kind, 0, 0, self._identity, sequence)
        if self._width == 4:  # IPv6's is the kernel's to compute, over the addresses, too
            head = HEADER.pack(kind, 0, _checksum(head + body), self._identity, sequence)
        family = socket.AF_INET if self._width == 4 else socket.AF_INET6
        try:
            self._socket.sendto(head + body, (socket.inet_ntop(family, address), 0))
        except OSError as error:
            if error.errno in UNSENT:
                return False
            raise from_os(error, f"send an ICMP echo of {size} bytes") from error
        return True

    def answers(self) -> list[int]:
        """Return the sequence numbers of the questions that were answered since the last call."""
        found: list[int] = []
        while True:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return found
            except OSError:
                continue  # of the answer to another's question: unreachable, too large
            start = (data[0] & 0xF) * 4 if self._width == 4 and data else 0
            if len(data) < start + HEADER.size:
                continue
            kind, _, _, identity, sequence = HEADER.unpack_from(data, start)
            if kind == ECHO[self._width][1] and identity == self._identity:
                found.append(sequence)


def _checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    data += bytes(len(data) & 1)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
