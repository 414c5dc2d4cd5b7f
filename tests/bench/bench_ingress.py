"""Measure the front door: its throughput against a plain HAProxy, how soon a change is in the engine, how it loads.

All of it runs in one network namespace: an API server, `netplane ingress`, and an HAProxy that plays all pods. The
plain HAProxy is one that a person would write for the same hosts, pods and log; a second one, for comparison, writes
HAProxy's own `httplog`, which tells less. wrk asks all, turn about, over kept-alive connections: one wrk for each is
stopped and goes on when it is its turn, so that turns are short and without a start. What the pods answered counts, and
of it the median of the turns' ratios; the quartiles tell how sure that is. For changes, an EndpointSlice is pointed to
another pod, and the time counts from the API's answer until the new pod answers through the door.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from tests.support import ingress  # noqa: E402
from tests.support import ingress_objects as o  # noqa: E402

SIZES = (100, 1000)
ROUNDS, SECONDS, CONNECTIONS = 8, 0.25, 32
"""Of each round, in which every order of asking comes once, connections are new: threads share them out differently."""
PODS, CHANGES = 8, 200
RATIO_GOAL, CHANGE_GOAL_MS, LOAD_GOAL_S = 0.95, 20.0, 5.0
HOST, PLAIN_PORT, HTTPLOG_PORT, POD_PORT = "speed.example", 8090, 8091, 8088
_POD = [f"10.244.200.{number}" for number in range(1, PODS + 1)]
_ONE, _OTHER = "10.244.201.1", "10.244.201.2"
_POINTS: dict[str, str] = {}
"""Where the slice of an Ingress' Service points by now."""
_PODS_SOCKET = "pods.sock"
_GLOBAL = "global\n    maxconn 2000\n    nbthread 1\ndefaults\n    mode http\n    timeout client 60s\n"
_DEFAULTS = _GLOBAL + "    timeout server 60s\n    timeout connect 5s\n"
_PODS = _DEFAULTS + (
    "frontend pods\n"
    + "".join(f"    bind {pod}:{POD_PORT}\n" for pod in (*_POD, _ONE, _OTHER))
    + '    http-request return status 200 content-type text/plain lf-string "%[dst] says hello to %[src]"\n'
)


_LOG = (
    '{"time":"%[date,utime(%Y-%m-%dT%H:%M:%SZ)]","client":"%ci","method":"%[capture.req.method,json(utf8s)]",'
    '"host":"%[var(txn.host),json(utf8s)]","path":"%[var(txn.path),json(utf8s)]","protocol":"%HV","status":%ST,'
    '"bytes":%B,"ms":%Ta,"backend_ms":%Tr,"state":"%tsc","backend":"%b","server":"%s","endpoint":"%si:%sp",'
    '"retries":%rc,"agent":"%[var(txn.agent),json(utf8s)]"}'
)
"""What is logged of a request: the same things as the door logs."""


def _plain(folder: Path, size: int, *, log: str, port: int = PLAIN_PORT) -> str:
    """Return what a person would write for as many hosts: a map, headers that say who asks, a log ("": none)."""
    hosts = folder / "hosts.map"
    hosts.write_text(f"{HOST} web\n" + "".join(f"app-{number}.example web\n" for number in range(size)))
    servers = "".join(f"    server pod{number} {pod}:{POD_PORT}\n" for number, pod in enumerate(_POD))
    target = "    log stdout len 8192 format raw local0 info\n" if log else ""
    told = f"    log global\n    {log}\n" if log else ""
    return (
        _DEFAULTS.replace("    nbthread 1\n", target)
        + f"frontend plain\n    bind :{port}\n{told}"
        + "    option forwardfor\n"
        + "    http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]\n"
        + "    http-request set-header X-Forwarded-Host %[req.hdr(host)]\n"
        + "    http-request set-header X-Forwarded-Port %[dst_port]\n"
        + "    http-request set-header X-Real-IP %[src]\n"
        + "    http-request set-header X-Scheme %[ssl_fc,iif(https,http)]\n"
        + "    http-request set-var(txn.host) req.hdr(host),host_only,lower\n"
        + "    http-request set-var(txn.path) path\n    http-request set-var(txn.agent) req.hdr(user-agent)\n"
        + f"    use_backend %[var(txn.host),map_str({hosts},none)]\n"
        + f"backend web\n    balance roundrobin\n    http-reuse safe\n{servers}"
    )


@contextlib.contextmanager
def haproxy(folder: Path, name: str, text: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a HAProxy of this configuration."""
    path = folder / f"{name}.cfg"
    path.write_text(text)
    # As the door's engine has it: a log that is appended to, and a session of its own, which the scheduler weighs.
    # Not quiet: `-q` would turn the log on standard output into nothing, which costs less than any log there is.
    with open(folder / f"{name}.log", "ab") as log:
        command = ["haproxy", "-db", "-f", str(path)]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def stopped_wrk(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a wrk that has its connections and is stopped."""
    url = f"http://{ingress.DOOR}:{port}/"
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", "-d600s", "-H", f"Host: {HOST}", url]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        time.sleep(SECONDS)
        process.send_signal(signal.SIGSTOP)
        yield process
    finally:
        process.kill()
        process.wait()


def answered(folder: Path) -> int:
    """Return how many requests the pods have answered by now; asks that were on their way have come."""
    time.sleep(0.01)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(folder / _PODS_SOCKET))
        client.sendall(b"show info\n")
        said = b"".join(iter(lambda: client.recv(65536), b""))
    return int(re.search(rb"CumReq: (\d+)", said)[1])  # type: ignore[index]  # HAProxy always says it


