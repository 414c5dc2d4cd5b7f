"""Measure what the rules cost connections: a pod's own address with all rules against none, a Service against direct.

One pod connects to another on a node made of namespaces, and resets at once; the three ways take turns within one run,
so that what else the machine does hits all alike. The nftables backend, 10 and 10,000 Services; `--sizes` for others.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "proxy")]

from netplane.kernel import netns  # noqa: E402
from netplane.model import address  # noqa: E402
from netplane.model.address import Family  # noqa: E402
from netplane_proxy.plan.forwarding import Backend  # noqa: E402
from tests.support.ports import cluster_ip, forwarding, service_port, vip  # noqa: E402
from tests.support.topology import FACTS, POD1, POD2, Topology, backend, topology  # noqa: E402

SIZES = (10, 10_000)
PORT = 9000
TURNS, SLICES, SECONDS = 4, 8, 0.08
GOAL = 0.95
_SERVER = f"""
import socket
listener = socket.create_server(("0.0.0.0", {PORT}), backlog=4096)
print("ready", flush=True)
while True:
    listener.accept()[0].close()
"""
_NO_TRACKING = "table ip tracking {}\ndelete table ip tracking\n"
_TRACKING = (
    _NO_TRACKING + "table ip tracking { chain c { type filter hook forward priority 0; ct state invalid drop; }\n}\n"
)
"""What nearly every node does anyway: it tells how much of the cost is the tracking of connections."""
_RESET = struct.pack("ii", 1, 0)


@contextlib.contextmanager
def server(lab: Topology) -> Iterator[None]:
    """Accept and close in a process of its own, in the first pod."""

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE)

    process = netns.run_in(lab.places["pod1"], start)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.wait()


def rate(lab: Topology, where: tuple[str, int]) -> float:
    """Return connections a second in the best of some short slices: what else the machine does only ever slows down."""
    return max(_slice(lab, where) for _ in range(SLICES))


def _slice(lab: Topology, where: tuple[str, int]) -> float:
    count = 0
    with netns.inside(lab.places["pod2"]):
        began = time.perf_counter()
        until = began + SECONDS
        while time.perf_counter() < until:
            for _ in range(20):
                with socket.socket() as one:
                    one.connect(where)
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            count += 20
        return count / (time.perf_counter() - began)


def measure(lab: Topology, size: int) -> dict[str, float]:
    """Return the best rate of each way, and their ratios."""
    web = service_port(cluster_ip(Family.V4), cluster=[backend(POD1, Family.V4, PORT)])
    pods = [Backend(address.parse(f"10.200.{n >> 8}.{n & 255}"), 8080) for n in range(3)]
    more = [
        service_port(cluster_ip(Family.V4, 2 + n % 250, port=1000 + n // 250), cluster=pods, name=f"s{n:05}")
        for n in range(size - 1)
    ]
    wanted = forwarding(web, *more, node=FACTS)
    direct, service = (POD1[Family.V4], PORT), (vip(Family.V4), 80)
    rates: dict[str, list[float]] = {"no rules": [], "tracking alone": [], "all rules": [], "service": []}
    with contextlib.closing(lab.target()) as target:
        for turn in range(TURNS):
            # Turn about, so that what warms up or wears out in the course of a turn favours nobody.
            steps = list(rates) if turn % 2 else list(reversed(rates))
            asyncio.run(target.cleanup())
            for step in steps:
                asyncio.run(target.replace(wanted) if step in ("all rules", "service") else target.cleanup())
                lab.run("node", "nft", "-f", "-", feed=_TRACKING if step == "tracking alone" else _NO_TRACKING)
                rates[step].append(rate(lab, service if step == "service" else direct))
        asyncio.run(target.cleanup())
    pairs = {
        "all rules / no rules": ("all rules", "no rules"),
        "all rules / tracking alone": ("all rules", "tracking alone"),
        "service / direct": ("service", "all rules"),
    }
    found = {f"{name}, 1/s": max(values) for name, values in rates.items()}
    for name, (a, b) in pairs.items():
        found[name] = max(rates[a]) / max(rates[b])
    return found


def main() -> int:
    """Run every size and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="", help="other sizes, by commas")
    options = parser.parse_args()
    if os.geteuid():
        print("skipped: needs root")
        return 0
    sizes = tuple(map(int, options.sizes.split(","))) if options.sizes else SIZES
    with tempfile.TemporaryDirectory() as folder, topology(Path(folder)) as lab, server(lab):
        rate(lab, (POD1[Family.V4], PORT))
        figures = {size: measure(lab, size) for size in sizes}
    table = Table(title=f"Connections from pod {POD2[Family.V4]} to pod {POD1[Family.V4]}, nftables")
    for column in ("", *(f"{size:,} Services" for size in sizes), "goal"):
        table.add_column(column, justify="right" if column else "left")
    is_met = True
    for name in figures[sizes[0]]:
        is_ratio = "/ " in name
        values = [figures[size][name] for size in sizes]
        is_met &= not is_ratio or min(values) >= GOAL
        shown = [f"{value:.3f}" if is_ratio else f"{value:,.0f}" for value in values]
        table.add_row(name, *shown, f">= {GOAL} {'✓' if min(values) >= GOAL else '✗'}" if is_ratio else "")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
