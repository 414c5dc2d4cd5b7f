"""Machines for tests of the pod network: namespaces on a bridge, each with the real daemon and the real shim."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from netplane.kernel import netns, sysctl
from netplane.kernel.link import run as link
from netplane.kernel.link.objects import Address, Bridge, LinkChange, Route, Veth, add, change, replace
from tests.support.cni_nursery import Forked, Nursery

T = TypeVar("T")
NETPLANE = Path(sys.executable).parent / "netplane"
READY_LIMIT = 60.0


def ip(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def until(claim: Callable[[], T], *, limit: float = 20.0, pause: float = 0.01) -> T:
    """Ask until the answer is true, and return it; what is asked says when, no time is guessed."""
    deadline = time.monotonic() + limit
    while not (answer := claim()):
        assert time.monotonic() < deadline, f"not so within {limit} s"
        time.sleep(pause)
    return answer


@dataclass
class Pod:
    """A container as a runtime sees it: an id, and a namespace pinned at a path."""

    container: str
    netns: str
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def addresses(self) -> list[str]:
        return [row["address"].partition("/")[0] for row in self.result["ips"]]

    def run(self, action: Callable[[], T]) -> T:
        return netns.run_in(self.netns, action)


@dataclass
class Answer:
    code: int
    body: dict[str, Any]
    seconds: float


class Machine:
    """A node: its namespace on the underlay, its folders, its daemon."""

    def __init__(self, world: World, number: int, folder: Path) -> None:
        self.number = number
        self.name = f"node-{number}"
        self.netns = str(folder / "netns")
        self.folder = folder
        self.world = world
        self.process: subprocess.Popen[bytes] | Forked | None = None
        self.options: list[str] = []
        self.pods: dict[str, Pod] = {}

    @property
    def addresses(self) -> list[str]:
        link = 1 if self.number in self.world.far else 0
        return [f"172.30.{link}.{10 + self.number}", str(ipaddress.ip_address(f"fd00:30:0:{link}::{10 + self.number}"))]

    @property
    def gateways(self) -> list[str]:
        link = 1 if self.number in self.world.far else 0
        return [f"172.30.{link}.1", f"fd00:30:0:{link}::1"]

    def node(self) -> dict[str, Any]:
        cidrs = [f"10.244.{self.number}.0/24", f"fd00:244:0:{self.number}::/64"]
        return {
            "metadata": {"name": self.name, "uid": f"uid-{self.number}"},
            "spec": {"podCIDRs": self.world.of_families(cidrs)},
            "status": {
                "addresses": [{"type": "InternalIP", "address": a} for a in self.world.of_families(self.addresses)]
            },
        }

    def start(self, *, wait: bool = True) -> None:
        folder = self.folder
        argv = ["cni", "daemon", f"--node-name={self.name}"]
        argv += [f"--run-dir={folder}/run", f"--state-dir={folder}/state", f"--conf-dir={folder}/conf"]
        argv += [f"--bin-dir={folder}/bin", f"--fabric={self.world.fabric}", "--metrics-port=0"]
        argv += [*self.world.source(), *self.options]
        if self.world.nursery is not None:
            self.process = self.world.nursery.start(self.netns, folder / "log", argv)
        else:
            argv = ["nsenter", f"--net={self.netns}", str(NETPLANE), *argv]
            with open(folder / "log", "ab") as log:
                self.process = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        if wait:
            until(lambda: self.status().get("ready") and self.conflist.exists(), limit=READY_LIMIT)

    @property
    def conflist(self) -> Path:
        return self.folder / "conf" / "10-netplane.conflist"

    def kill(self, number: int = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)

    def status(self) -> dict[str, Any]:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as asking:
            try:
                asking.connect(str(self.folder / "run" / "cni.sock"))
                asking.sendall(b"CNI_COMMAND=NETPLANE_STATUS\0\0")
                asking.shutdown(socket.SHUT_WR)
                answer = b"".join(iter(lambda: asking.recv(65536), b""))
            except OSError:
                return {}
        found: dict[str, Any] = json.loads(answer[1:]) if answer else {}
        return found

    def call(
        self,
        command: str,
        pod: Pod | None = None,
        *,
        ifname: str = "eth0",
        config: Mapping[str, Any] | None = None,
        args: str = "IgnoreUnknown=1",
        namespace: str | None = None,
    ) -> Answer:
        """Execute the plugin as a runtime does."""
        environment = {"CNI_COMMAND": command, "CNI_PATH": str(self.folder / "bin"), "PATH": "/usr/bin"}
        if pod is not None:
            where = pod.netns if namespace is None else namespace
            environment |= {
                "CNI_CONTAINERID": pod.container,
                "CNI_NETNS": where,
                "CNI_IFNAME": ifname,
                "CNI_ARGS": args,
            }
        stdin = json.dumps({"cniVersion": "1.1.0", "name": "netplane", "type": "netplane-cni", **(config or {})})
        began = time.perf_counter()
        done = subprocess.run(
            [str(self.folder / "bin" / "netplane-cni")],
            input=stdin.encode(), env=environment, capture_output=True, timeout=30, check=False,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        return Answer(done.returncode, json.loads(done.stdout) if done.stdout.strip() else {}, seconds)

    def container(self, name: str) -> Pod:
        """Make a container's namespace, without any network."""
        pod = Pod(f"{name}-{self.number}", str(self.folder / "pods" / name))
        netns.create(pod.netns)
        self.pods[name] = pod
        return pod

    def pod(self, name: str, **options: Any) -> Pod:
        """Make a container and ADD it."""
        pod = self.container(name)
        answer = self.call("ADD", pod, **options)
        assert answer.code == 0, (answer, self.log())
        pod.result = answer.body
        return pod

    def delete(self, pod: Pod) -> Answer:
        answer = self.call("DEL", pod)
        netns.remove_if_present(pod.netns)
        return answer

    def run(self, action: Callable[[], T]) -> T:
        return netns.run_in(self.netns, action)

    def links(self) -> set[str]:
        with link.Socket(self.netns) as found:
            return {one.name for one in found.links() if one.kind == "veth" and one.name.startswith("np")}

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        for pod in self.pods.values():
            netns.remove_if_present(pod.netns)
        netns.remove_if_present(self.netns)


