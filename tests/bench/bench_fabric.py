"""Measure how the paths to other nodes follow: all of a large cluster at the start, one node that joins or leaves.

The real fabric and the set of what is not masqueraded (without --cluster-cidr), in a namespace of its own, with as many
Nodes as told (100, 1,000, 5,000), from the Node as JSON to the kernel. Times are of this process and, on its behalf,
the kernel on a CPU, so that a busy machine counts little; of changes the middle of many. A join must cost the same
among 100 nodes and among 5,000. "two addresses" is vxlan where each node has another address on a second network; for
WireGuard, which not every kernel has, the device is a dummy and its peers are told to a stand-in. With bgp all nodes
are on one link, and BIRD, for which a change must be none, is a stand-in, too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "cni")]

from netplane.kernel import conntrack, netns  # noqa: E402
from netplane.kernel.link import run as link  # noqa: E402
from netplane.kernel.link.objects import Address, LinkChange, Veth, add, change  # noqa: E402
from netplane.kernel.nft import run as nft  # noqa: E402
from netplane.kernel.wireguard import wire  # noqa: E402
from netplane.kernel.wireguard.fake import public  # noqa: E402
from netplane.kernel.wireguard.objects import Change, Device, Identity, text  # noqa: E402
from netplane.kube import decode  # noqa: E402
from netplane.lib import clock  # noqa: E402
from netplane.model import address  # noqa: E402
from netplane.model.node import Node  # noqa: E402
from netplane.reconcile.loop import Cause  # noqa: E402
from netplane_cni.plan import bgp, fabric, masquerade, wireguard  # noqa: E402
from netplane_cni.plan.inside import Inside  # noqa: E402
from netplane_cni.run.bgp import Bgp  # noqa: E402
from netplane_cni.run.encryption import Encryption  # noqa: E402
from netplane_cni.run.fabric import Fabric  # noqa: E402
from netplane_cni.run.rules import Rules  # noqa: E402
from netplane_cni.run.translation import Translation  # noqa: E402

COLD_GOAL, CHANGE_GOAL = 1.0, 0.001
GROWTH_GOAL = 1.25
"""Of the same change among the fewest nodes: what caches and a busy machine make of it, not fifty times the nodes."""
CHANGES = 100


WAYS = ("vxlan", "direct", "auto", "wireguard", "bgp", "two addresses")


def node(number: int, way: str) -> Node:
    """Return a node: 172.16.0.0/12 underlay (and 192.168.0.0/16), a /24 of 10.0.0.0/8 for its pods."""
    return decode.node(written(number, way))


def written(number: int, way: str) -> dict[str, Any]:
    """Return the same as the API server tells it."""
    ips = [((172 << 24 | 16 << 16) + number + 1).to_bytes(4, "big")]
    ips += [((192 << 24 | 168 << 16) + number + 1).to_bytes(4, "big")] if way == "two addresses" else []
    key = {wireguard.PUBLIC_KEY: text(number.to_bytes(32, "big")), wireguard.PORT: "51820"}
    return {
        "metadata": {
            "name": f"node-{number:05}",
            "uid": str(number),
            "resourceVersion": "1",
            "labels": {"kubernetes.io/hostname": f"node-{number:05}", "topology.kubernetes.io/zone": "a"},
            "annotations": key if way == "wireguard" else {},
        },
        "spec": {"podCIDRs": [f"{address.text(((10 << 24) + (number << 8)).to_bytes(4, 'big'))}/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": address.text(ip)} for ip in ips]},
    }


def make_underlay(way: str) -> None:
    """Give the namespace the link of node 0."""
    with link.Socket() as wire:
        wire.commit([add(Veth("eth0", "far")), *(change(LinkChange(name=n, is_up=True)) for n in ("eth0", "far"))])
        there = wire.link("eth0")
        assert there is not None
        for ip, length in zip(node(0, way).internal_ips, (12, 16), strict=False):
            wire.commit([add(Address(there.index, ip, length))])


class WithoutDevice(Fabric):
    """The fabric with a dummy for WireGuard's device."""

    def _ensure_encrypted(self, plan: fabric.Plan) -> tuple[int, int]:
        if plan.encrypted is None:
            return super()._ensure_encrypted(plan)
        with link.Socket() as wire:
            if wire.link(wireguard.DEVICE) is None:
                wire.commit([add(Veth(wireguard.DEVICE, "wg.far"))])
            there = wire.link(wireguard.DEVICE)
        assert there is not None
        return there.index, self._adjust(there, plan.encrypted, plan.tunnel_addresses)


class Listener:
    """WireGuard that believes what it is told."""

    def identify(self, index: int, mine: Identity) -> None:
        self.public = public(mine.private)

    def commit(self, index: int, changes: Sequence[Change]) -> None:
        for _ in wire.changes(index, changes):
            pass

    def device(self, index: int) -> Device:
        return Device(index)


class Told(Encryption):
    """The key and peers, told to a stand-in for WireGuard."""

    def _opened(self) -> Listener:
        return Listener()


