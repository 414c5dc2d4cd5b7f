"""Carry out commands in a network namespace and list what is there, over one kept-open rtnetlink socket."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Protocol, TypeVar

from netplane.kernel import netns
from netplane.kernel.errors import KernelError
from netplane.kernel.link import decode, encode, wire
from netplane.kernel.link.diff import Paths
from netplane.kernel.link.objects import Address, Command, Forward, Link, Neighbour, Program, Route
from netplane.kernel.netlink import channel
from netplane.kernel.netlink import wire as netlink

T = TypeVar("T")

EXTACK_MESSAGE = 1
ANSWER_TIMEOUT = 10
BATCH = 64
"""Commands per send: even if all fail, their answers fit the socket's receive buffer."""
GONE = frozenset({errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL})
"""What the kernel answers when asked to remove what is not there."""


class Links(Protocol):
    """The links of one network namespace: the kernel's (`Socket`) or a stand-in (`fake.Fake`)."""

    def commit(self, commands: Sequence[Command]) -> None:
        """Do the commands in order. All are tried; the first refusal is raised afterwards."""

    def link(self, which: str | int) -> Link | None:
        """Return one link, by name or index."""

    def links(self) -> list[Link]:
        """Return all links."""

    def addresses(self, index: int = 0) -> list[Address]:
        """Return the addresses of one link, or all."""

    def rate(self, index: int) -> int:
        """Return the bytes per second that a token bucket lets the link send, 0 without one."""

    def paths(self, *, protocol: int, index: int = 0) -> Paths:
        """Return the routes made by `protocol`, and the permanent neighbours and forwards of the link `index`."""