class World:
    """The underlay bridge, which routes between the nodes' network and a client outside, and the nodes.

    Nodes whose numbers are in `far` are on a bridge of their own, behind the same router. With a `nursery` daemons are
    forked by it, in place of being executed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int,
        fabric: str = "vxlan",
        families: Sequence[int] = (4, 6),
        far: Sequence[int] = (),
        nursery: Nursery | None = None,
    ) -> None:
        self.folder = folder
        self.fabric = fabric
        self.families = tuple(families)
        self.far = frozenset(far)
        self.underlay, self.client = str(folder / "underlay"), str(folder / "client")
        self.kubeconfig: Path | None = None
        self.nursery = nursery
        self.machines = [Machine(self, number, folder / f"node-{number}") for number in range(1, nodes + 1)]

    def __enter__(self) -> World:
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def of_families(self, values: Sequence[str]) -> list[str]:
        return [v for v in values if (6 if ":" in v else 4) in self.families]

    def source(self) -> list[str]:
        if self.kubeconfig is not None:
            return [f"--kubeconfig={self.kubeconfig}"]
        return [f"--nodes-file={self.folder / 'nodes.json'}"]

    def tell(self, nodes: Sequence[Mapping[str, Any]]) -> None:
        """Write the nodes' file, in one step."""
        beside = self.folder / "nodes.json.new"
        beside.write_text(json.dumps({"items": list(nodes)}))
        beside.rename(self.folder / "nodes.json")

    def close(self) -> None:
        for machine in self.machines:
            machine.close()
        for path in (self.client, self.underlay):
            netns.remove_if_present(path)

    def _make(self) -> None:
        for path in (self.underlay, self.client):
            _place(path)
        netns.run_in(self.underlay, _forwarding)
        with link.Socket(self.underlay) as wire:
            wire.commit([change(LinkChange(1, is_up=True))])
            for bridge, number in (("br0", 0), ("br1", 1)):
                wire.commit([add(Bridge(bridge)), change(LinkChange(name=bridge, is_up=True))])
                _give(wire, bridge, [f"172.30.{number}.1/24", f"fd00:30:0:{number}::1/64"])
            _cable(wire, "client", self.client)
            _give(wire, "client", ["172.31.0.1/24", "fd00:31::1/64"])
            with link.Socket(self.client) as outside:
                _give(outside, "eth0", ["172.31.0.2/24", "fd00:31::2/64"])
                _default(outside, ["172.31.0.1", "fd00:31::1"])
            for machine in self.machines:
                self._make_machine(wire, machine)
        self.tell([machine.node() for machine in self.machines])

    def _make_machine(self, wire: link.Socket, machine: Machine) -> None:
        machine.folder.mkdir(parents=True)
        _place(machine.netns)
        name = f"n{machine.number}"
        _cable(wire, name, machine.netns)
        bridge = wire.link("br1" if machine.number in self.far else "br0")
        assert bridge is not None
        wire.commit([change(LinkChange(name=name, master=bridge.index))])
        with link.Socket(machine.netns) as inside:
            _give(inside, "eth0", [f"{machine.addresses[0]}/24", f"{machine.addresses[1]}/64"])
            _default(inside, machine.gateways)


def _place(path: str) -> None:
    netns.create(path)
    # Links that doubt their own addresses for a second would make the tests wait for it.
    netns.run_in(path, lambda: sysctl.write("net.ipv6.conf.default.accept_dad", 0))


def _cable(wire: link.Socket, name: str, place: str) -> None:
    opened = os.open(place, os.O_RDONLY)
    try:
        wire.commit([add(Veth(name, "eth0", opened)), change(LinkChange(name=name, is_up=True))])
    finally:
        os.close(opened)
    with link.Socket(place) as inside:
        inside.commit([change(LinkChange(name=one, is_up=True)) for one in ("lo", "eth0")])


def _give(place: link.Socket, name: str, addresses: Sequence[str]) -> None:
    there = place.link(name)
    assert there is not None
    for text in addresses:
        address, _, length = text.partition("/")
        place.commit([add(Address(there.index, ip(address), int(length)))])


def _default(place: link.Socket, gateways: Sequence[str]) -> None:
    place.commit([replace(Route(bytes(len(ip(g))), 0, via=ip(g))) for g in gateways])


def _forwarding() -> None:
    sysctl.write("net.ipv4.ip_forward", 1)
    sysctl.write("net.ipv6.conf.all.forwarding", 1)
