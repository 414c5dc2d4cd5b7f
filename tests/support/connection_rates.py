"""What connections cost, of several ways in turn: nodes made of namespaces on which one pod connects to another.

Every way has a node of its own, and they take turns every few hundredths of a second, so that what else the machine
does hits all alike. What the kernel does for a connection in interrupts counts as its processes' time, but on kernels
with CONFIG_IRQ_TIME_ACCOUNTING. Which ways there are to compare is the benches'.
"""

from __future__ import annotations

import contextlib
import math
import random
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from netplane.kernel import netns
from netplane.model import address
from netplane.model.address import Family
from netplane_proxy.plan.forwarding import Backend, Forwarding
from tests.support.ports import cluster_ip, forwarding, service_port, vip
from tests.support.topology import FACTS, POD1, Topology, backend, topology

PORT = 9000
DIRECT, SERVICE = (POD1[Family.V4], PORT), (vip(Family.V4), 80)
_SETTLING = 0.002
_PATIENCE = 60.0
_RESET = struct.pack("ii", 1, 0)
_SERVERS = f"""
import ctypes, os, signal, socket, sys
for line in sys.stdin:
    if not os.fork():
        try:
            ctypes.CDLL(None).setns(os.open(line.strip(), os.O_RDONLY), {netns.CLONE_NEWNET})
            listener = socket.create_server(("0.0.0.0", {PORT}), backlog=4096)
            print(os.getpid(), flush=True)
            while True:
                listener.accept()[0].close()
        finally:
            os.killpg(0, signal.SIGKILL)
os.killpg(0, signal.SIGKILL)
"""
"""A server in each namespace that it is told: copies of one process, for no two that start alike run equally fast."""
ONE_LOOK = """
table ip one {
	chain prerouting { type filter hook prerouting priority 0;
		ct state new accept
	}
}
"""
"""What makes the kernel track connections, and nothing besides."""
UNTRACKED = """
table ip untracked {
	chain prerouting { type filter hook prerouting priority raw; notrack; }
}
"""
"""What keeps everything that is forwarded from being tracked."""
_NAT = """
table ip one {
	chain prerouting { type nat hook prerouting priority -100;
%s
	}
	chain output { type nat hook output priority -100; }
	chain input { type nat hook input priority 100; }
	chain postrouting { type nat hook postrouting priority 100; meta mark 0x4000 masquerade; }
}
"""
NO_RULE = _NAT % ""
"""What makes it track and stand ready to translate, as on every node whose pods reach the world masqueraded."""
ONE_RULE = _NAT % f"ip daddr {SERVICE[0]} tcp dport {SERVICE[1]} dnat to {DIRECT[0]}:{DIRECT[1]}"
"""A Service as one rule of nft: what the kernel's own translation costs."""


class Slice(NamedTuple):
    """One turn of one way: connections for each second on a CPU, and how long the middle and the slowest took."""

    rate: float
    middle: float
    slowest: float


class Way(NamedTuple):
    """A node, where its second pod connects to, and the process that answers in the first."""

    lab: Topology
    where: tuple[str, int]
    server: int


class Ways:
    """Ways to compare, by name; a context manager, for each has a node of its own."""

    def __init__(self) -> None:
        """Start without any."""
        self._stack = contextlib.ExitStack()
        self._ways: dict[str, Way] = {}
        self._servers: subprocess.Popen[str] | None = None

    def __enter__(self) -> Ways:
        """Start the process that servers are made of."""
        argv = [sys.executable, "-c", _SERVERS]
        pipe = subprocess.PIPE
        self._servers = subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, bufsize=1, start_new_session=True)
        self._stack.callback(self._servers.wait, _PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        """End the servers and remove the nodes."""
        assert self._servers is not None
        assert self._servers.stdin is not None
        self._servers.stdin.close()
        self._stack.close()

    def add(self, name: str, where: tuple[str, int], prepare: Callable[[Topology], None]) -> None:
        """Make a node, and let its second pod connect to `where`."""
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        lab = self._stack.enter_context(topology(folder))
        prepare(lab)
        self._ways[name] = Way(lab, where, self._serve(lab.places["pod1"]))

    def _serve(self, place: str) -> int:
        servers = self._servers
        assert servers is not None
        assert servers.stdin is not None
        assert servers.stdout is not None
        servers.stdin.write(f"{place}\n")
        return int(servers.stdout.readline())

    def turns(self, *, rounds: int, seconds: float) -> dict[str, list[Slice]]:
        """Let the ways take turns of so many seconds, each round in another order: who comes next may pay for it."""
        found: dict[str, list[Slice]] = {name: [] for name in self._ways}
        chance = random.Random(rounds)
        for _ in range(rounds):
            for name in chance.sample(list(self._ways), len(self._ways)):
                found[name].append(_connect(self._ways[name], seconds))
        return found


def ruled(text: str) -> Callable[[Topology], None]:
    """Return what loads some rules on a node."""

    def load(lab: Topology) -> None:
        lab.run("node", "nft", "-f", "-", feed=text)

    return load


def wanted(size: int) -> Forwarding:
    """So many Services, the first of which is the pod that answers."""
    web = service_port(cluster_ip(Family.V4), cluster=[backend(POD1, Family.V4, PORT)])
    pods = [Backend(address.parse(f"10.200.{n >> 8}.{n & 255}"), 8080) for n in range(3)]
    more = [
        service_port(cluster_ip(Family.V4, 2 + n % 250, port=1000 + n // 250), cluster=pods, name=f"s{n:05}")
        for n in range(size - 1)
    ]
    return forwarding(web, *more, node=FACTS)


def ratio(ways: Sequence[Slice], others: Sequence[Slice]) -> float:
    """Return the middle of the turns' ratios of rates."""
    return statistics.median(_ratios(ways, others))


def doubt(ways: Sequence[Slice], others: Sequence[Slice]) -> float:
    """Return by how much that middle may be off: in 19 of 20 cases by no more, whatever the turns are spread like."""
    first, _, third = statistics.quantiles(_ratios(ways, others), n=4)
    # McGill, Tukey, Larsen: Variations of Box Plots (1978).
    return 1.57 * (third - first) / math.sqrt(len(ways))


def _ratios(ways: Sequence[Slice], others: Sequence[Slice]) -> list[float]:
    return [one.rate / other.rate for one, other in zip(ways, others, strict=True)]


def _connect(chosen: Way, seconds: float) -> Slice:
    """Connect for a moment, and reset at once; the first connection, for which nothing is warm, does not count."""
    times: list[float] = []
    with netns.inside(chosen.lab.places["pod2"]):
        _once(chosen.where)
        time.sleep(_SETTLING)
        before = _cpu(chosen.server)
        now = time.perf_counter()
        until, spent = now + seconds, time.thread_time()
        while now < until:
            _once(chosen.where)
            began, now = now, time.perf_counter()
            times.append(now - began)
        spent = time.thread_time() - spent
    time.sleep(_SETTLING)
    spent += _cpu(chosen.server) - before
    times.sort()
    return Slice(len(times) / spent, times[len(times) // 2], times[len(times) * 99 // 100])


def _once(where: tuple[str, int]) -> None:
    with socket.socket() as one:
        one.connect(where)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def _cpu(process: int) -> float:
    """Seconds that a process was on a CPU so far."""
    return int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) / 1e9
