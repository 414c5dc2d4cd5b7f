"""Limits to a pod's bandwidth hold for real transfers, in each way on its own."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from netplane.kernel import netns
from netplane.kernel.link import run as link
from netplane.kernel.link.objects import TokenBucket, remove
from tests.support.cni_nodes import Machine, Pod, World

MEGABIT = 1_000_000
UNLIMITED = (1 << 32) - 1
"""What containerd says for a burst."""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with World(tmp_path_factory.mktemp("bandwidth") / "world", nodes=1, families=[4]) as world:
        world.machines[0].start()
        yield world.machines[0]


def limits(**rates: int) -> dict[str, object]:
    return {"runtimeConfig": {"bandwidth": rates}}


def measured(sender: Pod, receiver: Pod, size: int) -> float:
    """Return the bits per second of a transfer over TCP."""
    with receiver.run(lambda: socket.create_server((receiver.addresses[0], 9000))) as listening:
        listening.settimeout(10)
        sending = sender.run(socket.socket)
        sending.settimeout(20)

        def send() -> None:
            with sending:
                sending.connect((receiver.addresses[0], 9000))
                sending.sendall(bytes(size))

        thread = threading.Thread(target=send)
        thread.start()
        connection, _ = listening.accept()
        got, began = 0, time.perf_counter()
        with connection:
            connection.settimeout(20)
            while part := connection.recv(1 << 16):
                got += len(part)
        seconds = time.perf_counter() - began
        thread.join(10)
    assert got == size
    return got * 8 / seconds


def test_each_way_has_its_own_limit_and_others_have_none(machine: Machine) -> None:
    slow = machine.pod("slow", config=limits(ingressRate=20 * MEGABIT, egressRate=40 * MEGABIT))
    free = machine.pod("free")
    assert 8 * MEGABIT < measured(free, slow, 4_000_000) < 23 * MEGABIT
    assert 24 * MEGABIT < measured(slow, free, 8_000_000) < 46 * MEGABIT
    other = machine.pod("other")
    assert measured(free, other, 50_000_000) > 92 * MEGABIT  # twice the wider limit, on a busy machine too


def test_containerds_spelling_and_endless_burst_are_understood(machine: Machine) -> None:
    told = limits(IngressRate=10 * MEGABIT, IngressBurst=UNLIMITED, EgressRate=0, EgressBurst=0)
    pod, peer = machine.pod("spelt", config=told), machine.pod("peer")
    assert 4 * MEGABIT < measured(peer, pod, 2_000_000) < 12 * MEGABIT


def test_check_finds_a_limit_that_was_lifted(machine: Machine) -> None:
    config = limits(egressRate=10 * MEGABIT)
    pod = machine.pod("lifted", config=config)
    previous = {**config, "prevResult": pod.result}
    assert machine.call("CHECK", pod, config=previous).code == 0
    with link.Socket(pod.netns) as inside:
        there = inside.link("eth0")
        assert there is not None
        inside.commit([remove(TokenBucket(there.index, 0, 0, 0))])
    answer = machine.call("CHECK", pod, config=previous)
    assert answer.body["code"] == 101
    assert "bandwidth is limited to (0, 0)" in answer.body["msg"]


def test_a_rate_that_is_none_is_refused(machine: Machine) -> None:
    answer = machine.call("ADD", machine.container("wrong"), config=limits(ingressRate=-5))
    assert (answer.body["code"], "bandwidth" in answer.body["msg"]) == (7, True)


def test_the_limit_ends_with_the_pod(machine: Machine) -> None:
    pod = machine.pod("brief", config=limits(ingressRate=10 * MEGABIT, egressRate=10 * MEGABIT))
    assert machine.delete(pod).code == 0
    assert not netns.exists(pod.netns)
