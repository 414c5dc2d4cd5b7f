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

_WRITTEN = re.compile(rb'"at":"([0-9.]+)"')
_CHUNK = 1 << 18


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
    """Follow with many watches; return the quantiles of the milliseconds from a write to its arrival."""
    _limit_of_files()
    waiting = selectors.DefaultSelector()
    for _ in range(count):
        connection = _ask(port, context, token, path)
        connection.setblocking(False)
        waiting.register(connection, selectors.EVENT_READ, connection)
    print("begun", flush=True)
    late: list[float] = []
    end, reads, before = time.monotonic() + seconds, 0, time.process_time()
    while time.monotonic() < end:
        for key, _ in waiting.select(0.1):
            reads += 1
            with contextlib.suppress(ssl.SSLWantReadError):
                got = key.data.recv(_CHUNK)
                if not got:
                    sys.exit("the server hung up")
                now = time.monotonic()
                late += [now - float(each) for each in _WRITTEN.findall(got)]
                while key.data.pending():
                    got, now = key.data.recv(_CHUNK), time.monotonic()
                    late += [now - float(each) for each in _WRITTEN.findall(got)]
    late.sort()
    told = {"events": len(late), "reads": reads, "cpu": time.process_time() - before}
    return told | {f"p{q}": late[min(len(late) - 1, len(late) * q // 100)] * 1000 if late else -1.0 for q in (50, 99)}


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
