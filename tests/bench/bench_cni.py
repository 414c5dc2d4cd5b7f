"""Measure the CNI plugin beside Debian's own, called as a runtime calls them: one exec per plugin and verb.

Ours has the real daemon behind it, on a node of its own (a network namespace), with host ports, masquerade and leases
on disk; theirs are bridge + host-local + portmap with masquerade, and ptp + host-local with neither. CPU is that of all
processes of a call and of the daemon. How it grows with pods and Services is measured on several nodes that take turns,
so that what else the machine does hits all alike. `--quick` does less of everything, `--theirs no` leaves Debian's out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "proxy"), str(ROOT / "cni")]

from netplane.kernel import netns  # noqa: E402
from netplane_proxy.plan.forwarding import Forwarding  # noqa: E402
from netplane_proxy.run.nftables import open_target  # noqa: E402
from tests.bench import bench_nftables  # noqa: E402
from tests.support.cni_nodes import Machine, World, until  # noqa: E402

DEBIAN = Path("/usr/lib/cni")
PARALLEL = 32
ROW = 500
THEIR_DELS = 40
SLOW_ROW = 60
"""A DEL of theirs takes up to 150 ms, an ADD through portmap 30 and ever more; so many are enough for a middle."""
FILLS = (1, 100, 1_000)
SERVICES = (0, 1_000, 10_000)
ROUNDS, SAMPLE = 15, 10
"""How often nodes of several sizes take turns, and ADDs and DELs of a turn."""

Rounds = dict[int, list[dict[str, float]]]
"""The figures of each round, by size."""

GOALS = {
    "ADD p50": 3.0,
    "ADD p99": 10.0,
    "DEL p50": 5.0,
    f"{PARALLEL} ADDs in parallel": 100.0,
    "CPU per ADD": 3.0,
}
FLATNESS = 1.5
"""How much the ADD of a full node, or of one with all Services, may cost of that of an empty one."""


@dataclass(frozen=True)
class Call:
    """One exec of a plugin: how long it took, what the processes that it started computed, and what it printed."""

    seconds: float
    cpu: float
    body: dict[str, Any]


@dataclass
class Plugins:
    """A chain of plugins and where they are; `wanted` is every plugin's configuration."""

    folder: Path
    wanted: Sequence[dict[str, Any]]
    version: str = "1.0.0"

    def add(self, container: str, place: str, port: int) -> Call:
        """ADD through the chain, each with its predecessor's result."""
        calls: list[Call] = []
        for config in self.wanted:
            previous = {"prevResult": calls[-1].body} if calls else {}
            calls.append(self._call("ADD", container, place, port, {**config, **previous}))
        return _sum(calls)

    def delete(self, container: str, place: str, port: int, result: dict[str, Any]) -> Call:
        """DEL through the chain, in reverse."""
        configs = [{**config, "prevResult": result} for config in reversed(self.wanted)]
        return _sum([self._call("DEL", container, place, port, config) for config in configs])

    def _call(self, command: str, container: str, place: str, port: int, config: dict[str, Any]) -> Call:
        capabilities = config.get("capabilities", {})
        mapping = [{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]
        runtime = {"runtimeConfig": {"portMappings": mapping}} if "portMappings" in capabilities else {}
        stdin = json.dumps({"cniVersion": self.version, "name": "bench", **config, **runtime}).encode()
        environment = {
            "CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_NETNS": place, "CNI_IFNAME": "eth0",
            "CNI_PATH": str(self.folder), "CNI_ARGS": "IgnoreUnknown=1", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        }  # fmt: skip
        return execute(str(self.folder / config["type"]), environment, stdin)


def _sum(calls: Sequence[Call]) -> Call:
    return Call(sum(c.seconds for c in calls), sum(c.cpu for c in calls), calls[-1].body)


def execute(binary: str, environment: dict[str, str], stdin: bytes) -> Call:
    """Run a plugin to its end."""
    begun = time.perf_counter()
    given, giving = os.pipe()
    reading, written = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, given, 0), (os.POSIX_SPAWN_DUP2, written, 1)]
    process = os.posix_spawn(binary, [binary], environment, file_actions=actions)
    os.close(given)
    os.close(written)
    os.write(giving, stdin)
    os.close(giving)
    answer = b"".join(iter(lambda: os.read(reading, 65536), b""))
    os.close(reading)
    _, status, usage = os.wait4(process, 0)
    seconds = time.perf_counter() - begun
    if status:
        raise SystemExit(f"{binary} {environment['CNI_COMMAND']} failed: {answer.decode()}")
    return Call(seconds, usage.ru_utime + usage.ru_stime, json.loads(answer or b"{}"))


