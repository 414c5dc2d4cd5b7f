"""Tell cheaply whether the tables may have changed, without listing them."""

from __future__ import annotations

import errno
import socket
from typing import Protocol

from netplane.kernel.errors import from_os
from netplane.kernel.nft.run import Socket
from netplane.kernel.xtables import blob, lock
from netplane.kernel.xtables.objects import Variant

_FAMILIES = (socket.AF_INET, socket.AF_INET6)

Stamp = tuple[int, ...]


class Clock(Protocol):
    """What gives stamps: two that are equal mean, as far as it can tell, that nothing changed between them."""

    def read(self) -> Stamp:
        """Return the stamp of now."""

    def look(self) -> Stamp:
        """Return one that differs whenever the tables do. Its price grows with them; for any one thread."""

    def heard(self) -> bool:
        """Tell whether a tool has been at work since the last call, we ourselves included; False where nothing tells.

        It asks for a look: the tables may be others.
        """

    def close(self) -> None:
        """Let go of the kernel."""


def opened(variant: Variant, tables: tuple[str, ...]) -> Clock:
    """Open the clock of a variant in the network namespace of this thread."""
    return _Generation() if variant == "nft" else _Sizes(tables)


class _Generation:
    """nf_tables counts its transactions: any change by anybody is another stamp."""

    def __init__(self) -> None:
        self._socket = Socket()

    def read(self) -> Stamp:
        return (self._socket.generation(),)

    def look(self) -> Stamp:
        return self.read()

    def heard(self) -> bool:
        return False

    def close(self) -> None:
        self._socket.close()


class _Sizes:
    """x_tables tells each table's hooks, number of rules and size: all but the exchange of one rule for its like."""

    def __init__(self, tables: tuple[str, ...]) -> None:
        self._tables = tables
        self._ear = lock.Ear()
        self._sockets: list[socket.socket] = []
        for kind in _FAMILIES:
            try:
                made = socket.socket(kind, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW)
            except OSError as error:
                if error.errno == errno.EAFNOSUPPORT and kind == socket.AF_INET6:
                    continue
                self.close()
                raise from_os(error, "open a socket to look at iptables (it takes CAP_NET_RAW)") from error
            self._sockets.append(made)
        self._hashers = [blob.Hasher(opened, table) for opened in self._sockets for table in tables]

    def read(self) -> Stamp:
        return tuple(
            number for opened in self._sockets for table in self._tables for number in blob.info(opened, table)
        )

    def look(self) -> Stamp:
        return tuple(hasher.read() for hasher in self._hashers)

    def heard(self) -> bool:
        return self._ear.heard()

    def close(self) -> None:
        self._ear.close()
        for opened in self._sockets:
            opened.close()
