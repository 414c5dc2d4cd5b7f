"""Measure the IPVS backend inside the machine, for tests/bench/bench_ipvs.py, which runs this there.

From what is meant to committed, without the API. Prints one JSON object for each size, times in seconds of processor
time: the processor is emulated, and what else it has to do tells more about the host than about us. Then one more, of
what connections cost with the largest size, as ratios of connections for each second on a processor.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import json
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from netplane.kernel import netns
from netplane.model.address import Family, Packed
from netplane.model.service import Protocol
from netplane_proxy.plan.forwarding import Backend, Forwarding, Frontend, Kind, PortForwarding, PortKey
from netplane_proxy.run import ipvs
from tests.support import connection_rates as rates
from tests.support.clusters import NODE
from tests.support.topology import Topology

CHANGES = 50
FEW = 10
ROUNDS, SECONDS = 600, 0.02


def port(number: int, first: int = 1) -> PortForwarding:
    """Return one Service of three backends."""
    vip: Packed = bytes((10, 96, number >> 8, number & 255))
    backends = tuple(Backend(bytes((10, 244, number >> 8 & 127, (number + at) & 255)), 8080 + at) for at in
                     range(first, first + 3))  # fmt: skip
    key = PortKey("default", f"s{number}", "", Protocol.TCP, Family.V4)
    return PortForwarding(key, tuple(sorted(backends)), (), 0, (Frontend(vip, Protocol.TCP, 80, Kind.INTERNAL),))


def calibration() -> float:
    """Return what a piece of work like ours takes here: packing, hashing, and small system calls."""
    begun = time.process_time()
    table: dict[bytes, int] = {}
    with open("/dev/null", "wb", buffering=0) as nowhere:
        for number in range(100_000):
            key = struct.pack("=HHI", 8, 1, number % 5000)
            table[key] = table.get(key, 0) + len(key)
            if not number % 10:
                nowhere.write(key)
    return time.process_time() - begun


def quiet() -> None:
    """Keep the garbage collector off what stays, as the proxy does."""
    gc.collect()
    gc.freeze()


async def measure(count: int) -> dict[str, float]:
    """Return how long things take with so many Services."""
    # Before a namespace has its first address, IPVS takes any destination for a broadcast address.
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    target = ipvs.open_target()
    with contextlib.closing(target):
        ports = {one.key: one for one in map(port, range(count))}
        begun = time.process_time()
        await target.replace(Forwarding("1", ports, NODE))
        cold = time.process_time() - begun
        quiet()
        took = []
        for number in range(CHANGES):
            changed = port(number * 7 % count, first=2)
            begun = time.process_time()
            await target.commit({changed.key: changed}, "2")
            took.append(time.process_time() - begun)
            ports[changed.key] = changed
        begun = time.process_time()
        listed = target._ipvs.servers()
        read = time.process_time() - begun
        assert len(listed) == count
        begun = time.process_time()
        await target.replace(Forwarding("1", ports, NODE))
        compare = time.process_time() - begun
    took.sort()
    return {
        "services": count,
        "cold": cold,
        "change_p50": statistics.median(took),
        "change_p99": took[-1],
        "read": read,
        "compare": compare,
        "calibration": calibration(),
    }


def connections(size: int) -> dict[str, tuple[float, float]]:
    """Return the ratios that tests/bench/bench_proxy_connections shows of nftables, with few Services and so many.

    Each with by how much it may be off.
    """
    with rates.Ways() as ways, contextlib.ExitStack() as stack:
        ways.add("nothing at all", rates.DIRECT, lambda _: None)
        ways.add("conntrack alone", rates.DIRECT, rates.ruled(rates.NO_RULE))
        for count in (FEW, size):
            fill = functools.partial(forward, stack, count)
            ways.add(f"all rules {count}", rates.DIRECT, fill)
            ways.add(f"service {count}", rates.SERVICE, fill)
        found = ways.turns(rounds=ROUNDS, seconds=SECONDS)
    pairs = [
        *((f"all rules {count}", "conntrack alone") for count in (FEW, size)),
        *((f"service {count}", f"all rules {count}") for count in (FEW, size)),
        *((f"all rules {count}", "nothing at all") for count in (FEW, size)),
        ("conntrack alone", "nothing at all"),
    ]
    return {f"{a} / {b}": (rates.ratio(found[a], found[b]), rates.doubt(found[a], found[b])) for a, b in pairs}


def forward(stack: contextlib.ExitStack, count: int, lab: Topology) -> None:
    """Forward so many Services on a node."""
    target = stack.enter_context(contextlib.closing(netns.run_in(lab.places["node"], ipvs.open_target)))
    netns.run_in(lab.places["node"], lambda: asyncio.run(target.replace(rates.wanted(count))))


def main() -> None:
    """Measure in a namespace of its own for each size given."""
    sizes = [int(size) for size in sys.argv[1:] or ["1000"]]
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            place = str(Path(folder) / f"node{size}")
            netns.create(place)
            try:
                found = netns.run_in(place, lambda size=size: asyncio.run(measure(size)))  # type: ignore[misc]  # bound early
                print(json.dumps(found), flush=True)
            finally:
                netns.remove_if_present(place)
    print(json.dumps({"connections": connections(max(sizes))}), flush=True)


if __name__ == "__main__":
    main()
