"""Measure how long nodes take to follow one that leaves, joins, moves or is installed anew.

Real daemons in namespaces on a bridge, an API server that tells them of Nodes, each fabric that this kernel has. What
counts is the time from the change of the Node until every other node holds what the Nodes say, and nothing else:
routes, neighbours, forwarding entries. It is the clock's; the middle of some rounds counts.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "cni")]

from tests.support.cni_cluster import Cluster, running  # noqa: E402
from tests.support.cni_nursery import nursery  # noqa: E402

GOAL = 1.0
FABRICS = {
    "vxlan": ("vxlan", (4, 6), ()),
    "vxlan over IPv6": ("vxlan", (6,), ()),
    "direct": ("direct", (4, 6), ()),
    "auto": ("auto", (4, 6), (4,)),
}
CHANGES = ("leaves", "joins", "moves", "is new")


def measure(cluster: Cluster, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each change, of which each round makes all."""
    *others, last = cluster.world.machines
    moved, anew = others[1], others[2]
    found: dict[str, list[float]] = {what: [] for what in CHANGES}
    for turn in range(rounds):
        cluster.delete(last.name)
        found["leaves"].append(cluster.converged(*others, pause=0.002))
        cluster.create(last.node())
        found["joins"].append(cluster.converged(*others, pause=0.002))
        cluster.converged(last)
        cluster.move(moved, [f"172.30.0.{100 + turn}", f"fd00:30::{100 + turn}"])
        found["moves"].append(cluster.converged(*cluster.world.machines, pause=0.002))
        number = 100 + turn
        cluster.reinstall(anew, [f"10.244.{number}.0/24", f"fd00:244:0:{number}::/64"])
        found["is new"].append(cluster.converged(*(m for m in cluster.world.machines if m is not anew), pause=0.002))
        anew.start()
        cluster.converged(*cluster.world.machines)
    return found


def main() -> int:
    """Measure, print, and return 1 when the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    table = Table("fabric", *CHANGES, title="Until every node follows, ms")
    missed = []
    with nursery() as quick:
        for name, (fabric, families, far) in FABRICS.items():
            with (
                tempfile.TemporaryDirectory() as folder,
                running(Path(folder), quick, nodes=4, fabric=fabric, families=families, far=far) as cluster,
            ):
                middle = {what: statistics.median(rows) for what, rows in measure(cluster, given.rounds).items()}
            table.add_row(name, *(f"{middle[what] * 1e3:.0f}" for what in CHANGES))
            missed += [f"{name}: a node that {w}: {middle[w]:.2f} s" for w in CHANGES if middle[w] > GOAL]
    Console().print(table)
    print(f"goal: under {GOAL:g} s")
    for one in missed:
        print(f"missed: {one}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
