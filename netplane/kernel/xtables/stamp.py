"""Tell cheaply whether the tables may have changed, without listing them."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from typing import Protocol

from netplane.kernel.errors import KernelError, from_os
from netplane.kernel.nft.run import Socket
from netplane.kernel.xtables.objects import Command, Variant

GET_INFO = 64
"""IPT_SO_GET_INFO and IP6T_SO_GET_INFO (linux/netfilter_ipv4/ip_tables.h)."""
_INFO = struct.Struct("=32sI5I5III")
_KINDS: dict[Command, tuple[int, int]] = {
    "iptables": (socket.AF_INET, socket.IPPROTO_IP),
    "ip6tables": (socket.AF_INET6, socket.IPPROTO_IPV6),
}
_libc = ctypes.CDLL(None, use_errno=True)

Stamp = tuple[int, ...]


class Clock(Protocol):
    """What gives stamps: two that are equal mean, as far as it can tell, that nothing changed between them."""

    def read(self) -> Stamp:
        """Return the stamp of now."""

    def close(self) -> None:
        """Let go of the kernel."""


def opened(variant: Variant, tables: tuple[str, ...]) -> Clock:
    """Open the clock of a variant in the network namespace of this thread."""
    return _Generation() if variant == "nft" else _Sizes(tables)


class _Generation:
    """nf_tables counts its transactions: any change by anybody is another stamp."""

    def __init__(self) -> None:
        self._socket = Socket()

    def read(self) -> Stamp:
        return (self._socket.generation(),)

    def close(self) -> None:
        self._socket.close()


class _Sizes:
    """x_tables tells each table's hooks, number of rules and size: all but the exchange of one rule for its like."""

    def __init__(self, tables: tuple[str, ...]) -> None:
        self._tables = tables
        self._sockets: dict[Command, socket.socket] = {}
        for command, (kind, _) in _KINDS.items():
            try:
                self._sockets[command] = socket.socket(kind, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW)
            except OSError as error:
                if error.errno == errno.EAFNOSUPPORT and kind == socket.AF_INET6:
                    continue
                self.close()
                raise from_os(error, "open a socket to look at iptables (it takes CAP_NET_RAW)") from error

    def read(self) -> Stamp:
        found: list[int] = []
        for command, opened in self._sockets.items():
            for table in self._tables:
                found += _info(opened, command, table)
        return tuple(found)

    def close(self) -> None:
        for opened in self._sockets.values():
            opened.close()


def _info(opened: socket.socket, command: Command, table: str) -> tuple[int, ...]:
    buffer = ctypes.create_string_buffer(_INFO.pack(table.encode(), *[0] * 13), _INFO.size)
    size = ctypes.c_uint32(_INFO.size)
    if _libc.getsockopt(opened.fileno(), _KINDS[command][1], GET_INFO, buffer, ctypes.byref(size)):
        number = ctypes.get_errno()
        if number in (errno.ENOENT, errno.ENOPROTOOPT):
            return ()
        raise KernelError(number, f"look at table {table} of {command}")
    return tuple(_INFO.unpack(buffer.raw)[1:])
