"""Measure what pods get of the network: on one node and across nodes, against veth and VXLAN set up by hand.

The same machines twice, namespaces on a bridge: one pair with the daemon and pods by the plugin, one with `ip` alone (a
routed veth for each pod, VXLAN with a static entry, or plain routes), and with the one line of nftables without which
pods have no way out: masquerading, for which the kernel tracks every connection. iperf3 and a ping-pong of small TCP
messages take turns between the two, so that what else the machine does hits both; the middle of the rounds' ratios
counts. It takes a quiet machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "cni")]

from netplane.kernel import netns, sysctl  # noqa: E402
from tests.support.cni_nodes import Machine, World, until  # noqa: E402

GOAL = 0.97
PORT, ECHO_PORT = 5201, 5202
MASQUERADE = b"""
table ip by_hand { chain out { type nat hook postrouting priority 100;
  ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 masquerade fully-random; }; }
"""
Way = tuple[str, str, str]
"""The client's namespace, the server's, and the server's address."""


def ip(place: str, text: str) -> None:
    """Run one line of ip(8) in a namespace."""
    subprocess.run(["nsenter", f"--net={place}", "ip", *text.split()], check=True)


def by_hand(machine: Machine, name: str, last: int) -> str:
    """Give a namespace a routed cable on a node, as the plugin would; return where it is."""
    place = machine.container(name).netns
    mtu = 1500 if machine.world.fabric == "direct" else 1450
    pod, cable = f"10.244.{machine.number}.{last}", f"v{last}"
    ip(machine.netns, f"link add {cable} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {place}")
    ip(machine.netns, f"link set {cable} up")
    machine.run(lambda: sysctl.write(f"net/ipv4/conf/{cable}/proxy_arp", 1))
    for line in (f"addr add {pod}/32 dev eth0", "link set eth0 up", "link set lo up"):
        ip(place, line)
    ip(place, "route add 169.254.1.1 dev eth0")
    ip(place, "route add default via 169.254.1.1 dev eth0")
    ip(machine.netns, f"route add {pod}/32 dev {cable}")
    return place


def join_by_hand(world: World) -> None:
    """Lay the paths between two nodes."""
    for machine, other in zip(world.machines, reversed(world.machines), strict=True):
        machine.run(lambda: sysctl.write("net.ipv4.ip_forward", 1))
        argv = ["nsenter", f"--net={machine.netns}", "nft", "-f", "-"]
        subprocess.run(argv, input=MASQUERADE, check=True)
        network = f"10.244.{other.number}.0"
        if world.fabric == "direct":
            ip(machine.netns, f"route add {network}/24 via {other.addresses[0]}")
            continue
        local, mac = machine.addresses[0], f"02:00:00:00:00:0{machine.number}"
        ip(machine.netns, f"link add x0 address {mac} type vxlan id 9 dstport 4789 local {local} dev eth0 nolearning")
        ip(machine.netns, f"addr add 10.244.{machine.number}.0/32 dev x0")
        ip(machine.netns, "link set x0 mtu 1450 up")
        mac = f"02:00:00:00:00:0{other.number}"
        ip(machine.netns, f"neigh add {network} lladdr {mac} dev x0 nud permanent")
        subprocess.run(
            ["nsenter", f"--net={machine.netns}", "bridge", "fdb", "add", mac, "dev", "x0", "dst", other.addresses[0]],
            check=True,
        )
        ip(machine.netns, f"route add {network}/24 via {network} dev x0 onlink")


@contextlib.contextmanager
def ours(folder: Path, fabric: str) -> Iterator[tuple[Way, Way]]:
    """Yield the way on one node and the way across, as the plugin makes them."""
    with World(folder, nodes=2, families=[4], fabric=fabric) as world:
        for machine in world.machines:
            machine.start(wait=False)
        until(lambda: all(m.status().get("ready") and m.conflist.exists() for m in world.machines), limit=60)
        a, b = (world.machines[0].pod(name) for name in "ab")
        c = world.machines[1].pod("c")
        yield (a.netns, b.netns, b.addresses[0]), (a.netns, c.netns, c.addresses[0])


