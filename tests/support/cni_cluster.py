"""Nodes that follow an API server: what each must hold of the others, by what the Nodes say, and what it holds."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netplane.kernel.link import run as link
from netplane.kernel.link.objects import Address, LinkName, add, remove
from netplane.kube import types
from netplane_cni.plan import fabric
from tests.support.cni_api import ApiInside
from tests.support.cni_nodes import Machine, World, ip, until
from tests.support.cni_nursery import Nursery

Pairs = frozenset[tuple[bytes, bytes]]
LIMIT = 30.0
"""Seconds; a second on a machine with nothing else to do, as `bench_converge` shows."""


@dataclass(frozen=True)
class State:
    """What a node holds: routes to others and their gateways, neighbours, forwarding entries; and its own networks."""

    routes: Pairs
    neighbours: Pairs
    forwards: Pairs
    own: frozenset[bytes]


class Cluster:
    """The nodes as they are, and the Nodes that say so."""

    def __init__(self, world: World, api: ApiInside) -> None:
        self.world, self.api = world, api
        self.nodes: dict[str, dict[str, Any]] = {}

    def create(self, node: Mapping[str, Any]) -> None:
        self.nodes[node["metadata"]["name"]] = json.loads(json.dumps(node))
        self.api.do(self.api.fake.create(types.NODES, dict(node)))

    def delete(self, name: str) -> None:
        del self.nodes[name]
        self.api.do(self.api.fake.delete(types.NODES, name))

    def move(self, machine: Machine, to: Sequence[str]) -> None:
        """Give a node other addresses."""
        with link.Socket(machine.netns) as socket:
            there = socket.link("eth0")
            assert there is not None
            socket.commit([add(Address(there.index, ip(a), 64 if ":" in a else 24)) for a in to])
        status = {"addresses": [{"type": "InternalIP", "address": a} for a in self.world.of_families(to)]}
        self.nodes[machine.name]["status"] = status
        patched = self.api.fake.patch(types.NODES, machine.name, {"status": status}, kind="merge", subresource="status")
        self.api.do(patched)

    def reinstall(self, machine: Machine, cidrs: Sequence[str]) -> None:
        """Put another machine in a node's place, with its name and addresses alone; its daemon is not started."""
        machine.kill()
        with link.Socket(machine.netns) as socket:
            socket.commit([remove(LinkName(fabric.DEVICE))])
        for file in (machine.folder / "state").iterdir():
            file.unlink()
        node = json.loads(json.dumps(machine.node()))
        node["metadata"]["uid"], node["spec"]["podCIDRs"] = "another", self.world.of_families(cidrs)
        self.delete(machine.name)
        self.create(node)

    def converged(self, *machines: Machine, pause: float = 0.01) -> float:
        """Wait until these nodes hold what the Nodes say, and nothing else; return how long it took."""
        began = time.monotonic()
        for machine in machines:
            wanted = self.wanted(machine)
            until(lambda m=machine, w=wanted: held(m) == w, limit=LIMIT, pause=pause)  # type: ignore[misc]  # bound here
        return time.monotonic() - began

    def wanted(self, machine: Machine) -> State:
        """Return what a node must hold by what the Nodes say now."""
        routes, neighbours, forwards = set(), set(), set()
        mine = self.nodes[machine.name]
        for name, node in self.nodes.items():
            if name == machine.name:
                continue
            mac, (first, *_) = fabric.computed_mac(name), addresses(node)
            for cidr in node["spec"]["podCIDRs"]:
                network = ip(cidr.partition("/")[0])
                if self._is_direct(mine, node):
                    routes.add((network, next(a for a in addresses(node) if len(a) == len(network))))
                    continue
                routes.add((network, network))
                neighbours.add((network, mac))
                forwards.add((mac, first))
        own = frozenset(ip(cidr.partition("/")[0]) for cidr in mine["spec"]["podCIDRs"])
        return State(frozenset(routes), frozenset(neighbours), frozenset(forwards), own)

    def _is_direct(self, one: Mapping[str, Any], two: Mapping[str, Any]) -> bool:
        if self.world.fabric == "auto":
            return addresses(one)[0][:3] == addresses(two)[0][:3]
        return self.world.fabric == "direct"


def addresses(node: Mapping[str, Any]) -> list[bytes]:
    return [ip(row["address"]) for row in node["status"]["addresses"]]


def held(machine: Machine) -> State:
    """Return what a node holds."""
    with link.Socket(machine.netns) as socket:
        there = socket.link(fabric.DEVICE)  # It is made anew when its address changes.
        found = socket.paths(protocol=fabric.FABRIC_PROTOCOL, index=there.index if there else 0)
    return State(
        frozenset((r.network, r.via) for r in found.routes if r.type == "unicast"),
        frozenset((n.address, n.mac) for n in found.neighbours),
        frozenset((f.mac, f.remote) for f in found.forwards),
        frozenset(r.network for r in found.routes if r.type != "unicast"),
    )


@contextlib.contextmanager
def running(
    folder: Path, nursery: Nursery, *, nodes: int, fabric: str, families: Sequence[int], far: Sequence[int] = ()
) -> Iterator[Cluster]:
    """Run so many nodes that follow an API server, all ready."""
    with (
        World(folder / "world", nodes=nodes, families=families, fabric=fabric, far=far, nursery=nursery) as world,
        ApiInside(world.underlay, "172.30.0.1") as api,
    ):
        world.kubeconfig = api.kubeconfig(folder / "kubeconfig")
        made = Cluster(world, api)
        for machine in world.machines:
            made.create(machine.node())
            machine.start(wait=False)
        until(lambda: all(m.status().get("ready") and m.conflist.exists() for m in world.machines), limit=60)
        try:
            yield made
        finally:
            for machine in world.machines:
                machine.close()
