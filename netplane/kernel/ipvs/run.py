"""Change and read the virtual servers of a network namespace over one generic netlink socket that is kept open."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Protocol

from netplane.kernel.errors import KernelError, from_os
from netplane.kernel.ipvs import listing, wire
from netplane.kernel.ipvs.objects import Change, Connection, Destination, Held, Load, Virtual

NETLINK_GENERIC = 16
SOL_NETLINK, NETLINK_CAP_ACK = 270, 10
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
SEND_BUFFER, RECEIVE_BUFFER = 16 << 20, 16 << 20
SEND_SIZE = 1 << 19
RECEIVE_SIZE = 1 << 18
ANSWER_TIMEOUT = 30.0
DUMP_ATTEMPTS = 20
SERVERS, CONNECTIONS = "/proc/thread-self/net/ip_vs", "/proc/thread-self/net/ip_vs_conn"
LISTING_SIZE = 1 << 16
GONE = frozenset({errno.ENOENT, errno.ESRCH})
"""What the kernel answers when asked to remove what is not there."""


class Kernel(Protocol):
    """What a backend needs of IPVS; `Socket` is the kernel's, `fake.Kernel` stands in."""

    def commit(self, changes: Sequence[Change]) -> None:
        """Make the changes in order, each on its own. All are tried; the first refusal is raised afterwards."""

    def servers(self) -> dict[Virtual, Held]:
        """Return all virtual servers with their destinations."""

    def loads(self, virtual: Virtual) -> dict[Destination, Load]:
        """Return the destinations of one virtual server; none when there is no such server."""

    def listing(self) -> dict[Virtual, dict[Destination, Load]]:
        """Return the destinations of all virtual servers; of those known by mark, if there are any. For any thread."""

    def stamp(self) -> int:
        """Return a number that differs when servers or destinations do, connections apart. Cheap, for any thread."""

    def connections(self, protocol: int) -> list[Connection]:
        """Return the connections there are of a protocol."""