def ask(wrk: subprocess.Popen[bytes], pids: set[int], folder: Path) -> tuple[float, float]:
    """Let a stopped wrk go on for a turn; return answers a second and CPU microseconds an answer of these processes."""
    before, spent, began = answered(folder), cpu(pids), time.perf_counter()
    wrk.send_signal(signal.SIGCONT)
    time.sleep(SECONDS)
    wrk.send_signal(signal.SIGSTOP)
    took = time.perf_counter() - began
    count = answered(folder) - before
    assert count, "no pod was reached"
    return count / took, (cpu(pids) - spent) / count * 1e6


def cpu(pids: set[int]) -> float:
    """Return the CPU seconds that processes have used, as the scheduler counts them for each thread."""
    spent = 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").glob("*"):
            with contextlib.suppress(OSError):
                spent += int((thread / "schedstat").read_text().split()[0])
    return spent / 1e9


def engines(folder: Path) -> set[int]:
    """Return the engines of a door."""
    found = set()
    for pid in (int(each) for each in os.listdir("/proc") if each.isdigit()):
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            if line.split(b"\0")[0].endswith(b"haproxy") and f"{folder}/run/".encode() in line:
                found.add(pid)
    return found


def throughput(door: ingress.Door, folder: Path, size: int, *, logs: bool) -> dict[str, float]:
    """Ask our door and the plain one turn about."""
    ports = [{"name": "http", "port": 8080, "targetPort": POD_PORT}]
    door.api.apply(o.service("speed", ports=ports))
    door.api.apply(o.endpoint_slice("speed", _POD, ports=ports))
    door.api.apply(o.ingress("speed", o.rule(HOST, o.path("/", "speed"))))
    door.until(lambda: door.ask(f"http://{HOST}/").status == 200)
    plain, other = f"log-format '{_LOG}'" if logs else "", "option httplog" if logs else ""
    with (
        haproxy(folder, "plain", _plain(folder, size, log=plain)) as same,
        haproxy(folder, "httplog", _plain(folder, size, log=other, port=HTTPLOG_PORT)) as less,
    ):
        asked = {
            "door": (engines(door.folder), 80),
            "plain": ({same.pid}, PLAIN_PORT),
            "httplog": ({less.pid}, HTTPLOG_PORT),
        }
        for _, port in asked.values():
            door.until(lambda port=port: door.ask(f"http://{HOST}:{port}/", host=HOST).status == 200)  # type: ignore[misc]
        rates, spent = turns(asked, folder)
    low, _, high = quartiles(rates["door"], rates["plain"])
    return {
        "door, requests/s": statistics.median(rates["door"]),
        "plain, requests/s": statistics.median(rates["plain"]),
        "door / plain, requests/s": over(rates["door"], rates["plain"]),
        "door / plain, quartiles of turns: lower": low,
        "door / plain, quartiles of turns: upper": high,
        "door / plain with httplog, requests/s": over(rates["door"], rates["httplog"]),
        "door, CPU us a request": statistics.median(spent["door"]),
        "plain, CPU us a request": statistics.median(spent["plain"]),
        "plain with httplog, CPU us a request": statistics.median(spent["httplog"]),
        "plain / door, CPU": over(spent["plain"], spent["door"]),
        "plain with httplog / door, CPU": over(spent["httplog"], spent["door"]),
    }


