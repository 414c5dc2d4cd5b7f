"""Measure what the rules cost connections: a pod's own address with all rules against none, a Service against direct.

A pod connects to another on a node made of namespaces, and resets at once. Every way has a node of its own, and they
take turns every few hundredths of a second, so that what else the machine does hits all alike; a rate is connections
for each second that the client, and the kernel on its behalf, was on a CPU. The middle of the turns' ratios counts.

What the rules cost is judged against a node without any Service rule that tracks connections, for one nat rule that
never matches ("conntrack alone"): every node does whose pods reach the world masqueraded. Against a node that tracks
nothing at all ("nothing at all") it is shown for information: whatever translates addresses pays that difference first.
What the kernel's own translation costs, by a single rule for a single address, is shown as well ("one dnat rule"):
through a Service it can be no less. The nftables backend, 10 and 10,000 Services; `--sizes` for others.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "proxy")]

from netplane.kernel import netns  # noqa: E402
from netplane.model import address  # noqa: E402
from netplane.model.address import Family  # noqa: E402
from netplane_proxy.plan.forwarding import Backend, Forwarding  # noqa: E402
from tests.support.ports import cluster_ip, forwarding, service_port, vip  # noqa: E402
from tests.support.topology import FACTS, POD1, POD2, Topology, backend, topology  # noqa: E402

SIZES = (10, 10_000)
PORT = 9000
ROUNDS, SECONDS = 120, 0.03
GOAL = 0.95
_SERVER = f"""
import socket
listener = socket.create_server(("0.0.0.0", {PORT}), backlog=4096)
print("ready", flush=True)
while True:
    listener.accept()[0].close()
"""
_ONE_RULE = """
table ip one {
	chain prerouting { type nat hook prerouting priority -100;
%s
	}
	chain output { type nat hook output priority -100; }
	chain input { type nat hook input priority 100; }
	chain postrouting { type nat hook postrouting priority 100; meta mark 0x4000 masquerade; }
}
"""
_WAYS = ("nothing at all", "conntrack alone", "one dnat rule", "all rules", "service")
_GOALS = (("all rules", "conntrack alone"), ("service", "all rules"))
_INFORMATION = (
    ("conntrack alone", "nothing at all"),
    ("all rules", "nothing at all"),
    ("one dnat rule", "conntrack alone"),
    ("service", "one dnat rule"),
)
_BASELINES = {
    "nothing at all": "baseline: a node that tracks nothing",
    "conntrack alone": "baseline: a node that tracks, no rules",
}
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


class Slice(NamedTuple):
    """One turn of one way: connections for each second on a CPU, and how long the middle and the slowest took."""

    rate: float
    middle: float
    slowest: float


def connect(lab: Topology, where: tuple[str, int]) -> Slice:
    """Connect for a moment."""
    times: list[float] = []
    with netns.inside(lab.places["pod2"]):
        now = time.perf_counter()
        until, spent = now + SECONDS, time.thread_time()
        while now < until:
            with socket.socket() as one:
                one.connect(where)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            began, now = now, time.perf_counter()
            times.append(now - began)
        spent = time.thread_time() - spent
    times.sort()
    return Slice(len(times) / spent, times[len(times) // 2], times[len(times) * 99 // 100])


def wanted(size: int) -> Forwarding:
    """So many Services, the first of which is the pod that answers."""
    web = service_port(cluster_ip(Family.V4), cluster=[backend(POD1, Family.V4, PORT)])
    pods = [Backend(address.parse(f"10.200.{n >> 8}.{n & 255}"), 8080) for n in range(3)]
    more = [
        service_port(cluster_ip(Family.V4, 2 + n % 250, port=1000 + n // 250), cluster=pods, name=f"s{n:05}")
        for n in range(size - 1)
    ]
    return forwarding(web, *more, node=FACTS)


def measure(sizes: tuple[int, ...]) -> dict[str, list[Slice]]:
    """Return the turns of each way: those of every size, and for each size "all rules" and "service"."""
    direct, service = (POD1[Family.V4], PORT), (vip(Family.V4), 80)
    ways: list[tuple[str, Topology, tuple[str, int]]] = []
    with contextlib.ExitStack() as stack:

        def node() -> Topology:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            lab = stack.enter_context(topology(folder))
            stack.enter_context(server(lab))
            return lab

        ways.append(("nothing at all", node(), direct))
        ways.append(("conntrack alone", node(), direct))
        ways[-1][1].run("node", "nft", "-f", "-", feed=_ONE_RULE % "")
        ways.append(("one dnat rule", node(), service))
        to_pod = f"ip daddr {service[0]} tcp dport {service[1]} dnat to {direct[0]}:{direct[1]}"
        ways[-1][1].run("node", "nft", "-f", "-", feed=_ONE_RULE % to_pod)
        for size in sizes:
            # Apart, for a port that was used towards the pod a moment ago is one to avoid towards the Service.
            for name, where in (("all rules", direct), ("service", service)):
                ways.append((f"{name} {size}", node(), where))
                target = stack.enter_context(contextlib.closing(ways[-1][1].target()))
                asyncio.run(target.replace(wanted(size)))
        found: dict[str, list[Slice]] = {name: [] for name, _, _ in ways}
        for turn in range(ROUNDS):
            first = turn % len(ways)
            for name, lab, where in ways[first:] + ways[:first]:
                found[name].append(connect(lab, where))
        return found


def figures(found: dict[str, list[Slice]], size: int) -> dict[str, float]:
    """Return the middle rates and latencies of one size, and the ratios."""
    ways = {name: found.get(name) or found[f"{name} {size}"] for name in _WAYS}
    told = {f"{name}, connections per CPU second": statistics.median(one.rate for one in ways[name]) for name in _WAYS}
    told |= {f"{name}, p50 in µs": statistics.median(one.middle for one in ways[name]) * 1e6 for name in _WAYS}
    told |= {f"{name}, p99 in µs": statistics.median(one.slowest for one in ways[name]) * 1e6 for name in _WAYS}
    for a, b in (*_GOALS, *_INFORMATION):
        pairs = zip(ways[a], ways[b], strict=True)
        told[f"{a} / {b}"] = statistics.median(one.rate / other.rate for one, other in pairs)
    return told


def main() -> int:
    """Run every size and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="", help="other sizes, by commas")
    options = parser.parse_args()
    if os.geteuid():
        print("skipped: needs root")
        return 0
    sizes = tuple(map(int, options.sizes.split(","))) if options.sizes else SIZES
    found = measure(sizes)
    told = {size: figures(found, size) for size in sizes}
    table = Table(title=f"Connections from pod {POD2[Family.V4]} to pod {POD1[Family.V4]}, nftables")
    for column in ("", *(f"{size:,} Services" for size in sizes), "goal"):
        table.add_column(column, justify="right" if column else "left")
    is_met = True
    for name in told[sizes[0]]:
        values = [told[size][name] for size in sizes]
        is_ratio = " / " in name
        goal = _BASELINES.get(name.rpartition(" / ")[2], "") if is_ratio else ""
        if is_ratio and tuple(name.split(" / ")) in _GOALS:
            is_good = min(values) >= GOAL
            is_met &= is_good
            goal = f">= {GOAL} {'✓' if is_good else '✗'}  {goal}".rstrip()
        table.add_row(name, *(f"{value:.3f}" if is_ratio else f"{value:,.0f}" for value in values), goal)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
