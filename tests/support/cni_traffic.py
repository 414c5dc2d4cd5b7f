"""Speak across the pod network of a test: servers that tell each caller who it is, and who asks them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from netplane.kernel import netns


class Echo:
    """A TCP and a UDP server in a namespace that tell each caller who it is."""

    def __init__(self, place: str, port: int) -> None:
        self.port = port
        self._sockets = netns.run_in(place, self._open)

    def _open(self) -> list[socket.socket]:
        tcp, udp = socket.socket(socket.AF_INET6), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        for one in (tcp, udp):
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("::", self.port))
            one.settimeout(20)
        tcp.listen(64)
        return [tcp, udp]

    def accept(self, size: int = 1) -> str:
        """Answer one TCP caller once so many bytes have come, and return its address as seen here."""
        connection, peer = self._sockets[0].accept()
        with connection:
            connection.settimeout(20)
            heard = b""
            while len(heard) < size and (part := connection.recv(65536)):
                heard += part
            connection.sendall(heard)
        return str(peer[0]).removeprefix("::ffff:")

    def receive(self) -> str:
        """Answer one datagram, and return its sender's address as seen here."""
        data, peer = self._sockets[1].recvfrom(65536)
        self._sockets[1].sendto(data, peer)
        return str(peer[0]).removeprefix("::ffff:")

    def close(self) -> None:
        for one in self._sockets:
            one.close()


@contextlib.contextmanager
def echo(place: str, port: int = 8080) -> Iterator[Echo]:
    server = Echo(place, port)
    try:
        yield server
    finally:
        server.close()


def talk(server: Echo, place: str, to: str, port: int = 8080, *, kind: str = "tcp") -> str:
    """Send something from a namespace, expect it back, and return who the server saw."""
    word = f"hello {to} {port} {kind}".encode() * 200
    if kind == "udp":
        word = word[:600]

    def send() -> socket.socket:
        family = socket.AF_INET6 if ":" in to else socket.AF_INET
        one = socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
        one.settimeout(20)
        one.connect((to, port))
        one.sendall(word)
        return one

    with netns.run_in(place, send) as speaking:
        seen = server.receive() if kind == "udp" else server.accept(len(word))
        heard = b""
        while len(heard) < len(word):
            part = speaking.recv(65536)
            assert part, "the answer ended early"
            heard += part
        assert heard == word
    return seen


def reaches(place: str, to: str, port: int = 8080) -> bool:
    """Tell whether a TCP connection can be opened at all."""

    def attempt() -> bool:
        with socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET) as one:
            one.settimeout(0.5)
            return one.connect_ex((to, port)) == 0

    return netns.run_in(place, attempt)
