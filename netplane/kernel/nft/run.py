"""Change and read nf_tables in the kernel: text by nft(8), elements over one socket that is kept open.

Closing a socket that has committed waits for the kernel's RCU (16 ms and more), so `Socket` is opened once and kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import struct
from collections.abc import Sequence
from typing import Protocol

from netplane.kernel import netns, process
from netplane.kernel.errors import KernelError
from netplane.kernel.netlink import channel
from netplane.kernel.netlink import wire as netlink
from netplane.kernel.nft import wire
from netplane.kernel.nft.objects import Batch, Element, Set, Table, command

SEND_BUFFER, RECEIVE_BUFFER = 256 << 20, 16 << 20
LOAD_TIMEOUT = 60.0
NFT = ("nft", "-f", "-")

TABLE_NAME, CHAIN_TABLE, CHAIN_NAME, CHAIN_HOOK, CHAIN_POLICY, CHAIN_TYPE = 1, 1, 3, 4, 5, 7
RULE_TABLE, RULE_CHAIN, RULE_EXPRESSIONS = 1, 2, 4
GEN_ID = 1
ERROR_MESSAGE, ERROR_OFFSET = 1, 2


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
            # Where the usual limits hold, commits must be smaller.
            buffers = SEND_BUFFER, RECEIVE_BUFFER
            self._channel = channel.Channel(channel.NETFILTER, "open a netfilter socket", buffers=buffers)
        except KernelError:
            os.close(self._namespace)
            raise
        self.port = self._channel.port
        """The netlink port, by which events tell our changes from others'."""

    def close(self) -> None:
        """Close it; may take some milliseconds."""
        self._channel.close()
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
        tried = f"commit {len(batch)} changes"
        begin = self._channel.numbers(len(found) + 2)
        self._channel.send(wire.transaction(found, begin), tried)
        refused = self._refused(begin, begin + len(found), tried)
        if refused is not None:
            number, sequence, offset, said = refused
            if sequence == begin:
                raise KernelError(number, tried, said)
            index = sequence - begin - 1
            raise KernelError(number, _blamed(batch, found[index], places[index], offset), said)

    def _refused(self, begin: int, last: int, tried: str) -> tuple[int, int, int, str] | None:
        """Read answers until that of the last message, or a refusal of the whole. Return the first refusal."""
        first: tuple[int, int, int, str] | None = None
        for kind, flags, sequence, body in self._channel.answers(begin, last, tried):
            if kind != netlink.ERROR:
                continue
            number = netlink.refusal(body)
            if number and first is None:
                first = (number, sequence, *_explained(flags, body))
            if sequence == last or (number and sequence == begin):
                break
        return first

    def dump(self, target: Set) -> list[Element]:
        """List a set's elements in no order."""
        return wire.elements(target, self._channel.dump(wire.elements_request(target), f"list elements of {target}"))

    def tables(self) -> list[Table]:
        """List the tables of the IP families."""
        found = []
        for family in (2, 10):
            for body in self._channel.dump(wire.request(wire.GETTABLE, netlink.DUMP, family), "list tables"):
                spot = netlink.find(body, wire.NFGEN.size, len(body), TABLE_NAME)
                if spot:
                    found.append(Table(family, netlink.string(body, *spot)))
        return found

    def chains(self, table: Table) -> list[str]:
        """List the names of a table's chains."""
        return [netlink.string(body, *spot) for body in self._chains(table) if (spot := _attribute(body, CHAIN_NAME))]

    def fingerprint(self, table: Table) -> str:
        """Return a hash of a table's chains and rules."""
        digest = hashlib.sha256()
        for body in self._chains(table):
            # Not the handle, nor the count of uses, which changes with verdict maps.
            _update(digest, body, (CHAIN_NAME, CHAIN_HOOK, CHAIN_POLICY, CHAIN_TYPE))
        wanted = netlink.text(RULE_TABLE, table.name)
        request = wire.request(wire.GETRULE, netlink.DUMP, table.family, wanted)
        for body in self._channel.dump(request, f"list rules of {table}"):
            if _names(body, RULE_TABLE, table.name):
                _update(digest, body, (RULE_CHAIN, RULE_EXPRESSIONS))
        return digest.hexdigest()[:16]

    def rules(self) -> list[bytes]:
        """List all rules of all tables, as bodies of netlink messages; `marks` reads them."""
        return self._channel.dump(wire.request(wire.GETRULE, netlink.DUMP), "list all rules")

    def generation(self) -> int:
        """Return the number of the last transaction."""
        tried = "ask for the generation"
        number = self._channel.numbers()
        self._channel.send(netlink.packed(wire.request(wire.GETGEN, 0), number), tried)
        for kind, _, _, body in self._channel.answers(number, number, tried):
            if kind == wire.SUBSYSTEM | wire.NEWGEN:
                spot = _attribute(body, GEN_ID)
                return int(wire.U32.unpack_from(body, spot[0])[0]) if spot else 0
        return 0

    def _chains(self, table: Table) -> list[bytes]:
        request = wire.request(wire.GETCHAIN, netlink.DUMP, table.family)
        bodies = self._channel.dump(request, f"list chains of {table}")
        return [body for body in bodies if _names(body, CHAIN_TABLE, table.name)]


def _explained(flags: int, body: bytes) -> tuple[int, str]:
    """Read an extended ack: the offset in our message that the kernel blames (0 unknown), and its words."""
    offset, said = 0, ""
    if flags & netlink.ACK_TLVS:
        # The refused message's header alone is repeated before the attributes (NETLINK_CAP_ACK).
        start = 4 + netlink.HEADER.size if flags & netlink.ACK_CAPPED else 4 + netlink.HEADER.unpack_from(body, 4)[0]
        for kind, a, b in netlink.attributes(body, start, len(body)):
            if kind == ERROR_MESSAGE:
                said = netlink.string(body, a, b)
            elif kind == ERROR_OFFSET:
                offset = struct.unpack_from("=I", body, a)[0]
    return offset, said


def _blamed(batch: Batch, message: netlink.Message, place: wire.Place, offset: int) -> str:
    """Name the change of a message that the kernel refused, as nft command; by the offset, when it told one."""
    if place.run < 0:
        return f"replace chain {batch.chains[place.start]}"
    verb, target, elements = batch.runs[place.run]
    many = elements[place.start : place.stop]
    spot = netlink.find(message.body, wire.NFGEN.size, len(message.body), wire.ELEM_LIST_ELEMENTS)
    index = 0
    if offset and spot:
        starts = [a - 4 for _, a, _ in netlink.attributes(message.body, *spot)]
        index = sum(start + netlink.HEADER.size <= offset for start in starts) - 1
    if not 0 <= index < len(many):
        return f"{'add' if verb == 'add' else 'delete'} elements of {target}"
    several = f" (one of {len(many)})" if len(many) > 1 and not offset else ""
    return command(verb, target, many[index]) + several


def _attribute(body: bytes, kind: int) -> tuple[int, int] | None:
    return netlink.find(body, wire.NFGEN.size, len(body), kind)


def _names(body: bytes, kind: int, name: str) -> bool:
    spot = _attribute(body, kind)
    return spot is not None and netlink.string(body, *spot) == name


def _update(digest: hashlib._Hash, body: bytes, kinds: Sequence[int]) -> None:
    for kind in kinds:
        spot = _attribute(body, kind)
        if spot:
            digest.update(struct.pack("=II", kind, spot[1] - spot[0]) + body[spot[0] : spot[1]])
