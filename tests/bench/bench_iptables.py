"""Time the iptables backend: cold start, a restart that adopts, one change, a repair, and what its rules cost others.

Run as root: `python tests/bench/bench_iptables.py [--services 100,1000,10000] [--variant legacy]`. Everything happens
in network namespaces of its own. On nft, mind that iptables-nft-restore itself takes minutes for 10,000 Services.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import statistics
import struct
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from netplane.kernel import netns
from netplane.kernel.xtables.objects import Variant
from netplane.model.address import Family
from netplane.model.service import Protocol
from netplane_proxy.plan.forwarding import Backend, Forwarding, Frontend, Kind, PortForwarding, PortKey
from netplane_proxy.run import iptables
from tests.support.topology import FACTS, POD2, PORT, Topology, topology

CHANGES = 15
CONNECTIONS = 3000
ROUNDS = 5
SETTLING, PATIENCE = 4.0, 60.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def service(number: int, *, shift: int = 0) -> PortForwarding:
    """One of many Services, with three endpoints."""
    ip = bytes((10, 96, *divmod(number, 256)))
    backends = [Backend(bytes((10, 244, 2 + (number + i) % 200, 2 + i)), 8080 + shift) for i in range(3)]
    key = PortKey("default", f"svc-{number}", "http", Protocol.TCP, Family.V4)
    return PortForwarding(key, tuple(sorted(backends)), (), 0, (Frontend(ip, Protocol.TCP, 80, Kind.INTERNAL),))


def cluster(count: int) -> Forwarding:
    """A cluster of so many Services."""
    ports = [service(number) for number in range(1, count + 1)]
    return Forwarding("1", {port.key: port for port in ports}, FACTS)


async def measure(lab: Topology, variant: Variant, count: int) -> None:
    """Print what one size costs."""
    target = netns.run_in(lab.places["node"], lambda: iptables.open_target(variant))
    with contextlib.closing(target):
        wanted = cluster(count)
        cold = (await target.replace(wanted)).seconds
        adopted = await target.replace(wanted)
        assert adopted.operations == 0
        changes = []
        for turn in range(CHANGES):
            port = service(1 + turn * 7 % count, shift=turn + 1)
            changes.append((await target.commit({port.key: port}, str(turn))).seconds)
        print(
            f"{variant} {count:6} Services: cold start {cold * 1e3:8.1f} ms, adoption {adopted.seconds * 1e3:7.1f} ms, "
            f"a change p50 {statistics.median(changes) * 1e3:6.1f} ms, worst {max(changes) * 1e3:6.1f} ms"
        )
        found, mended = await repaired(lab, target, wanted)
        print(
            f"              a chain that somebody flushed: found after {found:.2f} s, stands again after {mended:.2f} s"
        )
        with_rules = rate_of(lab)
        await target.cleanup()
        compare_rates(lab, with_rules, rate_of(lab))


async def repaired(lab: Topology, target: iptables.IptablesTarget, wanted: Forwarding) -> tuple[float, float]:
    """Flush a chain as a stranger; return the seconds until that is found, and until it stands again."""
    tool = f"iptables-{target.variant}"
    listed = lab.run("node", tool, "-t", "nat", "-S").splitlines()
    chain = next(line.split()[1] for line in listed if line.startswith("-A NETPLANE"))
    drift = aiter(target.drift())
    news = asyncio.ensure_future(anext(drift))
    await asyncio.sleep(SETTLING)
    await asyncio.to_thread(lab.run, "node", tool, "-t", "nat", "-F", chain)
    began = time.perf_counter()
    await asyncio.wait_for(news, PATIENCE)
    found = time.perf_counter() - began
    assert (await target.replace(wanted)).operations
    await drift.aclose()  # type: ignore[attr-defined]  # a generator
    return found, time.perf_counter() - began


def compare_rates(lab: Topology, loaded: float, bare: float) -> None:
    """Print the share of connections that is left with all rules."""
    print(
        f"              pod to pod {loaded:7.0f} connections/s with all rules, {bare:7.0f} without: {loaded / bare:.2f}"
    )


def rate_of(lab: Topology) -> float:
    """Return how many connections a second one pod opens to another: the best of some rounds."""
    place, where = "pod1", (POD2[Family.V4], PORT + 1)
    with netns.inside(lab.places["pod2"]):
        server = socket.create_server(("0.0.0.0", where[1]), backlog=CONNECTIONS)
    with server:
        return max(netns.run_in(lab.places[place], lambda: connect(server, where)) for _ in range(ROUNDS))


def connect(server: socket.socket, where: tuple[str, int]) -> float:
    """Open and reset connections one after the other."""
    began = time.perf_counter()
    for _ in range(CONNECTIONS):
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            one.connect(where)
            server.accept()[0].close()
    return CONNECTIONS / (time.perf_counter() - began)


def main() -> None:
    """Measure all that was asked for."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--services", default="100,1000,10000")
    asked.add_argument("--variant", default="legacy", choices=["legacy", "nft"])
    options = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder, topology(Path(folder)) as lab:
        for count in map(int, options.services.split(",")):
            asyncio.run(measure(lab, options.variant, count))


if __name__ == "__main__":
    main()
