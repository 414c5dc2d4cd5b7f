"""What changes of IPVS cost, on Debian's own kernel in an emulated machine.

Run as `python tests/bench/bench_ipvs.py [SIZE ...]`. All times are processor time, divided by how much slower the
emulated processor does the same piece of work. What connections cost is shown as ratios, of what they are says
bench_proxy_connections.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # run as a script

from tests.vm import kernel  # noqa: E402
from tests.vm.bench_ipvs import calibration  # noqa: E402

GOAL_MS, GOAL_SIZE = 20.0, 10_000
SIZES = "100", "1000", "10000"
CONNECTIONS_GOAL = 0.95


def main() -> int:
    """Run the measurements in the machine, print them, and return 1 when the goal is missed."""
    missing = kernel.missing_programs()
    if missing:
        print(f"IPVS cannot be measured: {', '.join(missing)} not found; `make vm` installs what it takes")
        return 1
    inside = (str(ROOT / ".venv/bin/python"), "-m", "tests.vm.bench_ipvs", *(sys.argv[1:] or SIZES))
    machine = (sys.executable, "-m", "tests.vm.machine", "--timeout", "1200", "--", *inside)
    said = subprocess.run(machine, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    rows = [json.loads(line) for line in said.stdout.splitlines() if line.startswith("{")]
    if said.returncode or len(rows) < 2:
        print(said.stdout)
        return 1
    ratios = rows.pop()["connections"]
    here = min(calibration() for _ in range(3))
    factor = min(row["calibration"] for row in rows) / here
    print(f"emulated processor: {factor:.1f} times slower; figures are divided by that, in ms of processor time")
    print(f"{'Services x 3':>12} {'cold start':>10} {'change p50':>10} {'p99':>8} {'all read':>8} {'compared':>8}")
    is_missed = False
    for row in rows:
        shown = [row[name] / factor * 1000 for name in ("cold", "change_p50", "change_p99", "read", "compare")]
        print("{:>12} {:>10.0f} {:>10.2f} {:>8.2f} {:>8.1f} {:>8.1f}".format(int(row["services"]), *shown))
        is_missed |= row["services"] == GOAL_SIZE and shown[2] >= GOAL_MS
    print(f"goal: one change at {GOAL_SIZE} under {GOAL_MS:g} ms: {'missed' if is_missed else 'met'}")
    return int(is_missed | show(ratios))


def show(ratios: dict[str, tuple[float, float]]) -> bool:
    """Print what connections cost, and by how much that may be off; return whether a goal was missed."""
    print("connections for each second on a processor:")
    is_missed = False
    for name, (ratio, doubt) in ratios.items():
        is_judged = name.startswith("all rules") and name.endswith("conntrack alone")
        is_missed |= is_judged and ratio < CONNECTIONS_GOAL
        verdict = f">= {CONNECTIONS_GOAL} {'✓' if ratio >= CONNECTIONS_GOAL else '✗'}" if is_judged else ""
        print(f"  {name:<40} {ratio:.3f} ± {doubt:.3f}  {verdict}".rstrip())
    return is_missed


if __name__ == "__main__":
    sys.exit(main())