class Socket:
    """A socket of the network namespace in which it was made. Needs CAP_NET_ADMIN there, and the module ip_vs."""

    def __init__(self) -> None:
        """Open it. KernelError with ENOENT means that the kernel has no IPVS."""
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_GENERIC)
            self._socket.bind((0, 0))
        except OSError as error:
            raise from_os(error, "open a generic netlink socket") from error
        for option, size in ((SO_SNDBUFFORCE, SEND_BUFFER), (SO_RCVBUFFORCE, RECEIVE_BUFFER)):
            with contextlib.suppress(PermissionError):
                self._socket.setsockopt(socket.SOL_SOCKET, option, size)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        self._socket.settimeout(ANSWER_TIMEOUT)
        self._sequence = 0
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._socket)
            self._family = self._find_family()
            # Which namespace's they are is settled by opening them.
            self._files = {path: stack.enter_context(_opened(path)) for path in (SERVERS, CONNECTIONS)}
            self._closing = stack.pop_all()

    def close(self) -> None:
        """Close it."""
        self._closing.close()

    def commit(self, changes: Sequence[Change]) -> None:
        """Make the changes in order. All are tried; the first refusal is raised afterwards."""
        failure: KernelError | None = None
        for part in _parts([wire.change(change) for change in changes]):
            found = self._commit(changes[part.start : part.stop], part.messages)
            failure = failure or found
        if failure is not None:
            raise failure

    def servers(self) -> dict[Virtual, Held]:
        """Return all virtual servers with their destinations."""
        bodies = self._dump(wire.GET_SERVICE, b"", "list virtual servers")
        # A dump of each one's destinations would cost ten times as much as all of them in one listing.
        loads = self.listing()
        return {one: Held(how, loads.get(one, {})) for one, how in map(wire.read_server, bodies)}

    def loads(self, virtual: Virtual) -> dict[Destination, Load]:
        """Return the destinations of one virtual server; none when there is no such server."""
        wanted = wire.nested(wire.SERVICE, wire.virtual(virtual))
        bodies = self._dump(wire.GET_DESTINATION, wanted, f"list destinations of {virtual}")
        return dict(map(wire.read_destination, bodies))

    def listing(self) -> dict[Virtual, dict[Destination, Load]]:
        """Return the destinations of all virtual servers; of those known by mark, if there are any. For any thread."""
        return listing.read(_whole(self._files[SERVERS], SERVERS).decode("ascii"))

    def stamp(self) -> int:
        """Return a number that differs when servers or destinations do, connections apart. Cheap, for any thread."""
        return listing.stamp(_whole(self._files[SERVERS], SERVERS))

    def connections(self, protocol: int) -> list[Connection]:
        """Return the connections there are of a protocol."""
        return listing.connections(_whole(self._files[CONNECTIONS], CONNECTIONS).decode("ascii"), protocol)

    def _find_family(self) -> int:
        tried = "look for IPVS in the kernel"
        self._sequence += 1
        self._send(wire.family_request("IPVS", self._sequence))
        found: int | None = None
        for _ in range(2):  # the answer, and an acknowledgement that may follow it
            for kind, _, sequence, body in _split(self._receive(tried)):
                if sequence != self._sequence:
                    continue
                if kind == wire.ERROR:
                    raise KernelError(-struct.unpack_from("=i", body)[0], tried, "the kernel module ip_vs is missing")
                found = wire.read_family(body)
            if found is not None:
                return found
        raise KernelError(errno.EPROTO, tried)

    def _commit(self, changes: Sequence[Change], messages: Sequence[tuple[int, bytes]]) -> KernelError | None:
        first = self._sequence + 1
        last = self._sequence = self._sequence + len(messages)
        packed = [
            wire.message(self._family, command, wire.ACK if first + at == last else 0, first + at, body)
            for at, (command, body) in enumerate(messages)
        ]
        self._send(b"".join(packed))
        failure: KernelError | None = None
        while True:
            for kind, _, sequence, body in _split(self._receive(f"make {len(changes)} changes of virtual servers")):
                if kind != wire.ERROR or not first <= sequence <= last:
                    continue
                number = -struct.unpack_from("=i", body)[0]
                change = changes[sequence - first]
                if number and failure is None and not (change.verb == "remove" and number in GONE):
                    failure = KernelError(number, str(change))
                if sequence == last:
                    return failure

    def _dump(self, command: int, body: bytes, tried: str) -> list[bytes]:
        """Return the bodies of a dump's messages. The kernel answers with none about what is not there."""
        for _ in range(DUMP_ATTEMPTS):
            self._sequence += 1
            self._send(wire.message(self._family, command, wire.DUMP, self._sequence, body))
            bodies, number = self._dumped(tried)
            if not number:
                return bodies
            if number != errno.EINTR:
                raise KernelError(number, tried)
        raise KernelError(errno.EINTR, tried, f"others changed it during each of {DUMP_ATTEMPTS} attempts")

    def _dumped(self, tried: str) -> tuple[list[bytes], int]:
        bodies: list[bytes] = []
        is_torn = False
        while True:
            for kind, flags, sequence, body in _split(self._receive(tried)):
                if sequence != self._sequence:
                    continue
                is_torn |= bool(flags & wire.DUMP_INTERRUPTED)
                if kind in (wire.ERROR, wire.DONE):
                    number = -struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
                    return bodies, number or (errno.EINTR if is_torn else 0)
                bodies.append(body)

    def _send(self, data: bytes) -> None:
        try:
            self._socket.send(data)
        except OSError as error:
            raise from_os(error, "send to IPVS") from error

    def _receive(self, tried: str) -> bytes:
        try:
            return self._socket.recv(RECEIVE_SIZE)
        except TimeoutError as error:
            raise KernelError(errno.ETIMEDOUT, tried, f"no answer within {ANSWER_TIMEOUT:g} s") from error
        except OSError as error:
            raise from_os(error, tried) from error


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    try:
        found = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise from_os(error, f"open {path}") from error
    try:
        yield found
    finally:
        os.close(found)


def _whole(file: int, path: str) -> bytes:
    """Read a listing of the kernel from its beginning."""
    parts: list[bytes] = []
    at = 0
    try:
        while part := os.pread(file, LISTING_SIZE, at):
            parts.append(part)
            at += len(part)
    except OSError as error:
        raise from_os(error, f"read {path}") from error
    return b"".join(parts)


class _Part:
    """So many messages as one send takes, and which they are."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.messages: list[tuple[int, bytes]] = []

    @property
    def stop(self) -> int:
        return self.start + len(self.messages)


def _parts(messages: Sequence[tuple[int, bytes]]) -> Iterator[_Part]:
    part, size = _Part(0), 0
    for one in messages:
        if size > SEND_SIZE:
            yield part
            part, size = _Part(part.stop), 0
        part.messages.append(one)
        size += len(one[1]) + wire.HEADER.size + 4
    if part.messages:
        yield part


def _split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Walk over netlink messages: type, flags, sequence and body."""
    at = 0
    while at + wire.HEADER.size <= len(data):
        size, kind, flags, sequence, _ = wire.HEADER.unpack_from(data, at)
        yield kind, flags, sequence, data[at + wire.HEADER.size : at + size]
        at += (size + 3) & ~3
