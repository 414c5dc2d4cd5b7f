"""Measure where the proxy's time goes, stage by stage in one process and by CPU: JSON to facts, store, plan, kernel.

10,000 Services of 3 endpoints, all at a cold start, then single changes of a slice, then a thousand at once;
`--sizes` for others.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "proxy")]

from netplane.kube import decode, quick, watch  # noqa: E402
from netplane.kube.store import Pending, Staged, Store  # noqa: E402
from netplane.kube.types import ENDPOINTSLICES, SERVICES, Object, Resource  # noqa: E402
from netplane.model import address  # noqa: E402
from netplane_proxy.plan import host  # noqa: E402
from netplane_proxy.plan.ledger import Steps  # noqa: E402
from netplane_proxy.plan.meaning import Meaning  # noqa: E402
from netplane_proxy.run.nftables import open_target  # noqa: E402
from tests.bench.bench_proxy import own_namespace, pieces, service  # noqa: E402

SIZES = (100, 1_000, 10_000)
CHANGES = 1_000
BURST = 1_000
CHUNK = 1 << 17
READERS = {SERVICES: quick.SERVICES, ENDPOINTSLICES: quick.ENDPOINT_SLICES}
SETTINGS = host.Settings(
    "node-1", cluster_cidrs=(address.prefix("10.128.0.0/9"),), service_cidrs=(address.prefix("10.96.0.0/15"),)
)


class Stopwatch:
    """CPU seconds by stage."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what the block uses."""
        began = time.process_time()
        yield
        self.spent[name] = self.spent.get(name, 0.0) + time.process_time() - began


def line(obj: Object, version: int) -> bytes:
    """An event as a watch sends it."""
    obj["metadata"] |= {"resourceVersion": str(version), "uid": f"{version:036}"}
    return orjson.dumps({"type": "ADDED", "object": obj}) + b"\n"


class Proxy:
    """What the proxy is made of, without the API and its loop, filled with so many Services."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.stores = {
            SERVICES: Store(SERVICES, decode.service),
            ENDPOINTSLICES: Store(ENDPOINTSLICES, decode.endpoint_slice),
        }
        self.meaning = Meaning(host.facts(SETTINGS, None, ()))
        self.target = open_target()
        self.pending = Pending()

    def events(self, data: bytes) -> None:
        """Take events of slices."""
        for event in watch.Decoder(READERS[ENDPOINTSLICES]).feed(data):
            if (made := self.stores[ENDPOINTSLICES].apply(event)) is not None:
                self.pending.add([made], 0.0)

    async def start(self, raw: Mapping[Resource, bytes]) -> Stopwatch:
        """Read the lists as they come in chunks, and forward."""
        spent = Stopwatch()
        for resource, store in self.stores.items():
            decoder, staged = watch.Decoder(READERS[resource]), Staged()
            for at in range(0, len(raw[resource]), CHUNK):
                with spent.stage("JSON to facts"):
                    events = decoder.feed(raw[resource][at : at + CHUNK])
                with spent.stage("store"):
                    for event in events:
                        store.stage_event(staged, event)
            with spent.stage("store"):
                self.pending.add(store.replace(staged), 0.0)
        with spent.stage("plan"):
            plan(self.meaning, self.pending)
        with spent.stage("kernel"):
            await self.target.replace(self.meaning.forwarding("1"))
        return spent

    async def changes(self) -> Stopwatch:
        """Follow single changes of slices."""
        spent, store = Stopwatch(), self.stores[ENDPOINTSLICES]
        for turn in range(CHANGES):
            data = line(pieces(turn * 7 % self.size, 1 + turn // self.size), 2 * self.size + turn + 1)
            with spent.stage("JSON to facts"):
                (event,) = watch.Decoder(READERS[ENDPOINTSLICES]).feed(data)
            with spent.stage("store"):
                made = store.apply(event)
                assert made is not None
                self.pending.add([made], 0.0)
            with spent.stage("plan"):
                steps = plan(self.meaning, self.pending)
            with spent.stage("kernel"):
                await self.target.commit({key: step.now for key, step in steps.items()}, "2")
        return spent

    async def burst(self, count: int) -> Stopwatch:
        """Follow many changes that come at once."""
        spent = Stopwatch()
        data = b"".join(line(pieces(number, -1), 4 * self.size + CHANGES + number) for number in range(count))
        with spent.stage("JSON to facts"):
            self.events(data)
        with spent.stage("plan"):
            steps = plan(self.meaning, self.pending)
        with spent.stage("kernel"):
            await self.target.commit({key: step.now for key, step in steps.items()}, "3")
        return spent


async def measure(size: int) -> dict[str, float]:
    """Return milliseconds of a cold start and microseconds of one change, by stage."""
    raw, made, count = lists(size), Proxy(size), min(size, BURST)
    gc.freeze()
    gc.set_threshold(5_000_000)
    start = await made.start(raw)
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    change, burst = await made.changes(), await made.burst(count)
    made.target.close()
    found = {f"cold start, {name} in ms": seconds * 1e3 for name, seconds in start.spent.items()}
    found["cold start, all in ms"] = sum(start.spent.values()) * 1e3
    found |= {f"one change, {name} in µs": seconds / CHANGES * 1e6 for name, seconds in change.spent.items()}
    found["one change, all in µs"] = sum(change.spent.values()) / CHANGES * 1e6
    scale = BURST / count * 1e3
    found |= {f"1,000 changes at once, {name} in ms": seconds * scale for name, seconds in burst.spent.items()}
    return found | {"1,000 changes at once, all in ms": sum(burst.spent.values()) * scale}


def lists(size: int) -> dict[Resource, bytes]:
    """Return what a server sends of so many Services."""
    vips = (f"10.{96 + (n + 1 >> 16)}.{n + 1 >> 8 & 255}.{n + 1 & 255}" for n in range(size))
    return {
        SERVICES: b"".join(line(service(n, vip), n + 1) for n, vip in enumerate(vips)),
        ENDPOINTSLICES: b"".join(line(pieces(n), size + n + 1) for n in range(size)),
    }


def plan(meaning: Meaning, pending: Pending) -> Steps:
    """Decide what the waiting changes mean."""
    for resource, key, _, new in pending.take()[0]:
        if resource is SERVICES:
            meaning.take_service(key, new)
        else:
            meaning.take_slice(key, new)
    return meaning.settle()


def main() -> int:
    """Run every size and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="", help="other sizes, by commas")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if os.geteuid():
        print("skipped: needs root")
        return 0
    if options.one:
        with own_namespace():
            print(json.dumps(asyncio.run(measure(options.one))))
        return 0
    sizes = tuple(map(int, options.sizes.split(","))) if options.sizes else SIZES
    figures: dict[int, dict[str, float]] = {}
    for size in sizes:
        argv = [sys.executable, __file__, "--one", str(size)]
        figures[size] = json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout)
    table = Table(title="The proxy's stages, nftables, 3 endpoints each, CPU time")
    for column in ("", *(f"{size:,} Services" for size in sizes), "growth"):
        table.add_column(column, justify="right" if column else "left")
    for name in figures[sizes[0]]:
        row = [f"{figures[size][name]:.0f}" for size in sizes]
        table.add_row(name, *row, f"×{figures[sizes[-1]][name] / max(figures[sizes[0]][name], 1e-9):.1f}")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