def turns(
    asked: dict[str, tuple[set[int], int]], folder: Path
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Ask all turn about; return each one's requests a second and CPU microseconds a request, by turn."""
    rates: dict[str, list[float]] = {which: [] for which in asked}
    spent: dict[str, list[float]] = {which: [] for which in asked}
    for _ in range(ROUNDS):
        with contextlib.ExitStack() as stack:
            wrks = {which: stack.enter_context(stopped_wrk(port)) for which, (_, port) in asked.items()}
            for order in itertools.permutations(asked):
                for which in order:
                    rate, each = ask(wrks[which], asked[which][0], folder)
                    rates[which].append(rate)
                    spent[which].append(each)
    return rates, spent


def quartiles(mine: list[float], theirs: list[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile of the turns' ratios."""
    low, middle, high = statistics.quantiles([one / other for one, other in zip(mine, theirs, strict=True)], n=4)
    return low, middle, high


def over(mine: list[float], theirs: list[float]) -> float:
    """Return the median of the turns' ratios."""
    return quartiles(mine, theirs)[1]


def fill(door: ingress.Door, known: int, size: int) -> None:
    """Make Ingresses, each with a host, a Service and a slice of its own, up to this many."""
    ports = [{"name": "http", "port": 8080, "targetPort": POD_PORT}]
    for number in range(known, size):
        name = f"app-{number}"
        door.api.apply(o.service(name, ports=ports))
        door.api.apply(o.endpoint_slice(name, [_ONE], ports=ports))
        door.api.apply(o.ingress(name, o.rule(f"{name}.example", o.path("/", name), o.path("/api", name))))


def load_seconds(door: ingress.Door, size: int) -> float:
    """Start the controller and an engine anew and return how long it takes until the last of all hosts answers."""
    assert door.controller is not None
    door.controller.stop()
    for pid in engines(door.folder):
        os.kill(pid, 9)
    began = time.monotonic()
    door.start()
    door.until(lambda: door.ask(f"http://app-{size - 1}.example/").status == 200)
    return time.monotonic() - began


def changes(door: ingress.Door, size: int) -> list[float]:
    """Point slices to the other pod and back; return for each how many milliseconds until the door says so."""
    ports = [{"name": "http", "port": 8080, "targetPort": POD_PORT}]
    found = []
    for turn in range(CHANGES):
        name = f"app-{(turn * 37) % size}"
        pod = _POINTS[name] = _ONE if _POINTS.get(name, _ONE) == _OTHER else _OTHER
        request = f"GET / HTTP/1.1\r\nHost: {name}.example\r\n\r\n".encode()
        with socket.create_connection((ingress.DOOR, 80)) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall(request)
            client.recv(4096)
            door.api.apply(o.endpoint_slice(name, [pod], ports=ports, name=f"{name}-1"))
            began = time.perf_counter()
            while time.perf_counter() - began < 5:
                client.sendall(request)
                if f"{pod} says".encode() in client.recv(4096):
                    break
            found.append(1000 * (time.perf_counter() - began))
    return sorted(found)


def memory(door: ingress.Door) -> float:
    """Return the controller's resident MiB."""
    assert door.controller is not None
    status = Path(f"/proc/{door.controller.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]  # the kernel always says it


def measure(folder: Path, sizes: tuple[int, ...], *, logs: bool) -> dict[int, dict[str, float]]:
    """Run everything; figures by number of Ingresses."""
    figures: dict[int, dict[str, float]] = {}
    pods = _PODS.replace("global\n", f"global\n    stats socket {folder / _PODS_SOCKET}\n", 1)
    with ingress.door(folder, options=[] if logs else ["--access-log=off"]) as door, haproxy(folder, "pods", pods):
        door.api.apply(o.ingress_class())
        known = 0
        for size in sizes:
            assert door.controller is not None
            before = cpu({door.controller.process.pid})
            fill(door, known, size)
            filled = time.monotonic()
            door.until(lambda size=size: door.ask(f"http://app-{size - 1}.example/").status == 200)  # type: ignore[misc]
            settled = time.monotonic() - filled
            created = cpu({door.controller.process.pid}) - before
            known = size
            loaded = load_seconds(door, size)
            before = cpu({door.controller.process.pid})
            found = changes(door, size)
            spent = 1000 * (cpu({door.controller.process.pid}) - before) / CHANGES
            figures[size] = {
                "created one by one, last one served after, s": settled,
                "created one by one, CPU s of the controller": created,
                "load, s": loaded,
                "change to engine, p50 ms": found[len(found) // 2],
                "change to engine, p99 ms": found[int(len(found) * 0.99)],
                "controller, CPU ms a change": spent,
                "controller, MiB": memory(door),
                **throughput(door, folder, size, logs=logs),
            }
    return figures


_GOALS = {
    "created one by one, last one served after, s": (LOAD_GOAL_S, False),
    "created one by one, CPU s of the controller": (LOAD_GOAL_S, False),
    "load, s": (LOAD_GOAL_S, False),
    "change to engine, p99 ms": (CHANGE_GOAL_MS, False),
    "door / plain, requests/s": (RATIO_GOAL, True),
}


def main() -> int:
    """Run every size and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="", help="other numbers of Ingresses, by commas")
    parser.add_argument("--without-log", action="store_true", help="neither the door nor the plain one logs")
    options = parser.parse_args()
    if os.geteuid():
        print("skipped: needs root")
        return 0
    sizes = tuple(map(int, options.sizes.split(","))) if options.sizes else SIZES
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), sizes, logs=not options.without_log)
    table = Table(title="The front door")
    for column in ("", *(f"{size:,} Ingresses" for size in sizes), "goal"):
        table.add_column(column, justify="right" if column else "left")
    is_met = True
    for name in figures[sizes[0]]:
        values = [figures[size][name] for size in sizes]
        goal, is_floor = _GOALS.get(name, (0.0, True))
        reached = all(value >= goal if is_floor else value < goal for value in values)
        is_met &= reached
        text = f"{'>=' if is_floor else '<'} {goal:g} {'✓' if reached else '✗'}" if name in _GOALS else ""
        table.add_row(name, *(f"{value:,.3f}" if "/ " in name else f"{value:,.1f}" for value in values), text)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
