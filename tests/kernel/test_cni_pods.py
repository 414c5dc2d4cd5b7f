"""Pods reach each other: the real daemon, the real shim, real packets, namespaces as machines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cni_nodes import World, echo, reaches, talk


@pytest.fixture(scope="module", params=["vxlan", "direct"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp(request.param)
    with World(folder, nodes=2, fabric=request.param) as made:
        for machine in made.machines:
            machine.start()
        yield made


def test_pods_on_one_node_and_on_two_reach_each_other_in_both_families(world: World) -> None:
    one, two = world.machines
    a, b, c = one.pod("a"), one.pod("b"), two.pod("c")
    with echo(b.netns) as on_b, echo(c.netns) as on_c:
        for server, pod in ((on_b, b), (on_c, c)):
            for family in (0, 1):
                for kind in ("tcp", "udp"):
                    assert talk(server, a.netns, pod.addresses[family], kind=kind) == a.addresses[family]
