"""What connections cost, of several ways in turn: nodes made of namespaces on which one pod connects to another.

Every way has a node of its own, and they take turns every few hundredths of a second, so that what else the machine
does hits all alike. Which ways there are to compare is the benches'.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
_RESET = struct.pack("ii", 1, 0)
_SERVER = f"""
import socket
listener = socket.create_server(("0.0.0.0", {PORT}), backlog=4096)
print("ready", flush=True)
while True:
    listener.accept()[0].close()
"""
ONE_LOOK = """
table ip one {
	chain prerouting { type filter hook prerouting priority 0;
		ct state new accept
	}
}
"""
"""What makes the kernel track connections, and nothing besides."""
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


def way(stack: contextlib.ExitStack, where: tuple[str, int], prepare: Callable[[Topology], None]) -> Way:
    """Return a way on a node of its own, for as long as the stack lives."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    lab = stack.enter_context(topology(folder))
    prepare(lab)
    return Way(lab, where, stack.enter_context(_server(lab)))


def ruled(text: str) -> Callable[[Topology], None]:
    """Return what loads some rules on a node."""

    def load(lab: Topology) -> None:
        lab.run("node", "nft", "-f", "-", feed=text)

    return load


@contextlib.contextmanager
def _server(lab: Topology) -> Iterator[int]:
    """Accept and close in a process of its own, in the first pod."""

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE)

    process = netns.run_in(lab.places["pod1"], start)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
    finally:
        process.kill()
        process.wait()


def wanted(size: int) -> Forwarding:
    """So many Services, the first of which is the pod that answers."""
    web = service_port(cluster_ip(Family.V4), cluster=[backend(POD1, Family.V4, PORT)])
    pods = [Backend(address.parse(f"10.200.{n >> 8}.{n & 255}"), 8080) for n in range(3)]
    more = [
        service_port(cluster_ip(Family.V4, 2 + n % 250, port=1000 + n // 250), cluster=pods, name=f"s{n:05}")
        for n in range(size - 1)
    ]
    return forwarding(web, *more, node=FACTS)


def turns(ways: Mapping[str, Way], *, rounds: int, seconds: float) -> dict[str, list[Slice]]:
    """Let the ways take turns, each of so many seconds, and another one begin each round."""
    found: dict[str, list[Slice]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(_connect(ways[name], seconds))
    return found


def ratio(ways: Sequence[Slice], others: Sequence[Slice]) -> float:
    """Return the middle of the turns' ratios of rates."""
    return statistics.median(one.rate / other.rate for one, other in zip(ways, others, strict=True))


def _connect(chosen: Way, seconds: float) -> Slice:
    """Connect for a moment, and reset at once."""
    times: list[float] = []
    with netns.inside(chosen.lab.places["pod2"]):
        before = _cpu(chosen.server)
        now = time.perf_counter()
        until, spent = now + seconds, time.thread_time()
        while now < until:
            with socket.socket() as one:
                one.connect(chosen.where)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            began, now = now, time.perf_counter()
            times.append(now - began)
        spent = time.thread_time() - spent
    time.sleep(_SETTLING)
    spent += _cpu(chosen.server) - before
    times.sort()
    return Slice(len(times) / spent, times[len(times) // 2], times[len(times) * 99 // 100])


def _cpu(process: int) -> float:
    """Seconds that a process was on a CPU so far."""
    return int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) / 1e9
