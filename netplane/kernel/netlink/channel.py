"""Send netlink messages and read what the kernel answers, over a socket that is kept open."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Iterator
from typing import TypeVar

from netplane.kernel.errors import KernelError, from_os
from netplane.kernel.netlink import wire

T = TypeVar("T")

ROUTE, NETFILTER, GENERIC = 0, 12, 16
SOL_NETLINK = 270
ADD_MEMBERSHIP, CAP_ACK, EXT_ACK, STRICT_CHECK = 1, 10, 11, 12
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
RECEIVE_SIZE = 1 << 17
"""A dump's parts have 32 KiB at most, and an answer repeats no more than the header of what it answers."""
ANSWER_TIMEOUT = 30
DUMP_ATTEMPTS = 20
LAST_NUMBER = 0x7FFFFFFF


class Channel:
    """A netlink socket of the network namespace in which it was made. For one thread at a time."""

    def __init__(
        self, protocol: int, tried: str, *, timeout: int = ANSWER_TIMEOUT, buffers: tuple[int, int] = (0, 0)
    ) -> None:
        """Open it; `buffers` are the bytes that wait to be sent and to be read at most, 0 the system's own.

        Larger buffers take CAP_NET_ADMIN in the first user namespace. Without it the usual limits hold.
        """
        self._timeout = timeout
        self._last = 0
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        except OSError as error:
            raise from_os(error, tried) from error
        try:
            self._set_up(buffers)
        except OSError as error:
            self._socket.close()
            raise from_os(error, tried) from error
        self.port: int = self._socket.getsockname()[0]
        """The netlink port, by which events tell our changes from others'."""

    def _set_up(self, buffers: tuple[int, int]) -> None:
        self._socket.bind((0, 0))
        for option, size in zip((SO_SNDBUFFORCE, SO_RCVBUFFORCE), buffers, strict=True):
            if size:
                with contextlib.suppress(PermissionError):
                    self._socket.setsockopt(socket.SOL_SOCKET, option, size)
        self.choose(CAP_ACK)
        self.choose(EXT_ACK)
        # The kernel's own limit: Python's would ask poll(2) before each call.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", self._timeout, 0))

    def choose(self, option: int) -> None:
        """Switch an option of netlink on."""
        self._socket.setsockopt(SOL_NETLINK, option, 1)

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def numbers(self, count: int = 1) -> int:
        """Take the sequence numbers of so many messages, which follow one another; return the first."""
        first = self._last + 1 if self._last + count <= LAST_NUMBER else 1
        self._last = first + count - 1
        return first

    def send(self, data: bytes, tried: str) -> None:
        """Send whole messages."""
        try:
            self._socket.send(data)
        except OSError as error:
            raise from_os(error, tried) from error

    def receive(self, tried: str) -> bytes:
        """Return the next messages; KernelError with ETIMEDOUT when none come."""
        try:
            return self._socket.recv(RECEIVE_SIZE)
        except BlockingIOError as error:
            raise KernelError(errno.ETIMEDOUT, tried, f"no answer within {self._timeout} s") from error
        except OSError as error:
            raise from_os(error, tried) from error

    def answers(self, first: int, last: int, tried: str) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield type, flags, sequence number and body of what answers the messages from `first` to `last`.

        It goes on until nothing more comes, and then raises: the caller knows which answer is the end.
        """
        while True:
            for answer in wire.split(self.receive(tried)):
                if first <= answer[2] <= last:
                    yield answer

    def dump(self, request: wire.Message, tried: str) -> list[bytes]:
        """Return the bodies of a dump's messages, all of one state of the kernel's."""
        return self.dump_of(request, tried, bytes)

    def dump_of(self, request: wire.Message, tried: str, read: Callable[[bytes], T]) -> list[T]:
        """Do as `dump` does, and return what `read` makes of each body."""
        for _ in range(DUMP_ATTEMPTS):
            number = self.numbers()
            self.send(wire.packed(request, number), tried)
            found = self._dumped(number, tried, read)
            if found is not None:
                return found
        raise KernelError(errno.EINTR, tried, f"others changed it during each of {DUMP_ATTEMPTS} attempts")

    def _dumped(self, number: int, tried: str, read: Callable[[bytes], T]) -> list[T] | None:
        """Read a dump to its end; None when others changed what it lists meanwhile."""
        found: list[T] = []
        is_torn = False
        for kind, flags, _, body in self.answers(number, number, tried):
            is_torn |= bool(flags & wire.DUMP_INTERRUPTED)
            if kind in (wire.ERROR, wire.DONE):
                refused = wire.refusal(body)
                if refused not in (0, errno.EINTR):
                    raise KernelError(refused, tried)
                return None if is_torn or refused else found
            found.append(read(body))
        return None
