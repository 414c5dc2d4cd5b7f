"""Measure where a pod's time goes under containerd: sandbox, its network, container, and the way back.

One node with the real CNI daemon and containerd 1.6; 60 pods, four at a time, as a kubelet starts them. The network's
part is what the daemon says of its calls, and the plugin's process for each.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "proxy"), str(ROOT / "cni")]

from tests.support.cni_nodes import Machine, World  # noqa: E402
from tests.support.runtimes import Containerd, images, jailed  # noqa: E402

PODS = 60
AT_ONCE = 4
GOAL = 0.05
METRICS_PORT = 9910
METHODS = ("RunPodSandbox", "CreateContainer", "StartContainer", "StopPodSandbox", "RemovePodSandbox")
_SUM = re.compile(r'^netplane_cni_seconds_(sum|count)\{command="(\w+)"\} (\S+)$', re.MULTILINE)


def main() -> int:
    """Run it and print the split; exit 1 when the network takes more than its goal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=PODS)
    count = parser.parse_args().pods
    with tempfile.TemporaryDirectory(prefix="netplane-bench-") as name, site(Path(name)) as (machine, runtime):
        shim = median(_seconds(lambda: _version(machine)) for _ in range(20))
        before = network(machine)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            begun = time.monotonic()
            up = list(pool.map(lambda number: runtime.run(f"pod-{number}"), range(count)))
            started = time.monotonic() - begun
            list(pool.map(runtime.stop, up))
            stopped = time.monotonic() - begun - started
        after, steps = network(machine), runtime.client.seconds
    net = {
        verb: after.get(f"sum {verb}", 0)
        - before.get(f"sum {verb}", 0)
        + shim * (after.get(f"count {verb}", 0) - before.get(f"count {verb}", 0))
        for verb in ("ADD", "DEL")
    }
    print(f"{count} pods, {AT_ONCE} at a time: up in {started:.1f} s, gone in {stopped:.1f} s")
    return _judge(count, dict(steps), net)


def _judge(count: int, steps: dict[str, float], net: dict[str, float]) -> int:
    table = Table("STEP", "A POD, MS", "SHARE", box=None, header_style="bold")
    whole = sum(steps[method] for method in METHODS)
    rows = {
        "sandbox, without its network": steps["RunPodSandbox"] - net["ADD"],
        "network: ADD": net["ADD"],
        "container: create and start": steps["CreateContainer"] + steps["StartContainer"],
        "stop, without the network": steps["StopPodSandbox"] - net["DEL"],
        "network: DEL": net["DEL"],
        "remove": steps["RemovePodSandbox"],
    }
    for step, seconds in rows.items():
        table.add_row(step, f"{seconds / count * 1e3:.1f}", f"{seconds / whole:.1%}")
    Console(width=100).print(table)
    share = sum(net.values()) / whole
    print(f"network: {share:.1%} of the pods' time (goal: under {GOAL:.0%}) {'✓' if share < GOAL else '✗'}")
    return 0 if share < GOAL else 1


@contextmanager
def site(folder: Path) -> Iterator[tuple[Machine, Containerd]]:
    """Make a node with the CNI daemon and containerd."""
    archives = images(folder)
    with World(folder / "world", nodes=1) as world:
        (machine,) = world.machines
        machine.options = ["--cool-down=0", f"--metrics-port={METRICS_PORT}"]
        machine.start()
        with jailed(machine, "containerd") as jail:
            runtime = Containerd(jail, archives)
            try:
                yield machine, runtime
            finally:
                runtime.close()


def network(machine: Machine) -> dict[str, float]:
    """Return the daemon's sums and counts of its calls by `sum ADD`, `count DEL` and so on."""
    argv = ["nsenter", f"--net={machine.netns}", "curl", "-s", f"http://127.0.0.1:{METRICS_PORT}/metrics"]
    text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return {f"{what} {verb}": float(value) for what, verb, value in _SUM.findall(text)}


def _version(machine: Machine) -> None:
    shim = machine.folder / "bin" / "netplane-cni"
    subprocess.run(
        [shim], env={"CNI_COMMAND": "VERSION"}, input=b'{"cniVersion":"1.0.0"}', capture_output=True, check=True
    )


def _seconds(action: Callable[[], object]) -> float:
    begun = time.monotonic()
    action()
    return time.monotonic() - begun


if __name__ == "__main__":
    sys.exit(main())