@dataclass
class Site:
    """A node, the plugins under test, and the containers that are there."""

    machine: Machine
    plugins: Plugins
    containers: dict[str, tuple[str, int, dict[str, Any]]] = field(default_factory=dict)
    count: int = 0

    def place(self) -> tuple[str, str, int]:
        """Make a container's namespace and return its id, its path and a host port."""
        self.count += 1
        path = str(self.machine.folder / "pods" / str(self.count))
        netns.create(path)
        return f"c{self.count}", path, 10_000 + self.count

    def add(self, place: tuple[str, str, int]) -> Call:
        """ADD a container."""
        call = self.plugins.add(*place)
        self.containers[place[0]] = place[1], place[2], call.body
        return call

    def delete(self, container: str) -> Call:
        """DEL a container and remove its namespace."""
        path, port, result = self.containers.pop(container)
        call = self.plugins.delete(container, path, port, result)
        netns.remove_if_present(path)
        return call

    def settle(self) -> None:
        """Return once the daemon has removed the cables that DEL leaves to it."""
        if self.machine.process is not None:
            until(lambda: len(self.machine.links()) <= len(self.containers), limit=60)

    def close(self) -> None:
        """Remove the namespaces of what is left."""
        for path, _, _ in self.containers.values():
            netns.remove_if_present(path)

    def cpu(self) -> float:
        """Return the seconds that the daemon has computed; 0 without one."""
        if self.machine.process is None:
            return 0.0
        tasks = Path(f"/proc/{self.machine.process.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def row(site: Site, count: int, dels: int) -> dict[str, float]:
    """ADD so many containers one after the other, DEL some of them, and return the figures in milliseconds."""
    places = [site.place() for _ in range(count)]
    before = site.cpu()
    adds = [site.add(place) for place in places]
    added = site.cpu()
    gone = [site.delete(container) for container, _, _ in places[-dels:]]
    site.settle()
    deleted = site.cpu()
    return {
        **_spread("ADD", [call.seconds for call in adds]),
        "ADDs a second, in a row": count / sum(call.seconds for call in adds),
        "CPU per ADD": (sum(call.cpu for call in adds) + added - before) / count * 1e3,
        **_spread("DEL", [call.seconds for call in gone]),
        "CPU per DEL": (sum(call.cpu for call in gone) + deleted - added) / dels * 1e3,
    }


def in_parallel(site: Site) -> float:
    """Return the milliseconds until the last of many ADDs at once is done: the middle of three times."""
    times = []
    for _ in range(3):
        places = [site.place() for _ in range(PARALLEL)]
        ready = threading.Barrier(PARALLEL + 1)

        def work(place: tuple[str, str, int], ready: threading.Barrier = ready) -> None:
            ready.wait()
            site.add(place)

        with ThreadPoolExecutor(PARALLEL) as pool:
            working = [pool.submit(work, place) for place in places]
            ready.wait()
            begun = time.perf_counter()
            for one in working:
                one.result()
            times.append(time.perf_counter() - begun)
        for container, _, _ in places:
            site.delete(container)
    return sorted(times)[1] * 1e3


def fill(site: Site, size: int) -> None:
    """Have so many pods on the node."""
    while len(site.containers) < size:
        site.add(site.place())


def serve(site: Site, size: int) -> None:
    """Have so many Services in the node's nftables."""
    if size:
        netns.run_in(site.machine.netns, lambda: asyncio.run(load_services(size)))


def in_turns(sizes: Sequence[int], prepare: Callable[[Site, int], None]) -> Rounds:
    """Return the figures of nodes of these sizes, which take turns."""
    found: Rounds = {size: [] for size in sizes}
    with contextlib.ExitStack() as stack:
        sites = {size: stack.enter_context(ours()) for size in sizes}
        for size, site in sites.items():
            prepare(site, size)
            row(site, SAMPLE, SAMPLE)
        for turn in range(ROUNDS):
            first = turn % len(sizes)
            for size in [*sizes[first:], *sizes[:first]]:
                found[size].append(row(sites[size], SAMPLE, SAMPLE))
    return found


async def load_services(count: int) -> None:
    """Have the proxy's rules of so many Services in the namespace that this thread is in."""
    target = open_target()
    with contextlib.closing(target):
        ports = map(bench_nftables.service_port, range(count))
        await target.replace(Forwarding("1", {port.key: port for port in ports}, bench_nftables.NODE))


def _spread(name: str, seconds: Sequence[float]) -> dict[str, float]:
    ranked = sorted(one * 1e3 for one in seconds)
    return {f"{name} p50": ranked[len(ranked) // 2], f"{name} p99": ranked[len(ranked) * 99 // 100]}


@contextlib.contextmanager
def ours() -> Iterator[Site]:
    """Be on a node with our daemon."""
    with node() as machine:
        machine.start()
        types = {"type": "netplane-cni", "capabilities": {"portMappings": True}}
        with contextlib.closing(Site(machine, Plugins(machine.folder / "bin", [types]))) as site:
            yield site


@contextlib.contextmanager
def debians(kind: str) -> Iterator[Site]:
    """Be on a node with Debian's plugins: `bridge` with portmap and masquerade, or `ptp` without."""
    with node() as machine:
        ipam = {"type": "host-local", "dataDir": str(machine.folder / "ipam"), "subnet": "10.244.0.0/20"}
        ipam |= {"routes": [{"dst": "0.0.0.0/0"}]}  # type: ignore[dict-item]  # JSON
        chain: list[dict[str, Any]] = [{"type": "ptp", "ipam": ipam}]
        if kind == "bridge":
            bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True, "hairpinMode": True}
            chain = [{**bridge, "ipam": ipam}, {"type": "portmap", "capabilities": {"portMappings": True}}]
        with contextlib.closing(Site(machine, Plugins(DEBIAN, chain))) as site:
            yield site


@contextlib.contextmanager
def node() -> Iterator[Machine]:
    """Make a node with room for 4,000 pods, and be in its network namespace."""
    with tempfile.TemporaryDirectory() as folder, World(Path(folder) / "world", nodes=1, families=[4]) as world:
        machine = world.machines[0]
        told = machine.node()
        told["spec"]["podCIDRs"] = ["10.244.0.0/20"]
        world.tell([told])
        machine.options = ["--cool-down=0", "--cluster-cidr=10.244.0.0/16"]
        with netns.inside(machine.netns):
            yield machine


def whole(make: Callable[[], contextlib.AbstractContextManager[Site]], count: int, dels: int) -> dict[str, float]:
    """Return a plugin's figures on an empty node."""
    with make() as site:
        row(site, 10, 10)
        figures = row(site, count, dels)
    with make() as site:
        row(site, 10, 10)
        return {**figures, f"{PARALLEL} ADDs in parallel": in_parallel(site)}


def compared(figures: dict[str, dict[str, float]]) -> bool:
    """Print all plugins side by side; return whether every goal was met."""
    table = Table(title="CNI calls on an empty node (milliseconds)")
    table.add_column("")
    for name in figures:
        table.add_column(name, justify="right")
    table.add_column("goal", justify="right")
    is_met = True
    for what, value in figures["netplane"].items():
        row = [f"{value:.2f}", *(f"{f[what]:.2f}  ×{f[what] / value:.1f}" for f in list(figures.values())[1:])]
        goal = GOALS.get(what)
        is_met &= goal is None or value < goal
        table.add_row(what, *row, "" if goal is None else f"< {goal:g} {'✓' if value < goal else '✗'}")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return is_met


def grown(title: str, found: Rounds) -> bool:
    """Print how the figures grow, by the middle of the rounds' ratios; return whether they stay flat."""
    sizes = list(found)
    first, last = found[sizes[0]], found[sizes[-1]]
    table = Table(title=title)
    for column in ("", *(f"{size:,}" for size in sizes), f"growth to {sizes[-1]:,}", "goal"):
        table.add_column(column, justify="right" if column else "left")
    is_flat = True
    for what in first[0]:
        growth = statistics.median(b[what] / a[what] for a, b in zip(first, last, strict=True))
        middle = [statistics.median(one[what] for one in found[size]) for size in sizes]
        # CPU tells what a call needs; the time by the wall tells what else the machine did.
        has_goal = what in ("CPU per ADD", "CPU per DEL")
        is_flat &= not has_goal or growth < FLATNESS
        goal = f"< ×{FLATNESS} {'✓' if growth < FLATNESS else '✗'}" if has_goal else ""
        table.add_row(what, *(f"{one:.2f}" for one in middle), f"×{growth:.2f}", goal)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return is_flat


def main() -> int:
    """Measure all that was asked for."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--quick", action="store_true", help="a tenth of everything")
    asked.add_argument("--theirs", choices=["yes", "no"], default="yes", help="Debian's plugins as well")
    options = asked.parse_args()
    if os.geteuid():
        print("skipped: needs root")
        return 0
    gc.disable()
    count = ROW // 10 if options.quick else ROW
    sizes = [(size + 9) // 10 for size in FILLS] if options.quick else FILLS
    services = [size // 10 for size in SERVICES] if options.quick else SERVICES
    figures = {"netplane": whole(ours, count, count)}
    if options.theirs == "yes" and (DEBIAN / "bridge").exists():
        figures["ptp"] = whole(lambda: debians("ptp"), count, THEIR_DELS)
        figures["bridge + portmap"] = whole(lambda: debians("bridge"), min(count, SLOW_ROW), THEIR_DELS)
    elif options.theirs == "yes":
        print("Debian's plugins are left out: apt-get install containernetworking-plugins brings them")
    is_good = compared(figures)
    is_good &= grown("with pods on the node (milliseconds)", in_turns(sizes, fill))
    is_good &= grown("with Services in nftables (milliseconds)", in_turns(services, serve))
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
