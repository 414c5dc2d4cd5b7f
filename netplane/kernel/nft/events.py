"""Hear what others change in nf_tables, through the kernel's multicast group. It filters our own changes out."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import socket
import struct
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from netplane.kernel.errors import from_os
from netplane.kernel.netlink import channel
from netplane.kernel.netlink import wire as netlink
from netplane.kernel.nft import wire
from netplane.kernel.nft.run import RECEIVE_BUFFER

NFNLGRP_NFTABLES = 7
SO_ATTACH_FILTER = 26
RECEIVE_SIZE = 1 << 18
GEN_PID, GEN_NAME = 2, 3

_WHAT = {
    wire.NEWTABLE: "added the table",
    wire.DELTABLE: "deleted the table",
    wire.NEWCHAIN: "added chain",
    wire.DELCHAIN: "deleted chain",
    wire.NEWRULE: "added rules",
    wire.DELRULE: "deleted rules",
    wire.NEWSET: "added set",
    wire.DELSET: "deleted set",
    wire.NEWSETELEM: "added elements",
    wire.DELSETELEM: "deleted elements",
}


@dataclass(frozen=True, slots=True)
class Change:
    """One transaction of somebody else on a table: who did what. `process` is 0 and `program` "" when unknown."""

    table: str
    what: tuple[str, ...]
    process: int = 0
    program: str = ""

    def __str__(self) -> str:
        """Print `process 812 (nft) deleted rules of table netplane`."""
        who = f"process {self.process} ({self.program})" if self.process else "somebody"
        return f"{who} {', '.join(self.what)} of table {self.table}"


class Listener:
    """A socket that hears other netlink ports' changes of the tables of one name, in any family."""

    def __init__(self, name: str, own_port: int) -> None:
        """Listen from now on, in the network namespace of this thread. `own_port` is the port of our `run.Socket`."""
        self._name = name
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, channel.NETFILTER)
            self._socket.bind((0, 0))
            with contextlib.suppress(PermissionError):
                self._socket.setsockopt(socket.SOL_SOCKET, channel.SO_RCVBUFFORCE, RECEIVE_BUFFER)
            _ignore(self._socket, own_port)
            self._socket.setsockopt(channel.SOL_NETLINK, channel.ADD_MEMBERSHIP, NFNLGRP_NFTABLES)
        except OSError as error:
            raise from_os(error, "listen to changes of nf_tables") from error
        self._socket.setblocking(False)
        self._collected: dict[str, None] = {}
        self._expected = 0

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def expect(self, transactions: int = 1) -> None:
        """Say that nft(8) will soon make so many transactions on our behalf (negative: that it will not after all)."""
        self._expected = max(0, self._expected + transactions)

    async def changes(self) -> AsyncIterator[Change]:
        """Yield each foreign transaction on our tables. Events that were lost count as one by somebody."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await loop.sock_recv(self._socket, RECEIVE_SIZE)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise from_os(error, "listen to changes of nf_tables") from error
                self._collected.clear()
                self._expected = 0
                yield Change(self._name, ("made more changes than could be heard, maybe",))
                continue
            for change in self._read(data):
                yield change

    def _read(self, data: bytes) -> Iterator[Change]:
        for kind, _, _, body in netlink.split(data):
            number = kind & 0xFF
            if number == wire.NEWGEN:
                if self._collected:
                    yield from self._end(Change(self._name, tuple(self._collected), *_who(body)))
            elif number in _WHAT and _table(body) == self._name:
                self._collected[_WHAT[number]] = None

    def _end(self, change: Change) -> Iterator[Change]:
        self._collected.clear()
        if self._expected and change.program == "nft":
            self._expected -= 1
        else:
            yield change


def _table(body: bytes) -> str:
    # The table's name is attribute 1 of every kind of object.
    spot = netlink.find(body, wire.NFGEN.size, len(body), 1)
    return netlink.string(body, *spot) if spot else ""


def _who(body: bytes) -> tuple[int, str]:
    process, program = 0, ""
    for kind, a, b in netlink.attributes(body, wire.NFGEN.size, len(body)):
        if kind == GEN_PID:
            process = wire.U32.unpack_from(body, a)[0]
        elif kind == GEN_NAME:
            program = netlink.string(body, a, b)
    return process, program


def _ignore(sock: socket.socket, port: int) -> None:
    """Let the kernel drop messages that tell of a netlink port's own changes, which come in great numbers.

    A classic BPF program: load the port (nlmsghdr.nlmsg_pid, host order, while BPF reads network order), compare.
    """
    asked = int.from_bytes(port.to_bytes(4, sys.byteorder), "big")
    program = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in ((0x20, 0, 0, 12), (0x15, 0, 1, asked), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
    )
    held = ctypes.create_string_buffer(program)
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 4, ctypes.addressof(held)))
