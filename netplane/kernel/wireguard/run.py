"""Change and read WireGuard devices of a network namespace over one generic netlink socket that is kept open."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Protocol

from netplane.kernel.errors import KernelError, from_os
from netplane.kernel.ipvs import wire as generic
from netplane.kernel.wireguard import wire
from netplane.kernel.wireguard.objects import Change, Device, Identity

NETLINK_GENERIC = 16
SOL_NETLINK, NETLINK_CAP_ACK = 270, 10
RECEIVE_SIZE = 1 << 18
ANSWER_TIMEOUT = 10.0
DUMP_ATTEMPTS = 20


class WireGuard(Protocol):
    """What is needed of WireGuard; `Socket` is the kernel's, `fake.Kernel` stands in."""

    def identify(self, index: int, mine: Identity) -> None:
        """Set a device's private key and port. Sessions under another key are renewed with the next packet."""

    def commit(self, index: int, changes: Sequence[Change]) -> None:
        """Make the changes in order; KernelError at the first that is refused."""

    def device(self, index: int) -> Device:
        """Return what a device holds; KernelError with ENODEV without it."""


class Socket:
    """A socket of the network namespace in which it was made. Needs CAP_NET_ADMIN there."""

    def __init__(self) -> None:
        """Open it. KernelError with ENOENT means that the kernel has no WireGuard (or none is loaded yet)."""
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_GENERIC)
            self._socket.bind((0, 0))
        except OSError as error:
            raise from_os(error, "open a generic netlink socket") from error
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        self._socket.settimeout(ANSWER_TIMEOUT)
        self._sequence = 0
        try:
            self._family = self._find_family()
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def identify(self, index: int, mine: Identity) -> None:
        """Set a device's private key and port. Sessions under another key are renewed with the next packet."""
        self._set(wire.identity(index, mine), f"set key and port {mine.port} of link {index}")

    def commit(self, index: int, changes: Sequence[Change]) -> None:
        """Make the changes in order; KernelError at the first that is refused."""
        for body in wire.changes(index, changes):
            self._set(body, f"make {len(changes)} changes of WireGuard peers, the first: {changes[0]}")

    def device(self, index: int) -> Device:
        """Return what a device holds; KernelError with ENODEV without it."""
        return wire.read(self._dump(wire.request(index), f"list WireGuard peers of link {index}"), index)

    def _find_family(self) -> int:
        tried = "look for WireGuard in the kernel"
        self._sequence += 1
        self._send(generic.family_request(wire.FAMILY, self._sequence), tried)
        for kind, _, body in self._answers(tried):
            if kind == generic.ERROR:
                raise KernelError(-struct.unpack_from("=i", body)[0], tried, "the kernel module wireguard is missing")
            found = generic.read_family(body)
            if found is not None:
                return found
        raise KernelError(errno.EPROTO, tried)

    def _set(self, body: bytes, tried: str) -> None:
        self._sequence += 1
        self._send(generic.message(self._family, wire.SET_DEVICE, generic.ACK, self._sequence, body), tried)
        for kind, _, answer in self._answers(tried):
            if kind == generic.ERROR:
                number = -struct.unpack_from("=i", answer)[0]
                if number:
                    raise KernelError(number, tried)
                return

    def _dump(self, body: bytes, tried: str) -> list[bytes]:
        for _ in range(DUMP_ATTEMPTS):
            self._sequence += 1
            self._send(generic.message(self._family, wire.GET_DEVICE, generic.DUMP, self._sequence, body), tried)
            bodies: list[bytes] = []
            is_torn = False
            for kind, flags, answer in self._answers(tried):
                is_torn |= bool(flags & generic.DUMP_INTERRUPTED)
                if kind in (generic.ERROR, generic.DONE):
                    number = -struct.unpack_from("=i", answer)[0] if len(answer) >= 4 else 0
                    if number and number != errno.EINTR:
                        raise KernelError(number, tried)
                    is_torn |= number == errno.EINTR
                    break
                bodies.append(answer)
            if not is_torn:
                return bodies
        raise KernelError(errno.EINTR, tried, f"others changed it during each of {DUMP_ATTEMPTS} attempts")

    def _send(self, data: bytes, tried: str) -> None:
        try:
            self._socket.send(data)
        except OSError as error:
            raise from_os(error, tried) from error

    def _answers(self, tried: str) -> Iterator[tuple[int, int, bytes]]:
        """Yield type, flags and body of the messages that answer the last request; the caller knows the end."""
        while True:
            try:
                data = self._socket.recv(RECEIVE_SIZE)
            except TimeoutError as error:
                raise KernelError(errno.ETIMEDOUT, tried, f"no answer within {ANSWER_TIMEOUT:g} s") from error
            except OSError as error:
                raise from_os(error, tried) from error
            at = 0
            while at + generic.HEADER.size <= len(data):
                size, kind, flags, sequence, _ = generic.HEADER.unpack_from(data, at)
                if sequence == self._sequence:
                    yield kind, flags, data[at + generic.HEADER.size : at + size]
                at += (size + 3) & ~3
