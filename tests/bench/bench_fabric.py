"""Measure how the paths to other nodes follow: all of a large cluster at the start, one node that joins or leaves.

The real fabric and the set of what is not masqueraded (without --cluster-cidr), in a namespace of its own, with as many
Nodes as told (5,000). Times are of this process and, on its behalf, the kernel on a CPU, so that a busy machine counts
little; of changes the middle of many. A join must cost the same among 1,000 nodes and among 5,000.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "cni")]

from netplane.kernel import conntrack, netns  # noqa: E402
from netplane.kernel.link import run as link  # noqa: E402
from netplane.kernel.link.objects import Address, LinkChange, Veth, add, change  # noqa: E402
from netplane.kernel.nft import run as nft  # noqa: E402
from netplane.model import address  # noqa: E402
from netplane.model.node import Node  # noqa: E402
from netplane.reconcile.loop import Cause  # noqa: E402
from netplane_cni.plan import fabric, masquerade  # noqa: E402
from netplane_cni.plan.inside import Inside  # noqa: E402
from netplane_cni.run.fabric import Fabric  # noqa: E402
from netplane_cni.run.rules import Rules  # noqa: E402

COLD_GOAL, CHANGE_GOAL = 1.0, 0.001
CHANGES = 100


def node(number: int) -> Node:
    """Return a node: 172.16.0.0/12 underlay, a /24 of 10.0.0.0/8 for its pods."""
    ip = (172 << 24 | 16 << 16) + number + 1
    cidr = (10 << 24) + (number << 8)
    return Node(
        f"node-{number:05}",
        uid=str(number),
        internal_ips=(ip.to_bytes(4, "big"),),
        pod_cidrs=(address.Prefix(cidr.to_bytes(4, "big"), 24),),
    )


def make_underlay() -> None:
    """Give the namespace the link of node 0."""
    with link.Socket() as wire:
        wire.commit([add(Veth("eth0", "far")), *(change(LinkChange(name=n, is_up=True)) for n in ("eth0", "far"))])
        there = wire.link("eth0")
        assert there is not None
        wire.commit([add(Address(there.index, node(0).internal_ips[0], 12))])


async def measure(count: int, mode: fabric.Mode) -> tuple[float, float, float]:
    """Return the CPU seconds of the first load, of a join, and of a departure."""
    nodes = {one.name: one for one in map(node, range(count))}
    made = Fabric(node(0).name, fabric.Settings(mode), lambda *_: None)
    inside, me = Inside(), node(0)
    kernel, flows = nft.Socket(), conntrack.Socket()
    rule = Rules(kernel, flows, lambda: masquerade.Facts(me.pod_cidrs, inside.networks, (), True, me.internal_ips))

    async def act(cause: Cause, found: dict[str, Node]) -> float:
        began = time.process_time()
        made.offer(found, "1")
        await made.act(cause)
        inside.follow(found)
        await rule.bring_up_to_date(must_look=cause != "change")
        return time.process_time() - began

    try:
        cold = await act("start", dict(nodes))
        joins, leaves = [], []
        for turn in range(CHANGES):
            fresh = node(count + turn)
            more = {**nodes, fresh.name: fresh}
            joins.append(await act("change", more))
            leaves.append(await act("change", dict(nodes)))
        return cold, statistics.median(joins), statistics.median(leaves)
    finally:
        made.close()
        kernel.close()
        flows.close()


def main() -> int:
    """Measure, print, and return 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 5000])
    sizes = parser.parse_args().sizes
    table = Table("fabric", "nodes", "cold, ms", "join, ms", "leave, ms", title="CPU time")
    missed = []
    for mode in ("vxlan", "direct"):
        joins = []
        for count in sizes:
            with tempfile.TemporaryDirectory() as folder:
                place = f"{folder}/netns"
                netns.create(place)
                try:

                    def inside(count: int = count, mode: fabric.Mode = mode) -> tuple[float, float, float]:
                        make_underlay()
                        return asyncio.run(measure(count, mode))

                    cold, join, leave = netns.run_in(place, inside)
                finally:
                    netns.remove_if_present(place)
            joins.append(join)
            table.add_row(mode, str(count), f"{cold * 1e3:.0f}", f"{join * 1e3:.2f}", f"{leave * 1e3:.2f}")
            missed += [f"{mode}, {count} nodes: cold {cold:.2f} s"] if cold > COLD_GOAL else []
            missed += [f"{mode}, {count} nodes: a join {join * 1e3:.2f} ms"] if join > CHANGE_GOAL else []
            missed += [f"{mode}, {count} nodes: a departure {leave * 1e3:.2f} ms"] if leave > CHANGE_GOAL else []
    Console().print(table)
    print(f"goals: cold under {COLD_GOAL:g} s, a change under {CHANGE_GOAL * 1e3:g} ms")
    for one in missed:
        print(f"missed: {one}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
