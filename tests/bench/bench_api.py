"""Measure the API server: LIST of 10,000 pods, durable creates per second, one write to 500 watchers.

Run it: `python tests/bench/bench_api.py [--pods N] [--watchers N] [--seconds S]`. Client and server share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.support import apiserver

_CLIENTS = 8


class Connection:
    """One keep-alive connection that speaks just enough HTTP/1.1 to cost next to nothing."""

    def __init__(self, server: apiserver.Server, context: ssl.SSLContext, token: str) -> None:
        self._server = server
        self._context = context
        self._head = f"Host: localhost\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n".encode()

    async def open(self) -> Connection:
        """Connect."""
        self.reader, self._writer = await asyncio.open_connection(
            "127.0.0.1", self._server.port, ssl=self._context, server_hostname="localhost", limit=1 << 24
        )
        return self

    async def send(self, method: str, path: str, body: bytes = b"") -> int:
        """Send a request and read the answer's head; return its code and keep the length of its body."""
        length = b"Content-Length: %d\r\n\r\n" % len(body)
        self._writer.write(f"{method} {path} HTTP/1.1\r\n".encode() + self._head + length + body)
        head = await self.reader.readuntil(b"\r\n\r\n")
        self.length = -1
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                self.length = int(line[15:])
        return int(head[9:12])

    async def drain(self) -> int:
        """Read the body, chunked or not, and return its size."""
        if self.length >= 0:
            return len(await self.reader.readexactly(self.length))
        total = 0
        while True:
            size = int(await self.reader.readline(), 16)
            total += len(await self.reader.readexactly(size + 2)) - 2
            if not size:
                return total

    async def ask(self, method: str, path: str, body: bytes = b"") -> int:
        """Send a request, read all of the answer, return its code."""
        code = await self.send(method, path, body)
        await self.drain()
        return code

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


def pod(name: str) -> bytes:
    """Return a pod of about 2 KB once it has its defaults."""
    container = {
        "name": "web",
        "image": "registry.example/web:1",
        "ports": [{"containerPort": 8080}],
        "env": [{"name": f"VARIABLE_{n}", "value": "some value of some length"} for n in range(8)],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
    }
    metadata = {"name": name, "labels": {"app": "bench", "shard": name[-1]}}
    return json.dumps(
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}
    ).encode()


def quantile(values: Sequence[float], q: float) -> float:
    """Return a quantile in milliseconds."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * q))] * 1000


async def creates(connections: Sequence[Connection], count: int) -> None:
    """Create pods from all connections at once."""
    numbers, spent = iter(range(count)), []
    path = "/api/v1/namespaces/default/pods"

    async def client(connection: Connection) -> None:
        for number in numbers:
            started = time.perf_counter()
            code = await connection.ask("POST", path, pod(f"pod-{number:06}"))
            spent.append(time.perf_counter() - started)
            assert code == 201, code

    started = time.perf_counter()
    await asyncio.gather(*(client(each) for each in connections))
    rate = count / (time.perf_counter() - started)
    print(
        f"durable creates, {len(connections)} clients: {rate:,.0f}/s,"
        f" p50 {quantile(spent, 0.5):.2f} ms, p99 {quantile(spent, 0.99):.2f} ms"
    )


async def lists(connection: Connection, other: Connection) -> None:
    """List all pods while another client gets one again and again."""
    spent: list[float] = []
    small: list[float] = []
    is_over = asyncio.Event()

    async def gets() -> None:
        while not is_over.is_set():
            started = time.perf_counter()
            assert await other.ask("GET", "/api/v1/namespaces/default/pods/pod-000000") == 200
            small.append(time.perf_counter() - started)

    async with asyncio.TaskGroup() as group:
        group.create_task(gets())
        for _ in range(10):
            started = time.perf_counter()
            await connection.send("GET", "/api/v1/pods")
            size = await connection.drain()
            spent.append(time.perf_counter() - started)
        is_over.set()
    print(
        f"LIST of all pods, {size / 1e6:.1f} MB: median {statistics.median(spent) * 1000:.0f} ms, reading included;"
        f" small GETs meanwhile p99 {quantile(small, 0.99):.1f} ms"
    )


async def watches(watchers: Sequence[Connection], writer: Connection, writes: int) -> None:
    """Let all watch, write now and then, and take the time until the last one has heard of it."""
    heard: list[float] = []
    written: dict[bytes, float] = {}

    async def follow(connection: Connection) -> None:
        got = 0
        while got < writes:
            line = await connection.reader.readline()
            if b'"type":"' in line:
                name = line[line.index(b'"name":"') + 8 :].partition(b'"')[0]
                heard.append(time.perf_counter() - written[name])
                got += 1

    path = "/api/v1/namespaces/default/configmaps"
    for connection in watchers:
        assert await connection.send("GET", f"{path}?watch=1&resourceVersion={await _revision(writer)}") == 200
    async with asyncio.TaskGroup() as group:
        for connection in watchers:
            group.create_task(follow(connection))
        for number in range(writes):
            name = f"beat-{number}"
            written[name.encode()] = time.perf_counter()
            body = json.dumps({"metadata": {"name": name}, "data": {"a": "b"}}).encode()
            assert await writer.ask("POST", path, body) == 201
            await asyncio.sleep(0.1)
    print(
        f"one write to {len(watchers)} watchers: p50 {quantile(heard, 0.5):.1f} ms, p99 {quantile(heard, 0.99):.1f} ms"
    )


async def _revision(connection: Connection) -> str:
    await connection.send("GET", "/api/v1/namespaces/default/configmaps?limit=1")
    body = json.loads(await connection.reader.readexactly(connection.length))
    return str(body["metadata"]["resourceVersion"])


def resident(server: apiserver.Server) -> float:
    """Return the server's resident memory in MB."""
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


async def measure(server: apiserver.Server, pods: int, watchers: int, writes: int) -> None:
    """Run all measurements against one server."""
    context, token = server.context(), server.token
    print(f"memory idle: {resident(server):.0f} MB")
    connections = [await Connection(server, context, token).open() for _ in range(_CLIENTS)]
    await creates(connections, pods)
    print(f"memory with {pods} pods: {resident(server):.0f} MB")
    await lists(connections[0], connections[1])
    watching = [await Connection(server, context, token).open() for _ in range(watchers)]
    await watches(watching, connections[2], writes)
    for each in (*connections, *watching):
        each.close()


def main() -> None:
    """Parse the options, start a server, measure."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--pods", type=int, default=10_000)
    options.add_argument("--watchers", type=int, default=500)
    options.add_argument("--writes", type=int, default=20)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        started = time.perf_counter()
        with apiserver.running(Path(directory) / "data") as server:
            print(f"start: {time.perf_counter() - started:.2f} s")
            uvloop.run(measure(server, chosen.pods, chosen.watchers, chosen.writes))


if __name__ == "__main__":
    main()
