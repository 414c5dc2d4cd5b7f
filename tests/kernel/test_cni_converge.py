"""Nodes of which one comes, goes, moves or is installed anew: all others follow at once, with nothing left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cni_cluster import Cluster, running
from tests.support.cni_nodes import Machine
from tests.support.cni_nursery import Nursery
from tests.support.cni_traffic import echo, talk

COUNT = 4
FABRICS = {
    "vxlan": ("vxlan", (4, 6), ()),
    "vxlan over IPv6": ("vxlan", (6,), ()),
    "direct": ("direct", (4, 6), ()),
    "auto": ("auto", (4, 6), (4,)),
}


@pytest.fixture(scope="module", params=list(FABRICS))
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, cni_nursery: Nursery
) -> Iterator[Cluster]:
    fabric, families, far = FABRICS[request.param]
    folder = tmp_path_factory.mktemp("converge")
    with running(folder, cni_nursery, nodes=COUNT, fabric=fabric, families=families, far=far) as made:
        made.converged(*made.world.machines)
        yield made


def test_a_node_that_leaves_and_comes_back(cluster: Cluster) -> None:
    *others, last = cluster.world.machines
    cluster.delete(last.name)
    cluster.converged(*others)
    cluster.create(last.node())
    cluster.converged(*cluster.world.machines)


def test_a_node_that_changes_its_address(cluster: Cluster) -> None:
    mover = cluster.world.machines[1]
    cluster.move(mover, ["172.30.0.99", "fd00:30::99"])
    cluster.converged(*cluster.world.machines)
    talks(cluster.world.machines[0], mover)


def test_a_node_installed_anew_under_its_old_name(cluster: Cluster) -> None:
    anew = cluster.world.machines[2]
    cluster.reinstall(anew, ["10.244.77.0/24", "fd00:244:0:77::/64"])
    cluster.converged(*(m for m in cluster.world.machines if m is not anew))
    anew.start()
    cluster.converged(*cluster.world.machines)
    talks(cluster.world.machines[0], anew)


def test_a_node_that_is_given_another_name_and_its_own_again(cluster: Cluster) -> None:
    one, *_, last = cluster.world.machines
    swapped = last.node()
    cluster.delete(last.name)
    swapped["metadata"]["name"] = "node-0"
    cluster.create(swapped)
    others = cluster.world.machines[:-1]
    cluster.converged(*others)
    cluster.delete("node-0")
    cluster.create(last.node())
    cluster.converged(*cluster.world.machines)
    talks(one, last)


def talks(one: Machine, two: Machine) -> None:
    a, b = (m.pods.get("p") or m.pod("p") for m in (one, two))
    with echo(b.netns) as server:
        for ours, theirs in zip(a.addresses, b.addresses, strict=True):
            assert talk(server, a.netns, theirs) == ours
