"""A runtime starts and stops pods while the daemon is killed again and again: no address twice, none lost.

300 pods; NETPLANE_CHURN_PODS=2000 makes it longer.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from netplane.kernel import netns
from netplane.kernel.link import run as link
from netplane_cni.plan import attach
from tests.support.cni_nodes import Machine, Pod, World, until

PODS = int(os.environ.get("NETPLANE_CHURN_PODS", "300"))
KILLS = 10
WORKERS = 3
LIVING = 12
"""Pods that each worker keeps before it ends its oldest."""
PATIENCE = 30.0


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with World(tmp_path / "world", nodes=1, families=[4]) as world:
        world.machines[0].options = ["--cool-down=0"]
        world.machines[0].start()
        yield world.machines[0]


class Runtime:
    """Calls the plugin as a runtime does, tries again when told to, and minds who has which address."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.holders: dict[str, str] = {}
        self.living: list[Pod] = []
        self.done = 0
        self.retries = 0
        self._lock = threading.Lock()

    def work(self, worker: int, count: int) -> None:
        chance, mine = random.Random(worker), list[Pod]()
        for number in range(count):
            mine.append(self._add(f"w{worker}-{number}", chance))
            if len(mine) > LIVING:
                self.delete(mine.pop(chance.randrange(len(mine))))
        with self._lock:
            self.living += mine

    def _add(self, name: str, chance: random.Random) -> Pod:
        pod = self.machine.container(name)
        pod.result = self._until_done("ADD", pod, chance)
        address = pod.addresses[0]
        with self._lock:
            assert address not in self.holders, f"{address} is held by {self.holders[address]} and {pod.container}"
            self.holders[address] = pod.container
            self.done += 1
        return pod

    def delete(self, pod: Pod) -> None:
        with self._lock:
            del self.holders[pod.addresses[0]]
        self._until_done("DEL", pod, random.Random(0))
        netns.remove_if_present(pod.netns)

    def _until_done(self, command: str, pod: Pod, chance: random.Random) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while (answer := self.machine.call(command, pod)).code:
            assert answer.body["code"] == 11, answer
            assert time.monotonic() < deadline, answer
            self.retries += 1
            if command == "ADD" and chance.random() < 0.5:
                self.machine.call("DEL", pod)  # containerd cleans up after a failure, others simply try again.
            time.sleep(0.02)
        return answer.body


def kill_again_and_again(runtime: Runtime) -> None:
    chance = random.Random(99)
    for number in range(KILLS):
        # Spread over the whole of the work, and at any moment of a call.
        until(lambda n=number: runtime.done >= n * PODS // KILLS, limit=60.0)  # type: ignore[misc]  # bound here
        time.sleep(chance.uniform(0.0, 0.03))
        runtime.machine.kill()
        runtime.machine.start()


@pytest.mark.timeout(600)
def test_no_address_is_given_twice_and_none_is_lost_however_often_the_daemon_is_killed(machine: Machine) -> None:
    runtime = Runtime(machine)
    with ThreadPoolExecutor(WORKERS + 1) as pool:
        killing = pool.submit(kill_again_and_again, runtime)
        for work in [pool.submit(runtime.work, number, PODS // WORKERS) for number in range(WORKERS)]:
            work.result()
        killing.result()
    assert runtime.retries > 0
    until(lambda: leases(machine) == {holder: ip for ip, holder in runtime.holders.items()})
    assert machine.call("STATUS").code == 0
    for pod in runtime.living:
        assert machine.call("CHECK", pod, config={"prevResult": pod.result}).code == 0
    collect_all_but_half(machine, runtime.living)
    for pod in runtime.living:
        assert machine.delete(pod).code == 0
    until(lambda: not leases(machine) and not machine.links())
    with link.Socket(machine.netns) as socket:
        assert socket.routes(protocol=attach.POD_PROTOCOL) == []


def collect_all_but_half(machine: Machine, living: list[Pod]) -> None:
    """Let GC end every second pod, as a runtime that has lost sight of them."""
    kept = living[::2]
    valid = [{"containerID": pod.container, "ifname": "eth0"} for pod in kept]
    assert machine.call("GC", config={"cni.dev/valid-attachments": valid}).code == 0
    until(lambda: set(leases(machine)) == {pod.container for pod in kept})


def leases(machine: Machine) -> dict[str, str]:
    return {lease["container"]: lease["addresses"][0] for lease in machine.status().get("leases", [])}