@contextlib.contextmanager
def plain(folder: Path, fabric: str) -> Iterator[tuple[Way, Way]]:
    """Yield the same two ways, by hand."""
    with World(folder, nodes=2, families=[4], fabric=fabric) as world:
        join_by_hand(world)
        one, two = world.machines
        a, b, c = by_hand(one, "a", 5), by_hand(one, "b", 6), by_hand(two, "c", 7)
        yield (a, b, "10.244.1.6"), (a, c, "10.244.2.7")


def throughput(way: Way, seconds: float) -> float:
    """Return the gigabits per second of one TCP stream."""
    client, server, address = way
    serving = subprocess.Popen(["nsenter", f"--net={server}", "iperf3", "-s", "-1", "-p", str(PORT)],
                               stdout=subprocess.DEVNULL)  # fmt: skip
    try:
        asked = [
            "nsenter",
            f"--net={client}",
            "iperf3",
            "-c",
            address,
            "-p",
            str(PORT),
            "-t",
            str(max(1, round(seconds))),
            "-J",
        ]
        for _ in range(50):
            done = subprocess.run(asked, capture_output=True, text=True, check=False)
            found = json.loads(done.stdout)
            if "error" not in found:
                return float(found["end"]["sum_received"]["bits_per_second"]) / 1e9
            time.sleep(0.05)
        raise SystemExit(f"iperf3: {found['error']}")
    finally:
        serving.kill()
        serving.wait(10)


def requests(way: Way, seconds: float) -> float:
    """Return how many questions and answers of 64 bytes a TCP connection carries in a second."""
    client, server, address = way
    with netns.run_in(server, lambda: socket.create_server((address, ECHO_PORT))) as listening:
        asking = netns.run_in(client, lambda: socket.create_connection((address, ECHO_PORT), timeout=10))
        answering, _ = listening.accept()
        with asking, answering:
            for one in (asking, answering):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def answer() -> None:
                while part := answering.recv(64):
                    answering.sendall(part)

            thread = threading.Thread(target=answer)
            thread.start()
            count, end = 0, time.monotonic() + seconds
            while time.monotonic() < end:
                asking.sendall(bytes(64))
                asking.recv(64)
                count += 1
            asking.shutdown(socket.SHUT_WR)
            thread.join(10)
            return count / seconds


def main() -> int:
    """Measure, print, and return 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    given = parser.parse_args()
    table = Table("way", "what", "by hand", "pods", "ratio")
    missed = []
    for fabric in ("vxlan", "direct"):
        with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
            folder = Path(name)
            mine = stack.enter_context(ours(folder / "ours", fabric))
            theirs = stack.enter_context(plain(folder / "plain", fabric))
            for number, where in enumerate(("one node", f"across, {fabric}")):
                if number == 0 and fabric == "direct":
                    continue
                for what, measure in (("Gbit/s", throughput), ("requests/s", requests)):
                    pairs = []
                    for turn in range(given.rounds):
                        order = (theirs, mine) if turn % 2 else (mine, theirs)
                        found = {id(one): measure(one[number], given.seconds) for one in order}
                        pairs.append((found[id(theirs)], found[id(mine)]))
                    ratio = statistics.median(b / a for a, b in pairs)
                    middle = [statistics.median(row[side] for row in pairs) for side in (0, 1)]
                    table.add_row(where, what, f"{middle[0]:,.2f}", f"{middle[1]:,.2f}", f"{ratio:.3f}")
                    missed += [f"{where}, {what}: {ratio:.3f}"] if ratio < GOAL else []
    Console().print(table)
    print(f"goal: at least {GOAL:g} of what is set up by hand")
    for one in missed:
        print(f"missed: {one}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