class Heard(Bgp):
    """What BIRD is told, once."""

    async def _start(self, want: str) -> None:
        if self._told:
            raise AssertionError("BIRD was told of a node")
        self._told = want


class Case:
    """One cluster, as node 0 sees it. To be made in that node's namespace."""

    def __init__(self, count: int, way: str, folder: Path) -> None:
        mode: fabric.Mode = "vxlan" if way == "two addresses" else way  # type: ignore[assignment]  # the others are modes
        self.count, self.way = count, way
        self.nodes = {one.name: one for one in (node(number, way) for number in range(count))}
        self.me = node(0, way)
        encryption = Told(folder, 51820, clock.SYSTEM) if way == "wireguard" else None
        self.made = WithoutDevice(self.me.name, fabric.Settings(mode), lambda *_: None, encryption)
        self.bird = Heard(folder, bgp.Settings(peers=(bgp.peer("172.16.0.9:64513"),)), ()) if way == "bgp" else None
        self.inside = Inside()
        self.kernel, self.flows = nft.Socket(), conntrack.Socket()
        self.rules = Translation(Rules(self.kernel), self.flows, self.facts)
        self.joins: list[float] = []
        self.leaves: list[float] = []

    def facts(self) -> masquerade.Facts:
        return masquerade.Facts(self.me.pod_cidrs, self.inside.networks, (), True, self.me.internal_ips)

    def close(self) -> None:
        for one in (self.made, self.kernel, self.flows):
            one.close()

    async def start(self) -> float:
        """Return the CPU seconds of the first load."""
        began = time.process_time()
        await self.act("start", dict(self.nodes))
        cold = time.process_time() - began
        await self.act("start", {})  # What the start makes anew is not the change's.
        return cold

    async def turn(self, number: int) -> None:
        """Let a node join and leave."""
        event = written(self.count + number, self.way)
        began = time.process_time()
        fresh = decode.node(event)
        self.nodes[fresh.name] = fresh
        await self.act("change", {fresh.name: fresh})
        joined = time.process_time()
        del self.nodes[fresh.name]
        await self.act("change", {fresh.name: None})
        self.leaves.append(time.process_time() - joined)
        self.joins.append(joined - began)

    async def act(self, cause: Cause, changes: dict[str, Node | None]) -> None:
        self.inside.follow(changes)
        self.made.offer(self.nodes, changes, "1")
        await self.made.act(cause)
        if self.bird is not None and (settled := self.made.settled) is not None:
            await self.bird.bring(settled[0][self.me.name], settled[1])
        if cause == "change":
            await self.rules.follow_networks(self.inside.take)
        else:
            await self.rules.bring_up_to_date(must_look=True)


async def turns(cases: list[Case]) -> None:
    """Let nodes join and leave in each cluster in turn, so that a busy machine hits all alike."""
    for number in range(CHANGES):
        for case in cases:
            await case.turn(number)


def measured(sizes: list[int], way: str) -> list[tuple[Case, float]]:
    """Return the clusters of these sizes after all changes, and the CPU seconds of their first load."""
    found: list[tuple[Case, float]] = []
    with contextlib.ExitStack() as stack:
        for count in sizes:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            place = f"{folder}/netns"
            netns.create(place)
            stack.callback(netns.remove_if_present, place)

            def begin(count: int = count, folder: str = folder) -> tuple[Case, float]:
                make_underlay(way)
                case = Case(count, way, Path(folder))
                stack.callback(case.close)
                return case, asyncio.run(case.start())

            found.append(netns.run_in(place, begin))
        netns.run_in(place, lambda: asyncio.run(turns([case for case, _ in found])))
    return found


def main() -> int:
    """Measure, print, and return 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 5000])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    given = parser.parse_args()
    table = Table("fabric", "nodes", "cold, ms", "join, ms", "leave, ms", "growth", title="CPU time")
    missed = []
    for way in given.ways:
        found = measured(given.sizes, way)
        least, _ = found[0]
        for case, cold in found:
            join, leave = statistics.median(case.joins), statistics.median(case.leaves)
            rows = zip(case.joins, case.leaves, least.joins, least.leaves, strict=True)
            growth = statistics.median((a + b) / (c + d) for a, b, c, d in rows)
            figures = f"{cold * 1e3:.0f}", f"{join * 1e3:.2f}", f"{leave * 1e3:.2f}", f"{growth:.2f}"
            table.add_row(way, str(case.count), *figures)
            missed += [f"{way}, {case.count} nodes: cold {cold:.2f} s"] if cold > COLD_GOAL else []
            for what, seconds in (("a join", join), ("a departure", leave)):
                missed += [f"{way}, {case.count} nodes: {what} {seconds * 1e3:.2f} ms"] if seconds > CHANGE_GOAL else []
            missed += [f"{way}, {case.count} nodes: changes grow to {growth:.2f}"] if growth > GROWTH_GOAL else []
    Console().print(table)
    print(f"goals: cold under {COLD_GOAL:g} s, a change under {CHANGE_GOAL * 1e3:g} ms, and no dearer among more nodes")
    for one in missed:
        print(f"missed: {one}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
