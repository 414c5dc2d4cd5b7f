"""Nodes joined by WireGuard: nothing in plain on the wire, keys that change, nodes that leave. `make vm` runs it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from netplane.kernel import netns
from netplane.kernel.link import run as link
from netplane.kernel.link.objects import LinkName, Route, remove
from netplane.kernel.wireguard import run as wireguard
from netplane.kernel.wireguard.objects import Device, text
from netplane.kube import types
from netplane_cni.plan import fabric
from netplane_cni.plan import wireguard as plans
from tests.support import cni_nodes
from tests.support.cni_api import ApiInside
from tests.support.cni_nodes import Machine, Pod, World
from tests.support.cni_nursery import nursery
from tests.support.cni_traffic import echo, talk

T = TypeVar("T")
ETH_P_ALL = 3
WORD = b"hello"
SLOW = 180.0
"""Seconds: the machine is emulated."""
NO_COMPILER = {"PATH": "/usr/sbin:/sbin"}
"""The daemons here take the plugin for Python: to compile the other takes an emulated machine longer than all calls."""


def until(claim: Callable[[], T]) -> T:
    """Ask until it is so, not so often that those who are asked have no time left."""
    return cni_nodes.until(claim, limit=SLOW, pause=0.1)


class Wire:
    """Everything that passes the nodes' bridge, by the question whether it is readable."""

    def __init__(self, place: str, link_name: str) -> None:
        self._socket = netns.run_in(
            place, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        )
        self._socket.bind((link_name, ETH_P_ALL))
        self._socket.settimeout(0.3)

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()

    def frames(self, *, seconds: float = 3.0) -> list[bytes]:
        """Return what has passed, until nothing does for a moment or the time is up."""
        found: list[bytes] = []
        end = time.monotonic() + seconds
        with contextlib.suppress(TimeoutError):
            while time.monotonic() < end:
                found.append(self._socket.recv(65536))
        return found


class Cluster:
    """Nodes with their API server, and a pod on each."""

    def __init__(self, world: World, api: ApiInside) -> None:
        self.world, self.api = world, api
        self.pods: list[Pod] = []

    def start(self, *options: str) -> None:
        """Start all daemons, or start them anew, and make the pods that are not there yet."""
        for machine in self.world.machines:
            if machine.process is not None:
                machine.kill()
            machine.options = list(options)
            machine.start(wait=False)
        until(lambda: all(self.is_ready(machine) for machine in self.world.machines))
        self.pods = [machine.pods.get("p") or machine.pod("p") for machine in self.world.machines]

    def command(self, *words: str) -> int:
        """Run a subcommand to its end."""
        assert self.world.nursery is not None
        return self.world.nursery.start(self.world.underlay, self.world.folder / "said", ["cni", *words]).wait(60)

    def is_ready(self, machine: Machine) -> bool:
        found = machine.status()
        return bool(found.get("ready")) and machine.conflist.exists() and not found["fabric"]["problems"]

    def ask(self, client: Pod, server: Pod) -> None:
        with echo(server.netns) as serving:
            for family in (0, 1):
                assert talk(serving, client.netns, server.addresses[family]) == client.addresses[family]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder, zones = tmp_path_factory.mktemp("cluster"), "aab"
    with contextlib.ExitStack() as stack:
        world = stack.enter_context(World(folder / "world", nodes=len(zones), fabric="wireguard"))
        api = stack.enter_context(ApiInside(world.underlay, "172.30.0.1"))
        world.kubeconfig = api.kubeconfig(folder / "kubeconfig")
        world.nursery = stack.enter_context(nursery(NO_COMPILER))
        for machine, zone in zip(world.machines, zones, strict=True):
            node = machine.node()
            node["metadata"]["labels"] = {"topology.kubernetes.io/zone": zone}
            api.do(api.fake.create(types.NODES, node))
        made = Cluster(world, api)
        try:
            made.start()
            yield made
        finally:
            for machine in world.machines:
                machine.close()


def device(machine: Machine) -> Device:
    def read() -> Device:
        with link.Socket() as links, contextlib.closing(wireguard.Socket()) as asking:
            there = links.link(plans.DEVICE)
            return asking.device(there.index) if there else Device(0)

    return machine.run(read)


def keys_of_peers(machine: Machine) -> set[str]:
    return {text(found) for found in device(machine).peers}


def key(machine: Machine) -> str:
    return str(machine.status()["fabric"]["key"])


def test_nothing_is_readable_on_the_wire(cluster: Cluster) -> None:
    a, b, _ = cluster.pods
    with Wire(cluster.world.underlay, "n1") as wire:
        cluster.ask(a, b)
        frames = wire.frames()
    assert frames
    assert not any(WORD in frame for frame in frames)
    assert any((51820).to_bytes(2, "big") * 2 in frame for frame in frames)


