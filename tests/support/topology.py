"""A node, two of its pods and a client outside, each a network namespace with a real stack and real sockets.

Servers run in a thread of the test's own process: a socket stays in the namespace in which it was made. Each answers
with its name and the address it saw: `pod1 172.31.0.2`.
"""

from __future__ import annotations

import contextlib
import itertools
import selectors
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from netplane.kernel import netns, sysctl
from netplane.model import address
from netplane.model.address import Family
from netplane.model.service import Protocol
from netplane_proxy.plan.forwarding import Backend, NodeFacts
from netplane_proxy.run import nftables

NODE = {Family.V4: "172.30.0.11", Family.V6: "fd00:30::11"}
SECOND = {Family.V4: "172.30.0.12", Family.V6: "fd00:30::12"}
CLIENT = {Family.V4: "172.31.0.2", Family.V6: "fd00:31::2"}
CLIENT_TOO = {Family.V4: "172.31.0.3", Family.V6: "fd00:31::3"}
POD1 = {Family.V4: "10.244.1.11", Family.V6: "fd00:244:0:1::11"}
POD2 = {Family.V4: "10.244.1.12", Family.V6: "fd00:244:0:1::12"}
PORT = 8080
IP_PKTINFO = 8

_GATEWAYS = {"client": ("172.31.0.1", "fd00:31::1"), "pod1": ("10.244.1.1", "fd00:244:0:1::1")}
_GATEWAYS["pod2"] = _GATEWAYS["pod1"]
_ADDRESSES = {"client": (CLIENT, CLIENT_TOO), "pod1": (POD1,), "pod2": (POD2,), "node": (NODE, SECOND)}

FACTS = NodeFacts(
    name="node-1",
    node_ips=tuple(map(address.parse, NODE.values())),
    nodeport_addresses=tuple(map(address.parse, NODE.values())),
    pod_cidrs=(address.prefix("10.244.0.0/16"), address.prefix("fd00:244::/48")),
    service_cidrs=(address.prefix("10.96.0.0/16"), address.prefix("fd00:96::/112")),
)


class Answer(NamedTuple):
    """Who answered, and from which address it saw the question come."""

    name: str
    source: str


@dataclass(slots=True)
class Topology:
    """The namespaces by name, and the sockets that serve in them."""

    places: dict[str, str]
    _servers: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _ranges: list[range] = field(default_factory=list)
    _done: threading.Event = field(default_factory=threading.Event)
    _fresh_ports: Iterator[int] = field(default_factory=lambda: iter(range(10_000, 32_000)))

    def target(self) -> nftables.NftablesTarget:
        """Open the backend on the node."""
        return netns.run_in(self.places["node"], nftables.open_target)

    def run(self, place: str, *argv: str, feed: str = "") -> str:
        """Run a program in a namespace and return what it printed."""

        def act() -> str:
            done = subprocess.run(argv, input=feed, capture_output=True, text=True, check=False, timeout=60)
            assert done.returncode == 0, f"{argv}: {done.returncode} {done.stderr}"
            return done.stdout

        return netns.run_in(self.places[place], act)

    def serve(
        self,
        place: str,
        *,
        ports: Iterable[int] = (PORT,),
        protocols: Iterable[Protocol] = (Protocol.TCP, Protocol.UDP),
        name: str = "",
    ) -> None:
        """Answer on ports of a namespace, in both families."""
        with netns.inside(self.places[place]):
            for port, protocol in itertools.product(ports, protocols):
                for family, wildcard in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
                    made = _server(family, protocol, wildcard, port)
                    self._servers.register(made, selectors.EVENT_READ, name or place)

    def ensure_ports(self, place: str, ports: range) -> None:
        """Answer UDP on many ports, each under its own name `p20000`, unless it is so already."""
        if ports not in self._ranges:
            self._ranges.append(ports)
            for port in ports:
                self.serve(place, ports=[port], protocols=[Protocol.UDP], name=f"p{port}")

    def work(self) -> None:
        """Serve until closed."""
        while not self._done.is_set():
            for key, _ in self._servers.select(timeout=0.1):
                assert isinstance(key.fileobj, socket.socket)
                with contextlib.suppress(OSError):
                    _answer(key.fileobj, str(key.data))

    def close(self) -> None:
        """Stop serving."""
        self._done.set()

    def ask(
        self,
        place: str,
        where: tuple[str, int],
        protocol: Protocol = Protocol.TCP,
        *,
        source: str = "",
        source_port: int = 0,
        patience: float = 15.0,
    ) -> Answer:
        """Ask once, from a new socket. Raises ConnectionRefusedError, PermissionError or TimeoutError.

        A question by UDP has a port that none had before: connection tracking takes an old port for an old flow.
        """
        if protocol is Protocol.UDP and not source_port:
            source_port = next(self._fresh_ports)
        family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
        with netns.inside(self.places[place]):
            asking = socket.socket(family, kind(protocol), protocol)
        with asking:
            asking.settimeout(patience)
            if source or source_port:
                asking.bind((source or ("::" if family == socket.AF_INET6 else "0.0.0.0"), source_port))
            asking.connect(where)
            asking.send(b"?")
            name, seen = asking.recv(200).decode().split()
            return Answer(name, seen)

    def ask_often(self, place: str, where: tuple[str, int], protocol: Protocol, count: int) -> Counter[Answer]:
        """Ask several times."""
        return Counter(self.ask(place, where, protocol) for _ in range(count))

    def fate(self, place: str, where: tuple[str, int], protocol: Protocol, *, patience: float = 15.0) -> str:
        """Say how a question ends: answered, refused or silent, for so many seconds; give few where it should be."""
        try:
            self.ask(place, where, protocol, patience=patience)
        except (ConnectionRefusedError, PermissionError):
            return "refused"
        except TimeoutError:
            return "silent"
        return "answered"


