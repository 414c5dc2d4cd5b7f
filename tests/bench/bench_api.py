"""Measure the API server as it grows: durable creates, LISTs beside small GETs, one write to all watchers, memory.

Run it: `python tests/bench/bench_api.py [--sizes 1000,10000,50000] [--watchers N] [--seconds S]`; it exits 1 when a
goal is missed. Client and server share the machine: what the server alone spends is told as its CPU time beside.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import ssl
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.support import apiserver

_CLIENTS = 8
_TICKS = os.sysconf("SC_CLK_TCK")
_LISTED = 10_000
_WRITES_PER_SECOND = 200


@dataclass(slots=True)
class Goals:
    """What was measured against what is wanted."""

    missed: list[str] = field(default_factory=list)

    def at_least(self, what: str, value: float, goal: float) -> None:
        """Note a value that should be high."""
        self._note(what, value, goal, is_met=value >= goal, sign=">=")

    def below(self, what: str, value: float, goal: float) -> None:
        """Note a value that should be low."""
        self._note(what, value, goal, is_met=value < goal, sign="<")

    def _note(self, what: str, value: float, goal: float, *, is_met: bool, sign: str) -> None:
        print(f"  {'met' if is_met else 'MISSED':6} {what}: {value:,.0f} (goal {sign} {goal:,.0f})")
        if not is_met:
            self.missed.append(what)


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


async def creates(server: apiserver.Server, connections: Sequence[Connection], numbers: range) -> float:
    """Create pods from all connections at once; return how many a second."""
    waiting, spent = iter(numbers), []
    path = "/api/v1/namespaces/default/pods"

    async def client(connection: Connection) -> None:
        for number in waiting:
            started = time.perf_counter()
            code = await connection.ask("POST", path, pod(f"pod-{number:06}"))
            spent.append(time.perf_counter() - started)
            assert code == 201, code

    started, before = time.perf_counter(), cpu(server)
    await asyncio.gather(*(client(each) for each in connections))
    rate, used = len(numbers) / (time.perf_counter() - started), (cpu(server) - before) / len(numbers) * 1e6
    print(
        f"  durable creates, {len(connections)} clients: {rate:,.0f}/s, p50 {quantile(spent, 0.5):.2f} ms,"
        f" p99 {quantile(spent, 0.99):.2f} ms; the server's CPU {used:.0f} µs each"
    )
    return rate


async def lists(server: apiserver.Server, connection: Connection, other: Connection) -> tuple[float, float]:
    """List up to 10,000 pods while another client gets one over and over; return the server's ms and the GETs' p99."""
    small: list[float] = []
    is_over = asyncio.Event()
    path, turns = f"/api/v1/pods?limit={_LISTED}", 10

    async def gets() -> None:
        while not is_over.is_set():
            started = time.perf_counter()
            assert await other.ask("GET", "/api/v1/namespaces/default/pods/pod-000000") == 200
            small.append(time.perf_counter() - started)
            await asyncio.sleep(0.002)

    before = cpu(server)
    for _ in range(turns):
        await connection.send("GET", path)
        size = await connection.drain()
    spent = (cpu(server) - before) / turns * 1000
    async with asyncio.TaskGroup() as group:
        group.create_task(gets())
        for _ in range(turns):
            await connection.send("GET", path)
            await connection.drain()
        is_over.set()
    p99 = quantile(small, 0.99)
    print(f"  LIST of {size / 1e6:.1f} MB: {spent:.0f} ms of the server; GETs meanwhile p99 {p99:.1f} ms")
    return spent, p99


async def watches(watchers: Sequence[Connection], writer: Connection, run: str, seconds: float) -> float:
    """Let all watch one type while 200 writes a second go on; return the p99 of a write's way to all of them."""
    heard: list[float] = []
    written: dict[bytes, float] = {}
    writes = int(_WRITES_PER_SECOND * seconds)

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
        began = time.perf_counter()
        for number in range(writes):
            name = f"{run}-{number}"
            await asyncio.sleep(max(0.0, began + number / _WRITES_PER_SECOND - time.perf_counter()))
            written[name.encode()] = time.perf_counter()
            body = json.dumps({"metadata": {"name": name}, "data": {"a": "b"}}).encode()
            assert await writer.ask("POST", path, body) == 201
    p99 = quantile(heard, 0.99)
    print(f"  {writes} writes to {len(watchers)} watchers: p50 {quantile(heard, 0.5):.1f} ms, p99 {p99:.1f} ms")
    return p99


async def _revision(connection: Connection) -> str:
    await connection.send("GET", "/api/v1/namespaces/default/configmaps?limit=1")
    body = json.loads(await connection.reader.readexactly(connection.length))
    return str(body["metadata"]["resourceVersion"])


def resident(server: apiserver.Server) -> float:
    """Return the server's resident memory in MB."""
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def cpu(server: apiserver.Server) -> float:
    """Return the seconds of CPU that the server has used."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


async def measure(server: apiserver.Server, sizes: Sequence[int], watchers: int, seconds: float) -> list[str]:
    """Let the server grow from size to size and measure at each; return the goals that were missed."""
    goals, context, token = Goals(), server.context(), server.token
    goals.below("memory idle, MB", resident(server), 100)
    connections = [await Connection(server, context, token).open() for _ in range(_CLIENTS)]
    have = 0
    for size in sizes:
        print(f"{size:,} pods")
        rate = await creates(server, connections, range(have, size))
        have = size
        goals.at_least("creates a second", rate, 3000)
        spent, small = await lists(server, connections[0], connections[1])
        if size >= _LISTED:
            goals.below("LIST of 10,000 pods, ms of the server", spent, 50)
            goals.below("small GETs meanwhile p99, ms", small, 20)
        watching = [await Connection(server, context, token).open() for _ in range(watchers)]
        reached = await watches(watching, connections[2], f"beat-{size}", seconds)
        goals.below(f"a write to {watchers} watchers p99, ms", reached, 100)
        for each in watching:
            each.close()
        print(f"  memory: {resident(server):.0f} MB")
    goals.below(f"memory with {have:,} pods, MB", resident(server), 350)
    for each in connections:
        each.close()
    return goals.missed


def main() -> None:
    """Parse the options, start a server, measure."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--sizes", default="1000,10000,50000")
    options.add_argument("--watchers", type=int, default=1000)
    options.add_argument("--seconds", type=float, default=3.0)
    chosen = options.parse_args()
    sizes = [int(size) for size in chosen.sizes.split(",")]
    with tempfile.TemporaryDirectory() as directory:
        started = time.perf_counter()
        with apiserver.running(Path(directory) / "data") as server:
            print(f"start: {time.perf_counter() - started:.2f} s")
            missed = uvloop.run(measure(server, sizes, chosen.watchers, chosen.seconds))
    if missed:
        sys.exit(f"missed: {', '.join(dict.fromkeys(missed))}")


if __name__ == "__main__":
    main()
