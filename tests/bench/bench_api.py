"""Measure the API server as it grows: durable creates, LISTs beside small GETs, one write to all watchers, memory.

Run it: `python tests/bench/bench_api.py [--sizes 1000,10000,50000] [--watchers N] [--seconds S]`; it exits 1 when a
goal is missed. Client and server share the machine: what the server alone spends is told as its CPU time beside. There
is a server for each size, and creates are asked of them in turn, so that a machine that gets slower meanwhile does so
for all of them; what a piece of work costs that is always the same says how fast it was. The pods are alike, as those
of one template are; what pods cost that are not is a line of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.support import api_load, apiserver
from tests.support.api_connection import Connection, editor

_CLIENTS = 8
_WRITERS = 4
_ROUNDS = 5
_SETTLING = 1.0
_ROUND, _SHORTEST = 1000, 500
_OWN = 300
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


def pod(name: str, *, is_own: bool = False) -> bytes:
    """Return a pod of about 2 KB once it has its defaults; one of its own kind has a spec that no other has."""
    container = {
        "name": "web",
        "image": "registry.example/web:1",
        "ports": [{"containerPort": 8080}],
        "env": [{"name": f"VARIABLE_{n}", "value": "some value of some length"} for n in range(8)],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
    }
    if is_own:
        container["args"] = [name]
    metadata = {"name": name, "labels": {"app": "bench", "shard": name[-1]}}
    return json.dumps(
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}
    ).encode()


def quantile(values: Sequence[float], q: float) -> float:
    """Return a quantile in milliseconds."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * q))] * 1000


@dataclass(frozen=True, slots=True)
class Creates:
    """What a round of creates cost: seconds of each request, and µs of CPU for each create."""

    rate: float
    seconds: list[float]
    server: float
    loop: float
    clients: float
    same_work: float


async def creates(
    server: apiserver.Server, connections: Sequence[Connection], numbers: range, *, own: bool = False
) -> Creates:
    """Create pods from all connections at once; what they send is made beforehand, as clients share the machine."""
    waiting, spent = iter([pod(f"{'own' if own else 'pod'}-{number:06}", is_own=own) for number in numbers]), []
    path = "/api/v1/namespaces/default/pods"

    async def client(connection: Connection) -> None:
        for body in waiting:
            started = time.perf_counter()
            code = await connection.ask("POST", path, body)
            spent.append(time.perf_counter() - started)
            assert code == 201, code

    same_work = _same_work()
    started, before, looped, clients = time.perf_counter(), cpu(server), loop_cpu(server), time.process_time()
    await asyncio.gather(*(client(each) for each in connections))
    rate = len(numbers) / (time.perf_counter() - started)
    each = 1e6 / len(numbers)
    server_, loop = (cpu(server) - before) * each, (loop_cpu(server) - looped) * each
    return Creates(rate, spent, server_, loop, (time.process_time() - clients) * each, same_work)


def _same_work() -> float:
    """Return the ms of CPU for a piece of work that is always the same: how fast the machine is just now."""
    started = time.process_time()
    for _ in range(20):
        json.loads(json.dumps({str(number): number for number in range(1000)}))
    return (time.process_time() - started) * 1000


def tell_creates(what: str, rounds: Sequence[Creates]) -> float:
    """Print what the rounds at one size cost; return the median of their rates."""

    def median(name: str) -> float:
        return float(statistics.median(getattr(each, name) for each in rounds))

    spent = [seconds for each in rounds for seconds in each.seconds]
    rates = [each.rate for each in rounds]
    print(
        f"  {what}, {_CLIENTS} clients: {median('rate'):,.0f}/s ({min(rates):,.0f} to {max(rates):,.0f} in"
        f" {len(rounds)} rounds), p50 {quantile(spent, 0.5):.2f} ms, p99 {quantile(spent, 0.99):.2f} ms\n"
        f"    {median('server'):.0f} µs of the server's CPU each, {median('loop'):.0f} of them its loop's, which alone"
        f" allows {1e6 / median('loop'):,.0f}/s; {median('clients'):.0f} µs of the clients';"
        f" the same work took {min(each.same_work for each in rounds):.0f} to"
        f" {max(each.same_work for each in rounds):.0f} ms"
    )
    return median("rate")


