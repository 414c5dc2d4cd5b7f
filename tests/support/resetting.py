"""A server that resets whatever is connected to it, as it is connected."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def door() -> Iterator[int]:
    """Serve on loopback, from a thread of its own, until the block ends; the value is the port."""
    with socket.create_server(("127.0.0.1", 0)) as opened:
        threading.Thread(target=_reset_all, args=(opened,), daemon=True).start()
        yield opened.getsockname()[1]
        opened.shutdown(socket.SHUT_RDWR)


def _reset_all(opened: socket.socket) -> None:
    while True:
        try:
            one, _ = opened.accept()
        except OSError:
            return
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()


def closed_of(held: list[int]) -> list[int]:
    """Close descriptors, and return those that somebody else had closed already."""
    gone = []
    for each in held:
        try:
            os.close(each)
        except OSError:
            gone.append(each)
    return gone
