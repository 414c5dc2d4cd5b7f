"""Measure what the rules cost connections: a pod's own address with all rules against none, a Service against direct.

A pod connects to another on a node made of namespaces, and resets at once. Every way has a node of its own, and they
take turns every few hundredths of a second, so that what else the machine does hits all alike. A rate is connections
for each second that client or server, and the kernel on their behalf, was on a CPU. The middle of the turns' ratios
counts, and by how much it may be off is shown.

No rules at all has two meanings, and both are shown. On a node where nothing tracks connections ("nothing at all"), and
on one that tracks them for the sake of one nat rule that never matches ("conntrack alone"): every node does whose pods
reach the world masqueraded. What the kernel takes for that no rule can save, so the rules are judged by the second; how
much it takes here is a line of its own, and so is what it takes for tracking without any nat ("one ct rule").
Last, all rules on a node where one more rule keeps every packet from being tracked ("all rules, untracked"): nothing is
looked up in them then, and what is left is the price of the kernel's way through tracking's, translation's and the
rules' hooks, below which no rules come that can translate.
What the kernel's own translation costs, by a single rule for a single address, is shown as well ("one dnat rule"):
through a Service it can be no less. The nftables backend, 10 and 10,000 Services; `--sizes` for others.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "proxy")]

from netplane.model.address import Family  # noqa: E402
from tests.support import connection_rates as rates  # noqa: E402
from tests.support.connection_rates import Slice  # noqa: E402
from tests.support.topology import POD1, POD2, Topology  # noqa: E402

SIZES = (10, 10_000)
ROUNDS, SECONDS = 200, 0.02
GOAL = 0.95
_BARE = ("nothing at all", "one ct rule", "conntrack alone", "one dnat rule")
_FILLED = ("all rules", "all rules, untracked", "service")
_WAYS = (*_BARE, *_FILLED)
_GOALS = (("all rules", "conntrack alone"), ("service", "all rules"))
_INFORMATION = (
    ("all rules", "nothing at all"),
    ("all rules, untracked", "nothing at all"),
    ("conntrack alone", "nothing at all"),
    ("one ct rule", "nothing at all"),
    ("one dnat rule", "conntrack alone"),
    ("service", "one dnat rule"),
)
_BASELINES = {
    "nothing at all": "no rules, nothing is tracked",
    "conntrack alone": "no rules, connections are tracked",
}


def measure(sizes: tuple[int, ...]) -> dict[str, list[Slice]]:
    """Return the turns of each way: those of every size, and for each size those that all rules are loaded for."""
    with rates.Ways() as ways, contextlib.ExitStack() as stack:
        ways.add("nothing at all", rates.DIRECT, lambda _: None)
        ways.add("one ct rule", rates.DIRECT, rates.ruled(rates.ONE_LOOK))
        ways.add("conntrack alone", rates.DIRECT, rates.ruled(rates.NO_RULE))
        ways.add("one dnat rule", rates.SERVICE, rates.ruled(rates.ONE_RULE))
        for size in sizes:
            fill = functools.partial(forward, stack, size)
            # Apart, for a port that was used towards the pod a moment ago is one to avoid towards the Service.
            ways.add(f"all rules {size}", rates.DIRECT, fill)
            ways.add(f"all rules, untracked {size}", rates.DIRECT, functools.partial(untracked, fill))
            ways.add(f"service {size}", rates.SERVICE, fill)
        return ways.turns(rounds=ROUNDS, seconds=SECONDS)


def forward(stack: contextlib.ExitStack, size: int, lab: Topology) -> None:
    """Load all rules of so many Services on a node."""
    target = stack.enter_context(contextlib.closing(lab.target()))
    asyncio.run(target.replace(rates.wanted(size)))


def untracked(fill: Callable[[Topology], None], lab: Topology) -> None:
    """Load all rules on a node, and one that keeps all that it forwards untracked."""
    fill(lab)
    rates.ruled(rates.UNTRACKED)(lab)


def figures(found: dict[str, list[Slice]], size: int) -> dict[str, tuple[float, float]]:
    """Return the middle rates and latencies of one size, and the ratios with by how much they may be off."""
    ways = {name: found.get(name) or found[f"{name} {size}"] for name in _WAYS}
    told = {f"{name}, connections per CPU second": statistics.median(one.rate for one in ways[name]) for name in _WAYS}
    told |= {f"{name}, p50 in µs": statistics.median(one.middle for one in ways[name]) * 1e6 for name in _WAYS}
    told |= {f"{name}, p99 in µs": statistics.median(one.slowest for one in ways[name]) * 1e6 for name in _WAYS}
    ratios = {
        f"{a} / {b}": (rates.ratio(ways[a], ways[b]), rates.doubt(ways[a], ways[b]))
        for a, b in (*_GOALS, *_INFORMATION)
    }
    return {name: (value, 0.0) for name, value in told.items()} | ratios


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
    return 0 if show({size: figures(found, size) for size in sizes}) else 1


def show(told: dict[int, dict[str, tuple[float, float]]]) -> bool:
    """Print the table; return whether every goal was met."""
    table = Table(title=f"Connections from pod {POD2[Family.V4]} to pod {POD1[Family.V4]}, nftables")
    for column in ("", *(f"{size:,} Services" for size in told), "goal"):
        table.add_column(column, justify="right" if column else "left")
    is_met = True
    for name in next(iter(told.values())):
        values = [figures[name] for figures in told.values()]
        is_ratio = " / " in name
        goal = _BASELINES.get(name.rpartition(" / ")[2], "") if is_ratio else ""
        if is_ratio and tuple(name.split(" / ")) in _GOALS:
            is_good = min(value for value, _ in values) >= GOAL
            is_met &= is_good
            goal = f">= {GOAL} {'✓' if is_good else '✗'}  {goal}".rstrip()
        shown = (f"{value:.3f} ± {doubt:.3f}" if is_ratio else f"{value:,.0f}" for value, doubt in values)
        table.add_row(name, *shown, goal)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return is_met


if __name__ == "__main__":
    sys.exit(main())