async def lists(server: apiserver.Server, other: Connection) -> tuple[float, float]:
    """List up to 10,000 pods while another client gets one over and over; return the server's ms and the GETs' p99."""
    path, turns = f"/api/v1/pods?limit={_LISTED}", 10
    before = cpu(server)
    async with _client(server, "lists", str(turns), path) as reader:
        size = json.loads(await reader.readline())["bytes"]
    spent = (cpu(server) - before) / turns * 1000
    small: list[float] = []
    async with _client(server, "lists", str(turns), path) as reader:
        over = asyncio.ensure_future(reader.readline())
        while not over.done():
            started = time.perf_counter()
            assert await other.ask("GET", "/api/v1/namespaces/default/pods/pod-000000") == 200
            small.append(time.perf_counter() - started)
            await asyncio.sleep(0.002)
        wall = json.loads(over.result())["seconds"] * 1000
    p99 = quantile(small, 0.99)
    print(
        f"  LIST of {size / 1e6:.1f} MB: {spent:.0f} ms of the server, {wall:.0f} ms to the client;"
        f" {len(small)} GETs meanwhile p50 {quantile(small, 0.5):.1f} ms, p99 {p99:.1f} ms"
    )
    return spent, p99


async def watches(
    server: apiserver.Server, writers: Sequence[Connection], count: int, run: str, seconds: float
) -> tuple[float, float]:
    """Let many watch one type while 200 writes a second are wanted of some clients.

    Return the writes a second that were done, and the p99 of a write's way to the watchers, in ms.
    """
    path = "/api/v1/namespaces/default/configmaps"
    watched = f"{path}?watch=1&resourceVersion={await _revision(writers[0])}"
    numbers = iter(range(int(_WRITES_PER_SECOND * seconds)))
    written = 0

    async def write(connection: Connection) -> None:
        nonlocal written
        for number in numbers:
            await asyncio.sleep(began + number / _WRITES_PER_SECOND - time.monotonic())
            if time.monotonic() - began > seconds:
                return
            data = {"metadata": {"name": f"{run}-{number}"}, "data": {"at": str(time.monotonic())}}
            assert await connection.ask("POST", path, json.dumps(data).encode()) == 201
            written += 1

    async with _client(server, "watches", str(seconds + 1), watched, str(count)) as reader:
        before, own, began = cpu(server), time.process_time(), time.monotonic()
        await asyncio.gather(*(write(each) for each in writers))
        took = time.monotonic() - began
        own = time.process_time() - own
        found = json.loads(await reader.readline())
        used = cpu(server) - before
    print(
        f"  {written / took:.0f} writes/s to {count} watchers ({found['read']} of them read what they get):"
        f" p50 {found['p50']:.1f} ms, p99 {found['p99']:.1f} ms; the slowest got {found['share'] * 100:.0f} % of the"
        f" bytes of the first\n    {used / took * 100:.0f} % of a core to serve, {found['cpu'] / took * 100:.0f} % to"
        f" listen, {own / took * 100:.0f} % to write; {used / max(written * count, 1) * 1e6:.1f} µs of the server for"
        " each event of each watcher"
    )
    return written / took, float(found["p99"])


