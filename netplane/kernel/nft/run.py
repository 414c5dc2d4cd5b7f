"""Change and read nf_tables in the kernel: text by nft(8), elements over one socket that is kept open.

Closing a socket that has committed waits for the kernel's RCU (16 ms and more), so `Socket` is opened once and kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Protocol

from netplane.kernel import netns, process
from netplane.kernel.errors import KernelError, from_os
from netplane.kernel.nft import wire
from netplane.kernel.nft.objects import Batch, Element, Set, Table, command

NETLINK_NETFILTER = 12
SOL_NETLINK = 270
NETLINK_CAP_ACK, NETLINK_EXT_ACK = 10, 11
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
SEND_BUFFER, RECEIVE_BUFFER = 256 << 20, 16 << 20
RECEIVE_SIZE = 1 << 18
ANSWER_TIMEOUT = 30.0
LOAD_TIMEOUT = 60.0
NFT = ("nft", "-f", "-")
DUMP_ATTEMPTS = 20

TABLE_NAME, CHAIN_TABLE, CHAIN_NAME, CHAIN_HOOK, CHAIN_POLICY, CHAIN_TYPE = 1, 1, 3, 4, 5, 7
RULE_TABLE, RULE_CHAIN, RULE_EXPRESSIONS = 1, 2, 4
GEN_ID = 1
ERROR_MESSAGE, ERROR_OFFSET = 1, 2

INTERRUPTED = -errno.EINTR


class Kernel(Protocol):
    """What a backend needs of nf_tables; `Socket` is the kernel's, `fake.Kernel` stands in."""

    def commit(self, batch: Batch) -> None:
        """Make all changes of the batch in one transaction, or raise KernelError and make none."""

    def dump(self, target: Set) -> list[Element]:
        """List a set's elements in no order. Raises KernelError: ENOENT when the set is not there."""

    def tables(self) -> list[Table]:
        """List the tables of the IP families."""

    def chains(self, table: Table) -> list[str]:
        """List the names of a table's chains, in its order; none when there is no such table."""

    def fingerprint(self, table: Table) -> str:
        """Return a hash of a table's chains and rules as the kernel holds them: any change of them changes it."""

    def generation(self) -> int:
        """Return the number of the namespace's last transaction, whoever made it."""

    async def load(self, text: str) -> None:
        """Run nft commands in one transaction."""


async def load(text: str) -> None:
    """Run nft commands in one transaction. Raises CommandFailed with what nft says, and then nothing has changed."""
    await process.run(NFT, stdin=text, timeout=LOAD_TIMEOUT)


def load_sync(text: str) -> None:
    """Do as `load` does, for callers that are not on an event loop: in the network namespace of this thread."""
    process.run_sync(NFT, stdin=text, timeout=LOAD_TIMEOUT)


