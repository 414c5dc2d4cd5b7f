"""Measure the IPVS backend: `python -m tests.vm.machine -- .venv/bin/python -m tests.vm.bench_ipvs 10000`.

From what is meant to committed, without the API; the processor is emulated, and several times slower than a real one.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
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
from tests.support.clusters import NODE

CHANGES = 50


def port(number: int, first: int = 1) -> PortForwarding:
    """Return one Service of three backends."""
    vip: Packed = bytes((10, 96, number >> 8, number & 255))
    backends = tuple(Backend(bytes((10, 244, number >> 8 & 127, (number + at) & 255)), 8080 + at) for at in
                     range(first, first + 3))  # fmt: skip
    key = PortKey("default", f"s{number}", "", Protocol.TCP, Family.V4)
    return PortForwarding(key, tuple(sorted(backends)), (), 0, (Frontend(vip, Protocol.TCP, 80, Kind.INTERNAL),))


async def measure(count: int) -> None:
    """Print how long things take with so many Services."""
    # Before a namespace has its first address, IPVS takes any destination for a broadcast address.
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    target = ipvs.open_target()
    with contextlib.closing(target):
        ports = {one.key: one for one in map(port, range(count))}
        begun = time.perf_counter()
        result = await target.replace(Forwarding("1", ports, NODE))
        cold = time.perf_counter() - begun
        took = []
        for number in range(CHANGES):
            changed = port(number * 7 % count, first=2)
            begun = time.perf_counter()
            await target.commit({changed.key: changed}, "2")
            took.append((time.perf_counter() - begun) * 1000)
            ports[changed.key] = changed
        begun = time.perf_counter()
        again = await target.replace(Forwarding("1", ports, NODE))
        compare = time.perf_counter() - begun
    took.sort()
    print(f"{count} Services x 3: cold start {cold:.2f} s ({result.operations} operations), one endpoint replaced p50 "
          f"{statistics.median(took):.2f} ms, p99 {took[-1]:.2f} ms, all compared {compare:.2f} s "
          f"({again.operations} operations)")  # fmt: skip


def main() -> None:
    """Measure in a namespace of its own for each size given."""
    with tempfile.TemporaryDirectory() as folder:
        for size in map(int, sys.argv[1:] or ["1000"]):
            place = str(Path(folder) / f"node{size}")
            netns.create(place)
            try:
                netns.run_in(place, lambda size=size: asyncio.run(measure(size)))  # type: ignore[misc]  # bound early
            finally:
                netns.remove_if_present(place)


if __name__ == "__main__":
    main()