@contextlib.asynccontextmanager
async def _client(server: apiserver.Server, *arguments: str) -> AsyncIterator[asyncio.StreamReader]:
    """Run a client in a process of its own; what it prints after it has begun can be read."""
    what, *more = arguments
    ca = str(server.data_dir / "pki" / "ca.crt")
    process = await asyncio.create_subprocess_exec(
        sys.executable, api_load.__file__, what, str(server.port), ca, *more,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(server.token.encode() + b"\n")
        assert (await process.stdout.readline()).strip() == b"begun"
        yield process.stdout
    finally:
        if process.returncode is None and not process.stdout.at_eof():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        await process.wait()


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
    return sum(_ran(each) for each in Path(f"/proc/{server.process.pid}/task").iterdir())


def loop_cpu(server: apiserver.Server) -> float:
    """Return the seconds of CPU that the thread of its event loop has used."""
    return _ran(Path(f"/proc/{server.process.pid}/task/{server.process.pid}"))


def _ran(thread: Path) -> float:
    return int((thread / "schedstat").read_text().split()[0]) / 1e9


@dataclass(frozen=True, slots=True)
class Sized:
    """A server that shall have so many pods, and the connections to it."""

    size: int
    server: apiserver.Server
    connections: list[Connection]


async def grow(all_sizes: Sequence[Sized], goals: Goals) -> None:
    """Let every server grow to its size; the last pods of each are measured, in rounds that take turns."""
    turns = {each.size: min(_ROUNDS, max(1, each.size // _SHORTEST)) for each in all_sizes}
    measured = {each.size: min(_ROUND, each.size // turns[each.size]) for each in all_sizes}
    for each in all_sizes:
        if unmeasured := range(each.size - turns[each.size] * measured[each.size]):
            await creates(each.server, each.connections, unmeasured)
    rounds: dict[int, list[Creates]] = {each.size: [] for each in all_sizes}
    others: list[Creates] = []
    for turn in range(_ROUNDS):
        for each in [one for one in all_sizes if turn < turns[one.size]]:
            first = each.size - (turns[each.size] - turn) * measured[each.size]
            numbers = range(first, first + measured[each.size])
            rounds[each.size].append(await creates(each.server, each.connections, numbers))
            await asyncio.sleep(_SETTLING)  # What this server still folds into its file is not the next one's cost.
        numbers = range(turn * _OWN, (turn + 1) * _OWN)
        others.append(await creates(all_sizes[0].server, all_sizes[0].connections, numbers, own=True))
        await asyncio.sleep(_SETTLING)
    for size, found in rounds.items():
        print(f"{size:,} pods, in turn")
        goals.at_least("creates a second", tell_creates("durable creates", found), 3000)
    tell_creates("the same of pods whose specs all differ", others)


async def measure(servers: Sequence[tuple[int, apiserver.Server]], watchers: int, seconds: float) -> list[str]:
    """Let servers grow to their sizes and measure each; return the goals that were missed."""
    goals = Goals()
    goals.below("memory idle, MB", max(resident(server) for _, server in servers), 100)
    all_sizes = []
    for size, server in servers:
        context = server.context()
        token = await editor(server, context)
        all_sizes.append(
            Sized(size, server, [await Connection(server, context, token).open() for _ in range(_CLIENTS)])
        )
    await grow(all_sizes, goals)
    for each in all_sizes:
        print(f"{each.size:,} pods\n  memory: {resident(each.server):.0f} MB, before watchers come")
        spent, small = await lists(each.server, each.connections[1])
        if each.size >= _LISTED:
            goals.below("LIST of 10,000 pods, ms of the server", spent, 50)
            goals.below("small GETs meanwhile p99, ms", small, 20)
        written, reached = await watches(
            each.server, each.connections[:_WRITERS], watchers, f"beat-{each.size}", seconds
        )
        goals.at_least("writes a second meanwhile", written, _WRITES_PER_SECOND * 0.98)
        goals.below(f"a write to {watchers} watchers p99, ms", reached, 100)
        print(f"  memory: {resident(each.server):.0f} MB, after they left")
    goals.below(f"memory with {all_sizes[-1].size:,} pods, MB", resident(all_sizes[-1].server), 350)
    for each in all_sizes:
        for connection in each.connections:
            connection.close()
    return goals.missed


def main() -> None:
    """Parse the options, start a server, measure."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--sizes", default="1000,10000,50000")
    options.add_argument("--watchers", type=int, default=1000)
    options.add_argument("--seconds", type=float, default=8.0)
    chosen = options.parse_args()
    sizes = sorted(int(size) for size in chosen.sizes.split(","))
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as running:
        servers = []
        for size in sizes:
            started = time.perf_counter()
            servers.append((size, running.enter_context(apiserver.running(Path(directory) / str(size)))))
            print(f"start: {time.perf_counter() - started:.2f} s")
        missed = uvloop.run(measure(servers, chosen.watchers, chosen.seconds))
    if missed:
        sys.exit(f"missed: {', '.join(dict.fromkeys(missed))}")


if __name__ == "__main__":
    main()