@contextlib.contextmanager
def topology(folder: Path) -> Iterator[Topology]:
    """Make the namespaces below a folder, wire them, serve on every pod and the node, and remove all in the end."""
    places = {name: str(folder / name) for name in ("node", "client", "pod1", "pod2")}
    made = Topology(places)
    worker = threading.Thread(target=made.work, daemon=True)
    try:
        for place in places.values():
            netns.create(place)
        for place in places.values():
            _prepare(place)
        for name in ("client", "pod1", "pod2"):
            _wire(made, name)
        _add_addresses(made, "node", "lo")
        # A node has a way out; without any, the kernel looks no further for a cluster IP.
        for family, one in CLIENT.items():
            made.run("node", "ip", "route", "add", "default", "via", one, "dev", "client", "src", NODE[family])
        for name in ("pod1", "pod2", "node"):
            made.serve(name)
        worker.start()
        yield made
    finally:
        made.close()
        if worker.is_alive():
            worker.join(5)
        for key in list(made._servers.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        made._servers.close()
        for place in places.values():
            netns.remove_if_present(place)


def _prepare(place: str) -> None:
    def act() -> None:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            sysctl.write(name, 1)
        for name in ("net.ipv6.conf.all.accept_dad", "net.ipv6.conf.default.accept_dad"):
            sysctl.write(name, 0)
        # Refusals by ICMP are limited in rate, which would hide them here.
        for name in ("net.ipv4.icmp_ratelimit", "net.ipv6.icmp.ratelimit"):
            sysctl.write(name, 0)
        for name in ("net.ipv4.conf.all.rp_filter", "net.ipv4.conf.default.rp_filter"):
            sysctl.write(name, 0)

    netns.run_in(place, act)


def _wire(made: Topology, name: str) -> None:
    """Join a namespace to the node: routed, no bridge, with the node as its only way out."""
    made.run("node", "ip", "link", "add", name, "type", "veth", "peer", "name", "eth0")
    made.run("node", "ip", "link", "set", "eth0", "netns", made.places[name])
    made.run(name, "ip", "link", "set", "eth0", "up")
    made.run("node", "ip", "link", "set", name, "up")
    _add_addresses(made, name, "eth0")
    for gateway, width in zip(_GATEWAYS[name], (32, 128), strict=True):
        made.run("node", "ip", "addr", "replace", f"{gateway}/{width}", "dev", name)
        made.run(name, "ip", "route", "add", f"{gateway}/{width}", "dev", "eth0")
        made.run(name, "ip", "route", "add", "default", "via", gateway, "dev", "eth0")
    for both in _ADDRESSES[name]:
        for family, one in both.items():
            made.run("node", "ip", "route", "add", f"{one}/{family.bits}", "dev", name)


def _add_addresses(made: Topology, name: str, device: str) -> None:
    for index, both in enumerate(_ADDRESSES[name]):
        for family, one in both.items():
            # IPv6 would prefer the last one as source; the first shall be it.
            later = ["preferred_lft", "0"] if index and family is Family.V6 else []
            # Else it is tentative for a moment, also where nothing is asked, and no route may name it as source.
            later += ["nodad"] if family is Family.V6 else []
            made.run(name, "ip", "addr", "add", f"{one}/{family.bits}", "dev", device, *later)


def kind(protocol: Protocol) -> int:
    """Return the kind of socket that speaks a protocol; one of SCTP that has one association."""
    return socket.SOCK_DGRAM if protocol is Protocol.UDP else socket.SOCK_STREAM


def _server(family: int, protocol: Protocol, wildcard: str, port: int) -> socket.socket:
    made = socket.socket(family, kind(protocol), protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if made.type == socket.SOCK_DGRAM:
        level, option = (
            (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO)
            if family == socket.AF_INET6
            else (socket.IPPROTO_IP, IP_PKTINFO)
        )
        made.setsockopt(level, option, 1)
    made.bind((wildcard, port))
    if made.type == socket.SOCK_STREAM:
        made.listen(1024)
    made.setblocking(False)
    return made


def _answer(server: socket.socket, name: str) -> None:
    if server.type == socket.SOCK_DGRAM:
        # Answer from the address that was asked, which on a node with many is not the one that the route would choose.
        _, ancillary, _, peer = server.recvmsg(200, 200)
        server.sendmsg([f"{name} {peer[0]}".encode()], ancillary, 0, peer)
        return
    accepted, peer = server.accept()
    with accepted:
        accepted.sendall(f"{name} {peer[0]}".encode())
        # Wait for the question and let the client close first, so that no reset overtakes the answer.
        accepted.settimeout(5)
        accepted.recv(10)


def backend(where: dict[Family, str], family: Family, port: int = PORT) -> Backend:
    """Return a backend of a family."""
    return Backend(address.parse(where[family]), port)


class Load:
    """Asks again and again in a thread, and counts how it ended."""

    def __init__(self, made: Topology, place: str, where: tuple[str, int], *, patience: float = 15.0) -> None:
        self._asked: Callable[[], str] = lambda: made.ask(place, where, patience=patience).name
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.answers: Counter[str] = Counter()
        self.failures: list[OSError] = []

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(10)

    def until(self, count: int, *, limit: float = 60.0) -> None:
        """Wait until so many more were answered, or some failed."""
        goal = self.answers.total() + count
        end = time.monotonic() + limit
        while self.answers.total() < goal and not self.failures and time.monotonic() < end:
            time.sleep(0.005)

    def _work(self) -> None:
        while not self._done.is_set():
            try:
                self.answers[self._asked()] += 1
            except OSError as error:
                self.failures.append(error)