class Socket:
    """An rtnetlink socket in the caller's namespace, or in the one named (a path or an open file).

    It keeps that namespace whichever thread uses it; only one may use it at a time.
    """

    def __init__(self, place: str | int | None = None) -> None:
        with contextlib.nullcontext() if place is None else netns.inside(place):
            self._channel = channel.Channel(channel.ROUTE, "open an rtnetlink socket", timeout=ANSWER_TIMEOUT)
        self._channel.choose(channel.STRICT_CHECK)
        self.port = self._channel.port
        """The netlink port, by which `events` tell our changes from others'."""

    def __enter__(self) -> Socket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the socket back."""
        self._channel.close()

    def commit(self, commands: Sequence[Command]) -> None:
        """Do the commands in order. All are tried; the first refusal is raised afterwards."""
        failure: KernelError | None = None
        for start in range(0, len(commands), BATCH):
            found = self._batch(commands[start : start + BATCH])
            failure = failure or found
        if failure is not None:
            raise failure

    def link(self, which: str | int) -> Link | None:
        """Return one link, by name or index; None without it."""
        found = self._look(which)
        return decode.link(found) if found is not None else None

    def index(self, name: str) -> int | None:
        """Return a link's index, without reading all about it; None without the link."""
        found = self._look(name)
        return wire.IFINFO.unpack_from(found)[2] if found is not None else None

    def commit_and_look(self, commands: Sequence[Command], name: str) -> tuple[int, int]:
        """Do the commands as `commit` does, BATCH at most, and return a link's index and its peer's: in one exchange.

        The peer's index is that in its own namespace; 0 where the kernel does not tell (before Linux 5.0).
        """
        last = self._send([*map(encode.command, commands), _look_at(name)])
        failure: KernelError | None = None
        for kind, flags, sequence, body in self._receive():
            at = len(commands) - last + sequence
            if kind == netlink.ERROR and 0 <= at <= len(commands):
                failure = failure or _refusal(commands[at] if sequence < last else f"look at link {name}", body, flags)
            if sequence == last:
                break
        if failure is not None:
            raise failure
        peer = wire.attribute_of(body, wire.IFINFO.size, wire.IFLA_LINK)
        return wire.IFINFO.unpack_from(body)[2], wire.U32.unpack(peer)[0] if peer else 0

    def _look(self, which: str | int) -> memoryview | None:
        sequence = self._send([_look_at(which)])
        for kind, _, seen, body in self._receive():
            if seen != sequence:
                continue
            if kind == wire.NEWLINK:
                return body
            number = -netlink.I32.unpack_from(body)[0]
            if number in GONE:
                return None
            raise KernelError(number, f"look at link {which}", _said(body, netlink.ACK_TLVS))
        return None

    def links(self) -> list[Link]:
        """Return all links."""
        payload = wire.IFINFO.pack(0, 0, 0, 0, 0) + wire.u32(wire.IFLA_EXT_MASK, wire.RTEXT_FILTER_SKIP_STATS)
        return self._dump(wire.GETLINK, payload, wire.NEWLINK, decode.link, "list links")

    def addresses(self, index: int = 0) -> list[Address]:
        """Return the addresses of one link, or all."""
        payload = wire.IFADDR.pack(0, 0, 0, 0, index)
        found = self._dump(wire.GETADDR, payload, wire.NEWADDR, decode.address, "list addresses")
        return [address for address in found if index in (0, address.index)]

    def routes(self, *, protocol: int = 0, index: int = 0) -> list[Route]:
        """Return the main table's routes, of one maker and one link if named."""
        found: list[Route] = []
        for family in (wire.AF_INET, wire.AF_INET6):
            payload = wire.RTMSG.pack(family, 0, 0, 0, 0, protocol, 0, 0, 0)
            payload += wire.u32(wire.RTA_OIF, index) if index else b""
            found += filter(None, self._dump(wire.GETROUTE, payload, wire.NEWROUTE, decode.route, "list routes"))
        return [r for r in found if protocol in (0, r.protocol) and index in (0, r.index)]

    def neighbours(self, index: int) -> list[Neighbour]:
        """Return the permanent neighbours of a link."""
        found: list[Neighbour | None] = []
        for family in (wire.AF_INET, wire.AF_INET6):
            payload = wire.NDMSG.pack(family, 0, 0, 0, 0) + wire.u32(8, index)
            found += self._dump(wire.GETNEIGH, payload, wire.NEWNEIGH, decode.neighbour, "list neighbours")
        return [n for n in found if n is not None and n.index == index]

    def forwards(self, index: int) -> list[Forward]:
        """Return the forwarding entries of a VXLAN link."""
        payload = wire.NDMSG.pack(wire.AF_BRIDGE, index, 0, 0, 0)
        found = self._dump(wire.GETNEIGH, payload, wire.NEWNEIGH, decode.forward, "list forwarding entries")
        return [f for f in found if f is not None and f.index == index]

    def rate(self, index: int) -> int:
        """Return the bytes per second that a token bucket lets the link send, 0 without one."""
        payload = wire.TCMSG.pack(0, index, 0, 0, 0)
        found = self._dump(wire.GETQDISC, payload, wire.NEWQDISC, decode.bucket_rate, "list queues")
        return max((rate for at, rate in found if at == index), default=0)

    def programs(self, index: int) -> list[Program]:
        """Return the programs at a link, without their files; filters of other kinds have no name."""
        found: list[Program | None] = []
        for end in (wire.TC_ARRIVING, wire.TC_LEAVING):
            payload = wire.TCMSG.pack(0, index, 0, end, 0)
            found += self._dump(wire.GETFILTER, payload, wire.NEWFILTER, decode.program, "list filters")
        return [one for one in found if one is not None]

    def paths(self, *, protocol: int, index: int = 0) -> Paths:
        """Return the routes made by `protocol`, and the permanent neighbours and forwards of the link `index`."""
        return Paths(
            frozenset(self.routes(protocol=protocol)),
            frozenset(self.neighbours(index)) if index else frozenset(),
            frozenset(self.forwards(index)) if index else frozenset(),
        )

    def _batch(self, commands: Sequence[Command]) -> KernelError | None:
        messages = [encode.command(command) for command in commands]
        kind, asked, payload = messages[-1]
        messages[-1] = netlink.Message(kind, asked | netlink.ACK, payload)
        last = self._send(messages)
        failure: KernelError | None = None
        for kind, flags, sequence, body in self._receive():
            first = last - len(commands) + 1
            if kind != netlink.ERROR or not first <= sequence <= last:
                continue
            failure = failure or _refusal(commands[sequence - first], body, flags)
            if sequence == last:
                return failure
        return failure

    def _dump(self, request: int, payload: bytes, answer: int, read: Callable[[memoryview], T], tried: str) -> list[T]:
        for _ in range(channel.DUMP_ATTEMPTS):
            found: list[T] = []
            is_whole = True
            sequence = self._send([(request, netlink.DUMP, payload)])
            for kind, flags, seen, body in self._receive():
                if seen != sequence:
                    continue
                is_whole = is_whole and not flags & netlink.DUMP_INTERRUPTED
                if kind in (netlink.DONE, netlink.ERROR):
                    number = -netlink.I32.unpack_from(body)[0]
                    if number:
                        raise KernelError(number, tried, _said(body, flags))
                    break
                if kind == answer:
                    found.append(read(body))
            if is_whole:
                return found
        raise KernelError(errno.EAGAIN, tried, f"it changed during each of {channel.DUMP_ATTEMPTS} attempts")

    def _send(self, messages: Sequence[tuple[int, int, bytes]]) -> int:
        """Send messages; return the last one's number."""
        first = self._channel.numbers(len(messages))
        packed: list[bytes] = []
        for number, (kind, flags, payload) in enumerate(messages, first):
            size = netlink.HEADER.size + len(payload)
            packed.append(netlink.HEADER.pack(size, kind, flags | netlink.REQUEST, number, 0))
            packed.append(payload)
        self._channel.send(b"".join(packed), "send to rtnetlink")
        return first + len(messages) - 1

    def _receive(self) -> Iterator[tuple[int, int, int, memoryview]]:
        while True:
            yield from wire.messages(self._channel.receive("receive from rtnetlink"))


def _refusal(tried: Command | str, body: memoryview, flags: int) -> KernelError | None:
    """Return what an answer says against what was tried; None for a yes, and where what had to go was not there."""
    number = -netlink.I32.unpack_from(body)[0]
    if not number or (isinstance(tried, Command) and tried.verb == "remove" and number in GONE):
        return None
    return KernelError(number, str(tried), _said(body, flags))


def _look_at(which: str | int) -> netlink.Message:
    payload = wire.IFINFO.pack(0, 0, 0 if isinstance(which, str) else which, 0, 0)
    payload += netlink.text(wire.IFLA_IFNAME, which) if isinstance(which, str) else b""
    return netlink.Message(wire.GETLINK, 0, payload + wire.u32(wire.IFLA_EXT_MASK, wire.RTEXT_FILTER_SKIP_STATS))


def _said(body: memoryview, flags: int) -> str:
    """Return the kernel's own words of a refusal; with CAP_ACK they follow the refused message's header."""
    if not flags & netlink.ACK_TLVS or len(body) <= 4 + netlink.HEADER.size:
        return ""
    words = wire.attributes(body, 4 + netlink.HEADER.size).get(EXTACK_MESSAGE)
    return bytes(words).rstrip(b"\0").decode(errors="replace") if words is not None else ""
