"""Change and read the virtual servers of a network namespace over one generic netlink socket that is kept open."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from typing import Protocol

from netplane.kernel.errors import KernelError, from_os
from netplane.kernel.ipvs import listing, wire
from netplane.kernel.ipvs.objects import Change, Connection, Destination, Held, Load, Virtual
from netplane.kernel.netlink import generic
from netplane.kernel.netlink import wire as netlink

SEND_BUFFER, RECEIVE_BUFFER = 16 << 20, 16 << 20
SEND_SIZE = 1 << 19
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
        with contextlib.ExitStack() as stack:
            family = generic.Family("IPVS", module="ip_vs", buffers=(SEND_BUFFER, RECEIVE_BUFFER))
            self._family = stack.enter_context(contextlib.closing(family))
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
        bodies = self._family.dump(wire.GET_SERVICE, b"", "list virtual servers")
        # A dump of each one's destinations would cost ten times as much as all of them in one listing.
        loads = self.listing()
        return {one: Held(how, loads.get(one, {})) for one, how in map(wire.read_server, bodies)}

    def loads(self, virtual: Virtual) -> dict[Destination, Load]:
        """Return the destinations of one virtual server; none when there is no such server."""
        wanted = netlink.nested(wire.SERVICE, wire.virtual(virtual))
        bodies = self._family.dump(wire.GET_DESTINATION, wanted, f"list destinations of {virtual}")
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

    def _commit(self, changes: Sequence[Change], messages: Sequence[tuple[int, bytes]]) -> KernelError | None:
        tried = f"make {len(changes)} changes of virtual servers"
        first = self._family.channel.numbers(len(messages))
        last = first + len(messages) - 1
        packed = [
            netlink.packed(self._family.message(command, netlink.ACK if number == last else 0, body), number)
            for number, (command, body) in enumerate(messages, first)
        ]
        self._family.channel.send(b"".join(packed), tried)
        failure: KernelError | None = None
        for kind, _, sequence, body in self._family.channel.answers(first, last, tried):
            if kind != netlink.ERROR:
                continue
            number = netlink.refusal(body)
            change = changes[sequence - first]
            if number and failure is None and not (change.verb == "remove" and number in GONE):
                failure = KernelError(number, str(change))
            if sequence == last:
                break
        return failure


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
        size += len(one[1]) + netlink.HEADER.size + generic.HEADER_SIZE
    if part.messages:
        yield part
