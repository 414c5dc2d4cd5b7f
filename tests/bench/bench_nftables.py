"""Measure the nftables backend on this machine's kernel: loading, adopting, and one change, as Services grow.

Each size runs in a process of its own, in a network namespace that it makes and removes; nothing else is touched.
`--large` adds 50,000 Services; `--sizes 100,1000` chooses others.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "proxy")]

from netplane.kernel import netns  # noqa: E402
from netplane.model import address  # noqa: E402
from netplane.model.address import Family  # noqa: E402
from netplane.model.service import Protocol  # noqa: E402
from netplane_proxy.plan.forwarding import (  # noqa: E402
    Backend,
    Forwarding,
    Frontend,
    Kind,
    NodeFacts,
    PortForwarding,
    PortKey,
)
from netplane_proxy.plan.ledger import Changes  # noqa: E402
from netplane_proxy.run.nftables import NftablesTarget, open_target  # noqa: E402

SIZES = (100, 1_000, 10_000)
ENDPOINTS = 3
ROUNDS = 2_000

NODE = NodeFacts(
    name="node-1",
    node_ips=(address.parse("172.30.0.11"),),
    nodeport_addresses=(address.parse("172.30.0.11"),),
    pod_cidrs=(address.prefix("10.0.0.0/8"),),
    service_cidrs=(address.prefix("172.16.0.0/12"),),
)

GOALS = {
    "cold start": (10_000, 1_000.0),
    "swap p99": (10_000, 2.0),
    "roll 1,000": (10_000, 100.0),
    "memory": (10_000, 120.0),
}


def service_port(number: int, *, turn: int = 0, count: int = ENDPOINTS) -> PortForwarding:
    """The one port of a Service; `turn` replaces one endpoint after the other."""
    pods = (number * 8 + (index if index >= turn % ENDPOINTS else index + ENDPOINTS) for index in range(count))
    backends = sorted(Backend((0x0A000000 + pod).to_bytes(4, "big"), 8080) for pod in pods)
    vip = (0xAC100000 + number).to_bytes(4, "big")
    key = PortKey("default", f"service-{number:05}", "http", Protocol.TCP, Family.V4)
    return PortForwarding(key, tuple(backends), frontends=(Frontend(vip, Protocol.TCP, 80, Kind.INTERNAL),))


async def measure(size: int) -> dict[str, float]:
    """Return all figures of one size: times in milliseconds, memory in MB."""
    target = open_target()
    forwarding = Forwarding("1", {port.key: port for port in map(service_port, range(size))}, NODE)
    figures = {"cold start": (await target.replace(forwarding)).seconds * 1e3}
    target.close()
    target = open_target()
    adopted = await target.replace(forwarding)
    assert adopted.operations == 0, "adopting changed something"
    figures["adopt"] = adopted.seconds * 1e3
    gc.freeze()
    figures |= await one_by_one(target, "swap", size, lambda n: service_port(n % size, turn=1 + n // size % 2))
    figures |= await one_by_one(
        target, "count ±1", size, lambda n: service_port(n % size, count=3 + (n // size + n) % 2)
    )
    figures |= await one_by_one(target, "new", size, lambda n: service_port(size + n))
    rolled: Changes = {port.key: port for port in (service_port(n, turn=2) for n in range(min(size, 1_000)))}
    figures["roll 1,000"] = (await target.commit(rolled, "3")).seconds * 1e3 * 1_000 / len(rolled)
    figures["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    target.close()
    return figures


async def one_by_one(
    target: NftablesTarget, name: str, size: int, port: Callable[[int], PortForwarding]
) -> dict[str, float]:
    """Commit single changes and return their middle and their slowest hundredth."""
    times = []
    for number in range(ROUNDS):
        changed = port(number * 7)
        began = time.perf_counter()
        await target.commit({changed.key: changed}, "2")
        times.append((time.perf_counter() - began) * 1e3)
    times.sort()
    return {f"{name} p50": times[len(times) // 2], f"{name} p99": times[len(times) * 99 // 100]}


@contextlib.contextmanager
def own_namespace() -> Iterator[None]:
    """Be in a new network namespace."""
    with tempfile.TemporaryDirectory() as folder:
        place = f"{folder}/netns"
        netns.create(place)
        try:
            with netns.inside(place):
                yield
        finally:
            netns.remove_if_present(place)


def show(figures: dict[int, dict[str, float]]) -> bool:
    """Print the table; return whether every goal was met."""
    sizes = list(figures)
    table = Table(title=f"nftables, {ENDPOINTS} endpoints each (milliseconds; memory in MB)")
    table.add_column("")
    for size in sizes:
        table.add_column(f"{size:,} Services", justify="right")
    if len(sizes) > 1:
        table.add_column(f"growth ×{sizes[-1] // sizes[0]:,}", justify="right")
    table.add_column("goal", justify="right")
    is_met = True
    for name in figures[sizes[0]]:
        row = [f"{figures[size][name]:.3g}" for size in sizes]
        if len(sizes) > 1:
            row.append(f"×{figures[sizes[-1]][name] / figures[sizes[0]][name]:.1f}")
        at, goal = GOALS.get(name, (0, 0.0))
        is_good = at not in figures or figures[at][name] < goal
        is_met &= is_good
        row.append((f"< {goal:g} at {at:,} {'✓' if is_good else '✗'}") if at in figures else "")
        table.add_row(name, *row)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return is_met


def main() -> int:
    """Run every size and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="50,000 Services as well")
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
    sizes = tuple(map(int, options.sizes.split(","))) if options.sizes else SIZES + (50_000,) * options.large
    figures: dict[int, dict[str, float]] = {}
    for size in sizes:
        argv = [sys.executable, __file__, "--one", str(size)]
        figures[size] = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
    return 0 if show(figures) else 1


if __name__ == "__main__":
    sys.exit(main())
