"""Sockets for clients' connections, whose descriptors are closed by the event loop and by nobody else."""

from __future__ import annotations

import socket
from typing import Any


class Lent(socket.socket):
    """A socket that leaves its descriptor alone when it is collected.

    uvloop takes over the descriptor of a socket it is given, and detaches the socket when it closes the connection.
    One that the peer resets in the very moment it is taken over (uvloop 0.23, `create_connection`: between `waiter` and
    `_attach_fileobj`) stays attached, and, collected later, would close whatever has its number by then: another
    connection, or the database. All others close such a socket by name.
    """

    def __del__(self) -> None:
        """Close nothing."""


def lent(address: tuple[Any, ...]) -> socket.socket:
    """Open a socket for a connection to an address as `getaddrinfo` tells it; this is aiohttp's `socket_factory`."""
    family, kind, protocol, _, _ = address
    opened = Lent(family, kind, protocol)
    opened.setblocking(False)
    return opened
