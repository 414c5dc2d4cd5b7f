"""Hash tables of the legacy variant as the kernel gives them: whole, in one call, and not parsed."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from netplane.kernel.errors import KernelError

GET_INFO, GET_ENTRIES = 64, 65
"""IPT_SO_GET_INFO and IPT_SO_GET_ENTRIES, and those of IPv6 (linux/netfilter_ipv4/ip_tables.h)."""
_INFO = struct.Struct("=32sI5I5III")
_ASKED = struct.Struct("=32sI4x")
_COUNTERS = 16
_LENGTH = struct.Struct("=H")
_ATTEMPTS = 5
_libc = ctypes.CDLL(None, use_errno=True)


class _Entry(NamedTuple):
    """Where an entry (ipt_entry, ip6t_entry) has its length and its counters."""

    length: int
    counters: int


_ENTRIES = {socket.AF_INET: _Entry(90, 96), socket.AF_INET6: _Entry(142, 152)}


def info(opened: socket.socket, table: str) -> tuple[int, ...]:
    """Return a table's hooks, number of rules and size, in this order; () when there is none."""
    buffer = ctypes.create_string_buffer(_INFO.pack(table.encode(), *[0] * 13), _INFO.size)
    number = _ask(opened, GET_INFO, buffer)
    if number in (errno.ENOENT, errno.ENOPROTOOPT):
        return ()
    if number:
        raise KernelError(number, f"look at {_name(opened, table)}")
    return tuple(_INFO.unpack(buffer.raw)[1:])


class Hasher:
    """Hashes one table again and again; all of it but its counters, others' rules included."""

    def __init__(self, opened: socket.socket, table: str) -> None:
        """Take a raw socket of a family. Nothing is read yet."""
        self._socket = opened
        self._table = table
        self._former = 0
        self._pieces = struct.Struct("")
        # Kept from look to look: to get so much memory from the kernel costs as much as to have it filled.
        self._buffer = ctypes.create_string_buffer(_ASKED.size)

    def read(self) -> int:
        """Return the hash of now; 0 when there is no such table."""
        content = self._content()
        found = self._hash(content)
        if found != self._former:
            # Its entries may stand elsewhere now: leave their counters out, and not others' bytes.
            self._pieces = struct.Struct("=" + "".join(_pieces(content, _ENTRIES[self._socket.family])))
            found = self._former = self._hash(content)
        return found

    def _hash(self, content: memoryview) -> int:
        return hash(self._pieces.unpack(content)) if self._pieces.size == len(content) else -1

    def _content(self) -> memoryview:
        for _ in range(_ATTEMPTS):
            found = info(self._socket, self._table)
            if not found:
                return memoryview(b"")
            size = found[-1]
            if len(self._buffer) != _ASKED.size + size:
                self._buffer = ctypes.create_string_buffer(_ASKED.size + size)
            _ASKED.pack_into(self._buffer, 0, self._table.encode(), size)
            number = _ask(self._socket, GET_ENTRIES, self._buffer)
            if not number:
                return memoryview(self._buffer)[_ASKED.size :]
            if number != errno.EAGAIN:  # Else it has another size already.
                raise KernelError(number, f"read {_name(self._socket, self._table)}")
        raise KernelError(errno.EAGAIN, f"read {_name(self._socket, self._table)}", "it changes all the time")


def _pieces(content: memoryview, entry: _Entry) -> Iterator[str]:
    """Yield what struct calls the bytes between the counters."""
    at = done = 0
    while at < len(content):
        counters = at + entry.counters
        yield f"{counters - done}s{_COUNTERS}x"
        done = counters + _COUNTERS
        (length,) = _LENGTH.unpack_from(content, at + entry.length)
        if length < entry.counters + _COUNTERS:
            raise KernelError(errno.EPROTO, "read iptables", f"an entry of {length} bytes at {at}")
        at += length
    yield f"{len(content) - done}s"


def _ask(opened: socket.socket, what: int, buffer: ctypes.Array[ctypes.c_char]) -> int:
    """Ask for an option whose buffer says what is asked for; return the error number."""
    size = ctypes.c_uint32(len(buffer))
    level = socket.IPPROTO_IPV6 if opened.family == socket.AF_INET6 else socket.IPPROTO_IP
    return ctypes.get_errno() if _libc.getsockopt(opened.fileno(), level, what, buffer, ctypes.byref(size)) else 0


def _name(opened: socket.socket, table: str) -> str:
    return f"table {table} of {'ip6tables' if opened.family == socket.AF_INET6 else 'iptables'}"
