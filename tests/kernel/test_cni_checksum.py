"""Checksums inside tunnels are left to the hardware where a packet shows that this works."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from netplane.kernel import netns, offload
from netplane.kernel.link import run as link
from netplane.kernel.link.objects import Address, LinkChange, Veth, add, change
from netplane.model import address
from netplane.model.node import Node
from netplane_cni.plan import fabric
from netplane_cni.run import checksum
from netplane_cni.run.fabric import Fabric

ME = Node("me", internal_ips=(address.parse("172.30.0.1"),), pod_cidrs=(address.prefix("10.244.1.0/24"),))


@pytest.fixture
def place() -> Iterator[int]:
    made = netns.fresh()
    try:
        netns.run_in(made, underlay)
        yield made
    finally:
        os.close(made)


def underlay() -> None:
    with link.Socket() as links:
        links.commit([add(Veth("eth0", "far"))])
        there = links.link("eth0")
        assert there is not None
        links.commit([add(Address(there.index, ME.internal_ips[0], 24)), change(LinkChange(there.index, is_up=True))])


def offloads(place: int, settings: fabric.Settings, *, is_sound: bool) -> bool:
    """Bring the fabric up, and tell what its tunnel does."""

    def act() -> bool:
        made = Fabric(ME.name, settings, lambda *_: None, is_sound=lambda: is_sound)
        try:
            made.offer({ME.name: ME}, {ME.name: ME}, "1")
            asyncio.run(made.act("start"))
            return offload.has_checksum(fabric.DEVICE)
        finally:
            made.close()

    return netns.run_in(place, act)


def test_a_packet_shows_that_this_kernel_gets_a_masqueraded_tunnels_checksums_right() -> None:
    before = os.listdir("/proc/self/fd")
    assert checksum.attempt() is True
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize("is_sound", [True, False])
def test_the_tunnel_does_what_the_packet_showed(place: int, is_sound: bool) -> None:
    assert offloads(place, fabric.Settings(), is_sound=is_sound) is is_sound


def test_who_says_what_to_do_is_not_asked_twice(place: int) -> None:
    assert offloads(place, fabric.Settings(checksum="software"), is_sound=True) is False
    assert offloads(place, fabric.Settings(checksum="offload"), is_sound=False) is True


@pytest.mark.parametrize("answer", [True, False])
def test_it_is_tried_once_a_boot(tmp_path: Path, answer: bool) -> None:
    tries: list[bool] = []

    def attempt() -> bool:
        tries.append(answer)
        return answer

    assert [checksum.is_sound(tmp_path, "boot-1", attempt) for _ in range(3)] == [answer] * 3
    assert len(tries) == 1
    assert checksum.is_sound(tmp_path, "boot-2", attempt) is answer
    assert len(tries) == 2


def test_what_could_not_be_tried_is_judged_by_the_kernels_age_and_tried_again(tmp_path: Path) -> None:
    assert checksum.is_sound(tmp_path, "boot-1", lambda: None) is fabric.has_sound_checksums(os.uname().release)
    assert not (tmp_path / checksum.FILE).exists()