def test_keys_are_for_root_alone_and_survive_a_restart(cluster: Cluster) -> None:
    one = cluster.world.machines[0]
    before = key(one)
    assert (one.folder / "state" / "wireguard.json").stat().st_mode & 0o777 == 0o600
    one.kill()
    one.start(wait=False)
    until(lambda: cluster.is_ready(one))
    assert key(one) == before
    cluster.ask(*cluster.pods[:2])


def test_a_key_changes_under_traffic_without_a_noticeable_gap(cluster: Cluster) -> None:
    one, two, three = cluster.world.machines
    before = key(one)
    with Stream(cluster.pods[0], cluster.pods[1]) as stream:
        until(lambda: stream.heard > 20)
        assert cluster.command("rotate-key", f"--run-dir={one.folder}/run") == 0
        until(lambda: key(one) != before)
        until(lambda: keys_of_peers(two) == {key(one), key(three)})
        count = stream.heard
        until(lambda: stream.heard > count + 50)
    assert stream.longest < 2.0  # seconds; a lost handshake would take 5


def test_what_others_break_is_repaired_and_nothing_leaks_meanwhile(cluster: Cluster) -> None:
    one = cluster.world.machines[0]
    with Wire(cluster.world.underlay, "n1") as wire, Stream(cluster.pods[0], cluster.pods[1]) as stream:
        until(lambda: stream.heard > 5)
        with link.Socket(one.netns) as links:
            links.commit([remove(LinkName(plans.DEVICE))])
        count = stream.heard
        until(lambda: stream.heard > count + 20)
        assert not any(Stream.WORD in frame for frame in wire.frames())
    cluster.ask(*cluster.pods[:2])


def test_a_node_installed_anew_is_reached_by_its_new_key(cluster: Cluster) -> None:
    one, two, three = cluster.world.machines
    before = key(two)
    two.kill()
    with link.Socket(two.netns) as links:
        links.commit([remove(LinkName(plans.DEVICE))])
    (two.folder / "state" / "wireguard.json").unlink()
    two.start(wait=False)
    until(lambda: cluster.is_ready(two) and key(two) != before)
    until(lambda: keys_of_peers(one) == {key(two), key(three)})
    cluster.ask(*cluster.pods[:2])


def test_a_node_that_leaves_is_forgotten(cluster: Cluster) -> None:
    one, two, three = cluster.world.machines
    node = cluster.api.do(cluster.api.fake.get(types.NODES, two.name))
    two.kill()
    cluster.api.do(cluster.api.fake.delete(types.NODES, two.name))
    until(lambda: keys_of_peers(one) == {key(three)})
    with link.Socket(one.netns) as links:
        until(lambda: {number_of(r) for r in links.routes(protocol=fabric.FABRIC_PROTOCOL)} == {1, 3})
    again = two.node()
    again["metadata"]["labels"] = node["metadata"]["labels"]
    cluster.api.do(cluster.api.fake.create(types.NODES, again))


def test_between_zones_alone_is_encrypted_when_told(cluster: Cluster) -> None:
    cluster.start("--encryption=zones")
    one, two, three = cluster.pods
    with Wire(cluster.world.underlay, "n1") as wire:
        cluster.ask(one, two)
        assert any(WORD in frame for frame in wire.frames())
        cluster.ask(one, three)
        cluster.ask(three, two)
        assert not any(WORD in frame for frame in wire.frames())


def number_of(route: Route) -> int:
    """Return the number of the node whose pods a route is for: 10.244.N.0/24, fd00:244:0:N::/64."""
    return route.network[2] if len(route.network) == 4 else route.network[7]


class Stream:
    """Numbers sent from one pod to another every few milliseconds, and the longest silence between two that arrive."""

    WORD = b"number "

    def __init__(self, sender: Pod, receiver: Pod) -> None:
        self.heard, self.longest = 0, 0.0
        self._over = threading.Event()
        self._to = receiver.addresses[0], 9100
        self._out = sender.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._in = receiver.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._in.bind(("0.0.0.0", 9100))
        self._in.settimeout(0.2)
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._receive)]

    def _send(self) -> None:
        number = 0
        while not self._over.wait(0.01):
            number += 1
            with contextlib.suppress(OSError):
                self._out.sendto(self.WORD + str(number).encode(), self._to)

    def _receive(self) -> None:
        last = 0.0
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                self._in.recv(100)
                now = time.monotonic()
                self.longest = max(self.longest, now - last) if last else 0.0
                last = now
                self.heard += 1

    def __enter__(self) -> Stream:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(10)
        self._out.close()
        self._in.close()
