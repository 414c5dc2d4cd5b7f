"""Measure `netplane proxy` end to end: the command itself, following an API server by HTTP, in a network namespace.

Once against a plain static API (tests/support/static_api), once against `netplane server`; each with 100, 1,000 and
10,000 Services of 3 endpoints. `--sizes 100,1000` chooses others, `--large` adds 50,000, `--api static` leaves one out.
Lines marked CPU count what the proxy itself used, HTTP and log included, whatever else the machine does; the others are
by the clock. Where the time goes shows bench_proxy_stages.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import uvloop
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "proxy")]

from netplane.kernel import netns  # noqa: E402
from netplane.kube import client  # noqa: E402
from netplane.kube.types import ENDPOINTSLICES, NODES, SERVICES, Object  # noqa: E402
from tests.support import apiserver, static_api  # noqa: E402

SIZES = (100, 1_000, 10_000)
CHANGES = 1_000
ROLLED = 1_000
IDLE_SECONDS = 5.0
CREATORS = 16
PATIENCE = 120.0

GOALS = {
    "change p99": {10_000: 2.0, 50_000: 5.0},
    "cold start": {10_000: 1_000.0},
    "roll 1,000, CPU": {10_000: 100.0},
    "flushed chain repaired": {10_000: 1_000.0},
    "idle CPU %": {10_000: 0.5},
    "memory": {10_000: 120.0},
}


def service(number: int, ip: str | None) -> Object:
    """A Service with one port."""
    spec: Object = {"type": "ClusterIP", "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]}
    spec |= {"selector": {"app": f"service-{number:05}"}} | ({"clusterIP": ip, "clusterIPs": [ip]} if ip else {})
    metadata = {"namespace": "default", "name": f"service-{number:05}", "labels": {"app": f"service-{number:05}"}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def pieces(number: int, turn: int = 0) -> Object:
    """The slice of a Service, as the endpoints controller writes it; each turn replaces one endpoint, -1 the first."""
    name = f"service-{number:05}"
    pods = [number * 8 + (index if index >= turn % 4 else index + 3) for index in range(3)]
    if turn < 0:
        pods = [number * 8 + 7, number * 8 + 1, number * 8 + 2]
    endpoints = [
        {
            "addresses": [f"10.{128 + (pod >> 16)}.{pod >> 8 & 255}.{pod & 255}"],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "nodeName": f"node-{pod % 50}",
            "targetRef": {"kind": "Pod", "namespace": "default", "name": f"{name}-{pod}", "uid": f"{pod:036}"},
        }
        for pod in pods
    ]
    metadata = {
        "namespace": "default",
        "name": f"{name}-abcde",
        "labels": {"kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": "bench"},
    }
    ports = [{"name": "http", "port": 8080, "protocol": "TCP"}]
    kind = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4"}
    return {**kind, "metadata": metadata, "endpoints": endpoints, "ports": ports}


NODE: Object = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "node-1"},
    "status": {"addresses": [{"type": "InternalIP", "address": "172.30.0.11"}]},
}


class Cluster(Protocol):
    """What the proxy follows."""

    kubeconfig: Path

    async def change(self, obj: Object) -> int:
        """Replace a slice, and return the revision since when it is so."""


class Static:
    """The static API, in this process."""

    def __init__(self, api: static_api.StaticApi, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self._api = api

    async def change(self, obj: Object) -> int:
        """Replace a slice, and return the revision since when it is so."""
        self._api.put(obj)
        return self._api.revision


class Real:
    """A `netplane server`, in a process of its own, and a client of it."""

    def __init__(self, api: client.Client, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self._api = api

    async def change(self, obj: Object) -> int:
        """Replace a slice, and return the revision since when it is so."""
        return int((await self._api.update(ENDPOINTSLICES, obj))["metadata"]["resourceVersion"])


@asynccontextmanager
async def static(size: int, folder: Path) -> AsyncIterator[Cluster]:
    """Serve canned objects."""
    async with static_api.serving(static_api.StaticApi()) as api:
        api.put(json.loads(json.dumps(NODE)))
        for number in range(size):
            api.put(service(number, f"10.{96 + (number + 1 >> 16)}.{number + 1 >> 8 & 255}.{number + 1 & 255}"))
            api.put(pieces(number))
        path = folder / "kubeconfig"
        path.write_text(static_api.kubeconfig(api.port))
        yield Static(api, path)


@asynccontextmanager
async def real(size: int, folder: Path) -> AsyncIterator[Cluster]:
    """Start a server and create everything by its API."""
    options = ("--no-controllers", "--service-cidr", "10.96.0.0/15")
    server = await asyncio.to_thread(apiserver.start, folder / "server", options=options)
    try:
        async with client.Client(client.load(str(server.kubeconfig)), user_agent="bench") as api:
            await api.create(NODES, NODE)
            numbers = iter(range(size))

            async def create() -> None:
                for number in numbers:
                    await api.create(SERVICES, service(number, None))
                    await api.create(ENDPOINTSLICES, pieces(number))

            await asyncio.gather(*(create() for _ in range(CREATORS)))
            yield Real(api, server.kubeconfig)
    finally:
        server.stop()


class Proxy:
    """The command under test, and what its log says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[tuple[float, dict[str, Any]]] = []
        self._news = asyncio.Event()

    async def follow(self) -> None:
        """Read its log."""
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            with_moment = time.perf_counter(), json.loads(line)
            self.lines.append(with_moment)
            self._news.set()

    async def said(self, what: str, count: int = 1, *, start: int = 0) -> list[tuple[float, dict[str, Any]]]:
        """Wait until it said something so many times since line `start`."""
        async with asyncio.timeout(PATIENCE):
            while True:
                found = [entry for entry in self.lines[start:] if entry[1].get("message", entry[1].get("msg")) == what]
                if len(found) >= count:
                    return found
                self._news.clear()
                await self._news.wait()

    async def follows(self, revision: int, *, start: int) -> float:
        """Return when it said, since line `start`, that its rules are of this revision or a later one."""
        count = 0
        while True:
            count += 1
            told = await self.said("rules follow", count, start=start)
            if int(told[-1][1]["revision"]) >= revision:
                return told[-1][0]
            count = len(told)

    def cpu(self) -> float:
        """Seconds it was on a CPU so far."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(path.read_text().split()[0]) for path in tasks) / 1e9

    def memory(self) -> float:
        """Resident MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (kilobytes,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(kilobytes) / 1024


@asynccontextmanager
async def proxy(cluster: Cluster, folder: Path) -> AsyncIterator[Proxy]:
    """Run the command until the block ends; the rules stay."""
    argv = [
        *apiserver.program(), "proxy", "--kubeconfig", str(cluster.kubeconfig), "--node-name", "node-1",
        "--cluster-cidr", "10.128.0.0/9", "--service-cidr", "10.96.0.0/15", "--state-dir", str(folder),
        "--healthz-bind-address", "", "--log-format", "json",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'proxy'}"}
    process = await asyncio.create_subprocess_exec(
        *argv, stderr=asyncio.subprocess.PIPE, env=environment, limit=1 << 20
    )
    made = Proxy(process)
    reading = asyncio.ensure_future(made.follow())
    try:
        yield made
    finally:
        process.terminate()
        await process.wait()
        await reading


async def measure(kind: str, size: int) -> dict[str, float]:
    """Return all figures: times in milliseconds, memory in MB."""
    make = {"static": static, "server": real}[kind]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with make(size, folder) as cluster:
            async with proxy(cluster, folder) as run:
                figures = await started(run)
                figures |= await changes(cluster, run, size)
                figures |= await roll(cluster, run, size)
                figures |= await idle(run)
                figures |= await drift(run)
            async with proxy(cluster, folder) as run:
                again = await started(run)
            return {**figures, "restart": again["cold start"], "restart, CPU": again["cold start, CPU"]}


async def started(run: Proxy) -> dict[str, float]:
    """From the first question to the API until everything is forwarded."""
    ((began, _),) = await run.said("reading the cluster")
    spent = run.cpu()
    ((done, _),) = await run.said("forwarding")
    return {"cold start": (done - began) * 1e3, "cold start, CPU": (run.cpu() - spent) * 1e3}


async def changes(cluster: Cluster, run: Proxy, size: int) -> dict[str, float]:
    """One change after the other; the proxy itself says how long each took from bytes received to committed."""
    await asyncio.sleep(1.0)
    sent, spent = [], []
    for turn in range(CHANGES):
        start = len(run.lines)
        began, before = time.perf_counter(), run.cpu()
        await cluster.change(pieces(turn * 7 % size, 1 + turn // size))
        ((done, _), *_) = await run.said("rules follow", start=start)
        sent.append((done - began) * 1e3)
        spent.append((run.cpu() - before) * 1e3)
    took = sorted(entry["ms"] for _, entry in await run.said("rules follow", CHANGES))
    sent.sort()
    spent.sort()
    last = len(took) * 99 // 100
    return {
        "change p50": took[len(took) // 2],
        "change p99": took[last],
        "change p99, CPU": spent[last],
        "write to log p50": sent[len(sent) // 2],
    }


async def roll(cluster: Cluster, run: Proxy, size: int) -> dict[str, float]:
    """Replace one endpoint of many Services, as fast as the API takes it."""
    count = min(size, ROLLED)
    spent, start, began = run.cpu(), len(run.lines), time.perf_counter()
    numbers = iter(range(count))

    async def write() -> int:
        return max([await cluster.change(pieces(number, -1)) for number in numbers], default=0)

    newest = max(await asyncio.gather(*(write() for _ in range(CREATORS))))
    last = await run.follows(newest, start=start)
    await asyncio.sleep(0.5)
    scale = ROLLED / count
    return {"roll 1,000, CPU": (run.cpu() - spent) * 1e3 * scale, "roll 1,000, wall": (last - began) * 1e3 * scale}


async def idle(run: Proxy) -> dict[str, float]:
    """Doing nothing."""
    await asyncio.sleep(1.0)
    spent = run.cpu()
    await asyncio.sleep(IDLE_SECONDS)
    return {"idle CPU %": (run.cpu() - spent) / IDLE_SECONDS * 100, "memory": run.memory()}


async def drift(run: Proxy) -> dict[str, float]:
    """Somebody flushes the chain that all connections begin in; until it stands again and that is told."""
    argv = ("nft", "flush", "chain", "ip", "netplane", "services")
    start, spent = len(run.lines), run.cpu()
    flushing = await asyncio.create_subprocess_exec(*argv)
    await flushing.wait()
    began = time.perf_counter()
    ((done, _), *_) = await run.said("world had drifted, repaired", start=start)
    return {"flushed chain repaired": (done - began) * 1e3, "flushed chain repaired, CPU": (run.cpu() - spent) * 1e3}


@contextmanager
def own_namespace() -> Iterator[None]:
    """Be in a new network namespace, with a loopback link and the node's address."""
    with tempfile.TemporaryDirectory() as folder:
        place = f"{folder}/netns"
        netns.create(place)
        try:
            with netns.inside(place):
                subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
                subprocess.run(["ip", "address", "add", "172.30.0.11/32", "dev", "lo"], check=True)
                yield
        finally:
            netns.remove_if_present(place)


def show(kind: str, figures: dict[int, dict[str, float]]) -> bool:
    """Print the table; return whether every goal was met."""
    sizes = list(figures)
    what = "a static API" if kind == "static" else "netplane server"
    table = Table(title=f"netplane proxy following {what}, 3 endpoints each (milliseconds; memory in MB)")
    for column in ("", *(f"{size:,} Services" for size in sizes), *(("growth",) if len(sizes) > 1 else ()), "goal"):
        table.add_column(column, justify="right" if column else "left")
    is_met = True
    for name in figures[sizes[0]]:
        row = [f"{figures[size][name]:.3g}" for size in sizes]
        if len(sizes) > 1:
            row.append(f"×{figures[sizes[-1]][name] / max(figures[sizes[0]][name], 1e-9):.1f}")
        judged = [(at, goal, figures[at][name] < goal) for at, goal in GOALS.get(name, {}).items() if at in figures]
        is_met &= all(is_good for _, _, is_good in judged)
        row.append(", ".join(f"< {goal:g} at {at:,} {'✓' if good else '✗'}" for at, goal, good in judged))
        table.add_row(name, *row)
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    return is_met


def main() -> int:
    """Run every size against both and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="50,000 Services as well")
    parser.add_argument("--sizes", default="", help="other sizes, by commas")
    parser.add_argument("--api", choices=["static", "server"], help="one alone")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if os.geteuid():
        print("skipped: needs root")
        return 0
    if options.one:
        with own_namespace():
            print(json.dumps(uvloop.run(measure(options.one[0], int(options.one[1])))))
        return 0
    sizes = tuple(map(int, options.sizes.split(","))) if options.sizes else SIZES + (50_000,) * options.large
    is_met = True
    for kind in [options.api] if options.api else ["static", "server"]:
        figures: dict[int, dict[str, float]] = {}
        for size in sizes:
            argv = [sys.executable, __file__, "--one", kind, str(size)]
            figures[size] = json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout)
        is_met &= show(kind, figures)
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
