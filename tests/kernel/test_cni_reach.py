"""Nodes with two networks meet on the one that leads to the others, whatever their Nodes name first."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netplane.kernel.link import run as link
from netplane.kernel.link.objects import Address, Bridge, LinkChange, Veth, add, change
from netplane_cni.plan import fabric
from tests.support.cni_nodes import Machine, World, ip, until
from tests.support.cni_nursery import Nursery
from tests.support.cni_traffic import echo, talk

SECOND = "br2"


@pytest.fixture
def world(tmp_path: Path, cni_nursery: Nursery) -> Iterator[World]:
    with World(tmp_path / "world", nodes=3, families=[4], nursery=cni_nursery) as made:
        with link.Socket(made.underlay) as wire:
            wire.commit([add(Bridge(SECOND)), change(LinkChange(name=SECOND, is_up=True))])
        yield made


def give_link(machine: Machine, text: str) -> None:
    """Plug a second cable into a node, which leads nowhere yet."""
    name, opened = f"m{machine.number}", os.open(machine.netns, os.O_RDONLY)
    try:
        with link.Socket(machine.world.underlay) as wire:
            wire.commit([add(Veth(name, "eth1", opened)), change(LinkChange(name=name, is_up=True))])
    finally:
        os.close(opened)
    with link.Socket(machine.netns) as inside:
        inside.commit([change(LinkChange(name="eth1", is_up=True))])
        there = inside.link("eth1")
        assert there is not None
        inside.commit([add(Address(there.index, ip(text), 24))])


def join(world: World, *, is_joined: bool) -> None:
    """Connect the second cables, or cut them: nodes see their link up all the same."""
    with link.Socket(world.underlay) as wire:
        bridge = wire.link(SECOND)
        assert bridge is not None
        for machine in world.machines:
            wire.commit([change(LinkChange(name=f"m{machine.number}", master=bridge.index if is_joined else 0))])


def node(machine: Machine, first: str) -> dict[str, Any]:
    """Return the Node with another address before its own."""
    found = machine.node()
    found["status"]["addresses"].insert(0, {"type": "InternalIP", "address": first})
    return found


def ends(machine: Machine) -> set[str]:
    """Return the nodes' addresses that its tunnel leads to."""
    with link.Socket(machine.netns) as socket:
        there = socket.link(fabric.DEVICE)
        if there is None:
            return set()
        return {
            ".".join(map(str, f.remote))
            for f in socket.paths(protocol=fabric.FABRIC_PROTOCOL, index=there.index).forwards
        }


def second(machine: Machine) -> str:
    return f"192.168.50.{machine.number}"


def talks(world: World) -> None:
    one, two = (m.pods.get("p") or m.pod("p") for m in world.machines[:2])
    with echo(two.netns) as server:
        assert talk(server, one.netns, two.addresses[0]) == one.addresses[0]


def start(world: World) -> None:
    for machine in world.machines:
        machine.start(wait=False)
    until(lambda: all(m.status().get("ready") and m.conflist.exists() for m in world.machines), limit=60)


def test_a_nat_address_that_all_nodes_list_first_is_not_used(world: World) -> None:
    for machine in world.machines:
        give_link(machine, "10.0.2.15")
    world.tell([node(machine, "10.0.2.15") for machine in world.machines])
    start(world)
    assert ends(world.machines[0]) == {"172.30.0.12", "172.30.0.13"}
    talks(world)


def test_a_network_that_does_not_lead_to_the_others_is_not_used_though_all_nodes_are_on_it(world: World) -> None:
    for machine in world.machines:
        give_link(machine, second(machine))
    world.tell([node(machine, second(machine)) for machine in world.machines])
    start(world)
    assert ends(world.machines[0]) == {"172.30.0.12", "172.30.0.13"}
    talks(world)


def test_when_the_network_in_use_is_cut_the_fabric_moves_to_the_other(world: World) -> None:
    for machine in world.machines:
        give_link(machine, second(machine))
    join(world, is_joined=True)
    world.tell([node(machine, second(machine)) for machine in world.machines])
    start(world)
    assert ends(world.machines[0]) == {"192.168.50.2", "192.168.50.3"}
    talks(world)
    join(world, is_joined=False)
    moved = {f"172.30.0.{10 + m.number}" for m in world.machines}
    until(lambda: all(ends(m) == moved - {m.addresses[0]} for m in world.machines), limit=60)
    talks(world)
