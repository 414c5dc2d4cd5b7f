"""Clients of an API server for measurements, each a process of its own, so that none waits for another one's turn.

They speak over plain sockets and look at no more of an answer than they must: what they cost is taken from the server.
`python api_load.py lists PORT CA TURNS PATH` reads a list so many times; `watches PORT CA SECONDS PATH COUNT` follows
one with that many watches and tells how long ago each event was written, by the time in its `"at":"…"`. The token
comes on standard input. Both print a line when they have begun, and one of JSON at the end.
"""

from __future__ import annotations

import contextlib
import json
import re
import resource
import selectors
import socket
import ssl
import sys
import time
from typing import cast

_WRITTEN = re.compile(rb'"at":"([0-9.]+)"')
_CHUNK = 1 << 18
_SAMPLED = 10


def _limit_of_files() -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _ask(port: int, context: ssl.SSLContext, token: str, path: str) -> ssl.SSLSocket:
    connection = context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="localhost")
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
    return connection


def lists(port: int, context: ssl.SSLContext, token: str, path: str, turns: int) -> dict[str, float]:
    """Read a list that comes in chunks, one time after the other; return the seconds and bytes of each."""
    print("begun", flush=True)
    size, started = 0, time.monotonic()
    for _ in range(turns):
        connection = _ask(port, context, token, path)
        tail = b""
        while not tail.endswith(b"0\r\n\r\n"):
            got = connection.recv(_CHUNK)
            if not got:
                sys.exit("the server hung up")
            size += len(got)
            tail = (tail + got)[-8:]
        connection.close()
    return {"seconds": (time.monotonic() - started) / turns, "bytes": size / turns, "cpu": time.process_time() / turns}


def watches(port: int, context: ssl.SSLContext, token: str, path: str, count: int, seconds: float) -> dict[str, float]:
    """Follow with many watches; return the quantiles of the milliseconds from a write to its arrival.

    Every tenth watch, in the order in which they were begun, is decrypted and read. Of the others the bytes are taken
    off the connection and counted: what the client spends is taken from the server, which spends the same for all.
    """
    _limit_of_files()
    waiting = selectors.DefaultSelector()
    taken = [0] * count
    for number in range(count):
        connection: socket.socket = _ask(port, context, token, path)
        if number % _SAMPLED:
            connection = socket.socket(fileno=connection.detach())
        connection.setblocking(False)
        waiting.register(connection, selectors.EVENT_READ, number)
    print("begun", flush=True)
    late: list[float] = []
    end, before, buffer = time.monotonic() + seconds, time.process_time(), bytearray(_CHUNK)
    while time.monotonic() < end:
        for key, _ in waiting.select(0.1):
            if key.data % _SAMPLED == 0:
                late += _arrived(cast(ssl.SSLSocket, key.fileobj))
                continue
            got = cast(socket.socket, key.fileobj).recv_into(buffer)
            if not got:
                sys.exit("the server hung up")
            taken[key.data] += got
    late.sort()
    counted = [each for number, each in enumerate(taken) if number % _SAMPLED] or [1]
    told = {"events": len(late), "read": len(range(0, count, _SAMPLED)), "cpu": time.process_time() - before}
    told |= {f"p{q}": late[min(len(late) - 1, len(late) * q // 100)] * 1000 if late else -1.0 for q in (50, 99)}
    return told | {"share": min(counted) / max(*counted, 1)}


def _arrived(connection: ssl.SSLSocket) -> list[float]:
    """Read what is there; return how many seconds ago each of its events was written."""
    late: list[float] = []
    with contextlib.suppress(ssl.SSLWantReadError):
        while True:
            got, now = connection.recv(_CHUNK), time.monotonic()
            if not got:
                sys.exit("the server hung up")
            late += [now - float(each) for each in _WRITTEN.findall(got)]
            if not connection.pending():
                return late
    return late


def main() -> None:
    """Read the arguments, measure, print."""
    what, port, ca, number, path, *more = sys.argv[1:]
    context, token = ssl.create_default_context(cafile=ca), sys.stdin.readline().strip()
    if what == "lists":
        found = lists(int(port), context, token, path, int(number))
    else:
        found = watches(int(port), context, token, path, int(more[0]), float(number))
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
