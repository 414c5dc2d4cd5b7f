"""Families of generic netlink (linux/genetlink.h): known by name, they have a number once their module is loaded."""

from __future__ import annotations

import errno
import sys

from netplane.kernel.errors import KernelError
from netplane.kernel.netlink import channel, wire

CONTROL, GET_FAMILY = 16, 3
FAMILY_ID, FAMILY_NAME = 1, 2
HEADER_SIZE = 4
"""Before the attributes: the command, the version and two bytes of nothing."""


class Family:
    """A channel to one family, in the network namespace in which it was made."""

    def __init__(
        self, name: str, *, module: str, timeout: int = channel.ANSWER_TIMEOUT, buffers: tuple[int, int] = (0, 0)
    ) -> None:
        """Open it. KernelError with ENOENT means that the kernel has no such family (or its module is not loaded)."""
        opening = "open a generic netlink socket"
        self.channel = channel.Channel(channel.GENERIC, opening, timeout=timeout, buffers=buffers)
        try:
            self._number = _number(self.channel, name, module)
        except BaseException:
            self.channel.close()
            raise

    def close(self) -> None:
        """Close it."""
        self.channel.close()

    def message(self, command: int, flags: int, body: bytes) -> wire.Message:
        """Return a message to the family."""
        return _message(self._number, command, flags, body)

    def ask(self, command: int, body: bytes, tried: str) -> None:
        """Give one command and wait until it is done."""
        number = self.channel.numbers()
        self.channel.send(wire.packed(self.message(command, wire.ACK, body), number), tried)
        for kind, _, _, answer in self.channel.answers(number, number, tried):
            if kind == wire.ERROR:
                if refused := wire.refusal(answer):
                    raise KernelError(refused, tried)
                return

    def dump(self, command: int, body: bytes, tried: str) -> list[bytes]:
        """Return the bodies of a dump's messages. The kernel answers with none about what is not there."""
        return self.channel.dump(self.message(command, wire.DUMP, body), tried)


def _message(number: int, command: int, flags: int, body: bytes) -> wire.Message:
    return wire.Message(number, wire.REQUEST | flags, bytes((command, 1, 0, 0)) + body)


def _number(asked: channel.Channel, name: str, module: str) -> int:
    tried = f"look for {name} in the kernel"
    number = asked.numbers()
    asked.send(wire.packed(_message(CONTROL, GET_FAMILY, 0, wire.text(FAMILY_NAME, name)), number), tried)
    for kind, _, _, body in asked.answers(number, number, tried):
        if kind == wire.ERROR:
            raise KernelError(wire.refusal(body), tried, f"the kernel module {module} is missing")
        spot = wire.find(body, HEADER_SIZE, len(body), FAMILY_ID)
        if spot:
            return int.from_bytes(body[slice(*spot)], sys.byteorder)
    raise KernelError(errno.EPROTO, tried)
