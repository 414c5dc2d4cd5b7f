"""Six nodes, of which one comes, goes, moves or is installed anew: all others follow at once, with nothing left."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from netplane.kernel.link import run as link
from netplane.kernel.link.objects import Address, LinkName, add, remove
from netplane.kube import types
from netplane_cni.plan import fabric
from tests.support.cni_api import ApiInside
from tests.support.cni_nodes import Machine, World, ip, until
from tests.support.cni_nursery import Nursery
from tests.support.cni_traffic import echo, talk

COUNT = 6
LIMIT = 3.0
"""Seconds; a second on a machine with nothing else to do."""

State = tuple[frozenset[tuple[bytes, bytes]], frozenset[tuple[bytes, bytes]], frozenset[tuple[bytes, bytes]]]
"""What a node holds of the others: routes, neighbours and forwarding entries."""


class Cluster:
    """The nodes as they are, and the Nodes that say so."""

    def __init__(self, world: World, api: ApiInside) -> None:
        self.world, self.api = world, api
        self.nodes: dict[str, dict[str, Any]] = {}

    def create(self, node: Mapping[str, Any]) -> None:
        self.nodes[node["metadata"]["name"]] = dict(node)
        self.api.do(self.api.fake.create(types.NODES, dict(node)))

    def delete(self, name: str) -> None:
        del self.nodes[name]
        self.api.do(self.api.fake.delete(types.NODES, name))

    def move(self, name: str, to: str) -> None:
        status = {"addresses": [{"type": "InternalIP", "address": to}]}
        self.nodes[name]["status"] = status
        self.api.do(self.api.fake.patch(types.NODES, name, {"status": status}, kind="merge", subresource="status"))

    def converged(self, *machines: Machine) -> float:
        """Wait until these nodes hold what the Nodes say, and nothing else; return how long it took."""
        began = time.monotonic()
        for machine in machines:
            wanted = self._wanted(machine)
            until(lambda m=machine, w=wanted: held(m) == w, limit=LIMIT)  # type: ignore[misc]  # bound here
        return time.monotonic() - began

    def _wanted(self, machine: Machine) -> State:
        routes, neighbours, forwards = set(), set(), set()
        for name, node in self.nodes.items():
            if name != machine.name:
                network = ip(node["spec"]["podCIDRs"][0].partition("/")[0])
                mac = fabric.computed_mac(name)
                routes.add((network, network))
                neighbours.add((network, mac))
                forwards.add((mac, ip(node["status"]["addresses"][0]["address"])))
        return frozenset(routes), frozenset(neighbours), frozenset(forwards)


def held(machine: Machine) -> State:
    with link.Socket(machine.netns) as socket:
        there = socket.link(fabric.DEVICE)
        if there is None:  # It is made anew when its address changes.
            return frozenset(), frozenset(), frozenset()
        found = socket.paths(protocol=fabric.FABRIC_PROTOCOL, index=there.index)
    return (
        frozenset((r.network, r.via) for r in found.routes if r.type == "unicast"),
        frozenset((n.address, n.mac) for n in found.neighbours),
        frozenset((f.mac, f.remote) for f in found.forwards),
    )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, cni_nursery: Nursery) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("converge")
    with World(folder / "world", nodes=COUNT, families=[4]) as world, ApiInside(world.underlay, "172.30.0.1") as api:
        world.kubeconfig, world.nursery = api.kubeconfig(folder / "kubeconfig"), cni_nursery
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


def test_a_node_that_leaves_and_comes_back(cluster: Cluster) -> None:
    *others, last = cluster.world.machines
    cluster.delete(last.name)
    cluster.converged(*others)
    cluster.create(last.node())
    cluster.converged(*cluster.world.machines)


def test_a_node_that_changes_its_address(cluster: Cluster) -> None:
    mover = cluster.world.machines[1]
    with link.Socket(mover.netns) as socket:
        there = socket.link("eth0")
        assert there is not None
        socket.commit([add(Address(there.index, ip("172.30.0.99"), 24))])
    cluster.move(mover.name, "172.30.0.99")
    cluster.converged(*cluster.world.machines)
    talks(cluster, cluster.world.machines[0], mover)


def test_a_node_installed_anew_under_its_old_name(cluster: Cluster) -> None:
    anew = cluster.world.machines[2]
    anew.kill()
    with link.Socket(anew.netns) as socket:
        socket.commit([remove(LinkName(fabric.DEVICE))])
    for file in (anew.folder / "state").iterdir():
        file.unlink()
    node = json.loads(json.dumps(anew.node()))
    node["metadata"]["uid"], node["spec"]["podCIDRs"] = "another", ["10.244.77.0/24"]
    cluster.delete(anew.name)
    cluster.create(node)
    cluster.converged(*(m for m in cluster.world.machines if m is not anew))
    anew.start()
    cluster.converged(*cluster.world.machines)
    talks(cluster, cluster.world.machines[0], anew)


def talks(cluster: Cluster, one: Machine, two: Machine) -> None:
    a, b = (m.pods.get("p") or m.pod("p") for m in (one, two))
    with echo(b.netns) as server:
        assert talk(server, a.netns, b.addresses[0]) == a.addresses[0]