class Socket:
    """A kept-open netlink socket of the network namespace in which it was made. Needs CAP_NET_ADMIN there.

    It serves that namespace from whatever thread and namespace it is called, `load` included.
    """

    def __init__(self) -> None:
        """Open it."""
        self._namespace = os.open(netns.OWN, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
            self._socket.bind((0, 0))
        except OSError as error:
            os.close(self._namespace)
            raise from_os(error, "open a netfilter socket") from error
        self.port: int = self._socket.getsockname()[0]
        """The netlink port, by which events tell our changes from others'."""
        self._sequence = 1
        # Without CAP_NET_ADMIN in the first user namespace the usual limits hold: commits must then be smaller.
        for option, size in ((SO_SNDBUFFORCE, SEND_BUFFER), (SO_RCVBUFFORCE, RECEIVE_BUFFER)):
            with contextlib.suppress(PermissionError):
                self._socket.setsockopt(socket.SOL_SOCKET, option, size)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        self._socket.settimeout(ANSWER_TIMEOUT)

    def close(self) -> None:
        """Close it; may take some milliseconds."""
        self._socket.close()
        os.close(self._namespace)

    async def load(self, text: str) -> None:
        """Run nft commands in one transaction, in the socket's namespace."""
        if netns.identity(netns.OWN) == netns.identity(self._namespace):
            await load(text)  # To enter a namespace takes CAP_SYS_ADMIN, even the one that we are in.
            return
        await asyncio.to_thread(self._load, text)

    def _load(self, text: str) -> None:
        # Entering a namespace takes CAP_SYS_ADMIN, even the one where we are: a proxy in its own does without.
        if netns.identity(netns.OWN) == netns.identity(self._namespace):
            load_sync(text)
        else:
            netns.run_in(self._namespace, lambda: load_sync(text))

    def commit(self, batch: Batch) -> None:
        """Make all changes of the batch in one transaction, or raise KernelError and make none.

        The error names the change that the kernel refused. ENOBUFS or ETIMEDOUT means that the answer was lost: then
        nobody knows whether the transaction happened, and the caller compares.
        """
        found, places = wire.messages(batch)
        if not found:
            return
        begin = self._sequence
        last = begin + len(found)
        self._sequence = (last + 2) & 0x7FFFFFFF
        self._send(wire.transaction(found, begin), f"commit {len(batch)} changes")
        refused = self._answers(begin, last, f"commit {len(batch)} changes")
        if refused is not None:
            number, sequence, offset, said = refused
            if sequence == begin:
                raise KernelError(number, f"commit {len(batch)} changes", said)
            index = sequence - begin - 1
            raise KernelError(number, _blamed(batch, found[index], places[index], offset), said)

    def _answers(self, begin: int, last: int, tried: str) -> tuple[int, int, int, str] | None:
        """Read answers until that of the last message, or a refusal of the whole. Return the first refusal."""
        first: tuple[int, int, int, str] | None = None
        while True:
            for kind, flags, sequence, body in _split(self._receive(tried)):
                if kind != wire.NLMSG_ERROR or not begin <= sequence <= last:
                    continue
                number = -struct.unpack_from("=i", body)[0]
                if number and first is None:
                    first = (number, sequence, *_explained(flags, body))
                if sequence == last or (number and sequence == begin):
                    return first

    def dump(self, target: Set) -> list[Element]:
        """List a set's elements in no order."""
        return wire.elements(target, self._dump(wire.elements_request(target), f"list elements of {target}"))

    def tables(self) -> list[Table]:
        """List the tables of the IP families."""
        found = []
        for family in (2, 10):
            for body in self._dump(wire.request(wire.GETTABLE, wire.DUMP, family), "list tables"):
                spot = wire.find(body, wire.NFGEN.size, len(body), TABLE_NAME)
                if spot:
                    found.append(Table(family, wire.string(body, *spot)))
        return found

    def chains(self, table: Table) -> list[str]:
        """List the names of a table's chains."""
        return [wire.string(body, *spot) for body in self._chains(table) if (spot := _attribute(body, CHAIN_NAME))]

    def fingerprint(self, table: Table) -> str:
        """Return a hash of a table's chains and rules."""
        digest = hashlib.sha256()
        for body in self._chains(table):
            # Not the handle, nor the count of uses, which changes with verdict maps.
            _update(digest, body, (CHAIN_NAME, CHAIN_HOOK, CHAIN_POLICY, CHAIN_TYPE))
        wanted = wire.text(RULE_TABLE, table.name)
        request = wire.request(wire.GETRULE, wire.DUMP, table.family, wanted)
        for body in self._dump(request, f"list rules of {table}"):
            if _names(body, RULE_TABLE, table.name):
                _update(digest, body, (RULE_CHAIN, RULE_EXPRESSIONS))
        return digest.hexdigest()[:16]

    def rules(self) -> list[bytes]:
        """List all rules of all tables, as bodies of netlink messages; `marks` reads them."""
        return self._dump(wire.request(wire.GETRULE, wire.DUMP), "list all rules")

    def generation(self) -> int:
        """Return the number of the last transaction."""
        sequence = self._next()
        self._send(wire.packed(wire.request(wire.GETGEN, 0), sequence), "ask for the generation")
        while True:
            for kind, _, answered, body in _split(self._receive("ask for the generation")):
                if answered == sequence and kind == wire.SUBSYSTEM | wire.NEWGEN:
                    spot = _attribute(body, GEN_ID)
                    return int(wire.U32.unpack_from(body, spot[0])[0]) if spot else 0

    def _chains(self, table: Table) -> list[bytes]:
        request = wire.request(wire.GETCHAIN, wire.DUMP, table.family)
        bodies = self._dump(request, f"list chains of {table}")
        return [body for body in bodies if _names(body, CHAIN_TABLE, table.name)]

    def _dump(self, request: wire.Message, tried: str) -> list[bytes]:
        """Return the bodies of a dump's messages, all of one generation."""
        for _ in range(DUMP_ATTEMPTS):
            sequence = self._next()
            self._send(wire.packed(request, sequence), tried)
            bodies = self._dumped(sequence, tried)
            if bodies is not None:
                return bodies
        raise KernelError(errno.EINTR, tried, f"others changed it during each of {DUMP_ATTEMPTS} attempts")

    def _dumped(self, sequence: int, tried: str) -> list[bytes] | None:
        bodies: list[bytes] = []
        is_torn = False
        while True:
            for kind, flags, answered, body in _split(self._receive(tried)):
                if answered != sequence:
                    continue
                is_torn |= bool(flags & wire.DUMP_INTR)
                if kind in (wire.NLMSG_ERROR, wire.NLMSG_DONE):
                    code = struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
                    if code and code != INTERRUPTED:
                        raise KernelError(-code, tried)
                    return None if is_torn or code else bodies
                bodies.append(body)

    def _next(self) -> int:
        self._sequence = (self._sequence + 1) & 0x7FFFFFFF
        return self._sequence

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


def _split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Walk over netlink messages: type, flags, sequence and body."""
    at = 0
    while at + wire.HEADER.size <= len(data):
        size, kind, flags, sequence, _ = wire.HEADER.unpack_from(data, at)
        yield kind, flags, sequence, data[at + wire.HEADER.size : at + size]
        at += (size + 3) & ~3


def _explained(flags: int, body: bytes) -> tuple[int, str]:
    """Read an extended ack: the offset in our message that the kernel blames (0 unknown), and its words."""
    offset, said = 0, ""
    if flags & wire.ACK_TLVS:
        # The refused message's header alone is repeated before the attributes (NETLINK_CAP_ACK).
        start = 4 + wire.HEADER.size if flags & wire.CAPPED else 4 + wire.HEADER.unpack_from(body, 4)[0]
        for kind, a, b in wire.attributes(body, start, len(body)):
            if kind == ERROR_MESSAGE:
                said = wire.string(body, a, b)
            elif kind == ERROR_OFFSET:
                offset = struct.unpack_from("=I", body, a)[0]
    return offset, said


def _blamed(batch: Batch, message: wire.Message, place: wire.Place, offset: int) -> str:
    """Name the change of a message that the kernel refused, as nft command; by the offset, when it told one."""
    if place.run < 0:
        return f"replace chain {batch.chains[place.start]}"
    verb, target, elements = batch.runs[place.run]
    many = elements[place.start : place.stop]
    spot = wire.find(message.body, wire.NFGEN.size, len(message.body), wire.ELEM_LIST_ELEMENTS)
    index = 0
    if offset and spot:
        starts = [a - 4 for _, a, _ in wire.attributes(message.body, *spot)]
        index = sum(start + wire.HEADER.size <= offset for start in starts) - 1
    if not 0 <= index < len(many):
        return f"{'add' if verb == 'add' else 'delete'} elements of {target}"
    several = f" (one of {len(many)})" if len(many) > 1 and not offset else ""
    return command(verb, target, many[index]) + several


def _attribute(body: bytes, kind: int) -> tuple[int, int] | None:
    return wire.find(body, wire.NFGEN.size, len(body), kind)


def _names(body: bytes, kind: int, name: str) -> bool:
    spot = _attribute(body, kind)
    return spot is not None and wire.string(body, *spot) == name


def _update(digest: hashlib._Hash, body: bytes, kinds: Sequence[int]) -> None:
    for kind in kinds:
        spot = _attribute(body, kind)
        if spot:
            digest.update(struct.pack("=II", kind, spot[1] - spot[0]) + body[spot[0] : spot[1]])
