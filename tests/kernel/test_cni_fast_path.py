"""Flows between pods take the short way; what rules, routes and ends of pods say holds for them all the same."""

from __future__ import annotations

import contextlib
import errno
import json
import socket
import subprocess
from collections.abc import Iterator

import pytest

from netplane.kernel import netns
from netplane.kernel.link import run as link
from netplane.kernel.link.objects import Place, Program, replace
from netplane_cni.plan import shortcut
from netplane_cni.run import shortcut as running
from tests.support.cni_nodes import Machine, Pod, World, until
from tests.support.cni_nursery import Nursery
from tests.support.cni_traffic import echo, talk

SEEN = """
table inet seen {
  counter passed { }
  chain forward { type filter hook forward priority 10; meta l4proto { tcp, udp } counter name passed; }
}
"""
EXCHANGES = 200
PATIENCE = 60.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, cni_nursery: Nursery) -> Iterator[World]:
    """Two nodes with three pods each, at whose links the programs are, and a table that counts what passes it."""
    with World(tmp_path_factory.mktemp("fast") / "world", nodes=2, nursery=cni_nursery) as world:
        for machine in world.machines:
            machine.options = ["--cool-down=0", "--fast-path=auto"]
            machine.start()
            nft(machine, SEEN)
            for name in "abc":
                machine.pod(name)
        settled(*world.machines)
        yield world


def nft(machine: Machine, text: str) -> None:
    argv = ["nsenter", f"--net={machine.netns}", "nft", "-f", "-"]
    subprocess.run(argv, input=text, check=True, text=True, timeout=30)


def seen(machine: Machine) -> int:
    """Return how many packets went by the node's rules."""
    argv = ["nsenter", f"--net={machine.netns}", "nft", "-j", "list", "counter", "inet", "seen", "passed"]
    rows = json.loads(subprocess.run(argv, capture_output=True, check=True, timeout=30).stdout)["nftables"]
    return next(int(row["counter"]["packets"]) for row in rows if "counter" in row)


def settled(*machines: Machine) -> None:
    until(lambda: all(machine.status().get("fast_path") == "on" for machine in machines), limit=PATIENCE)


@contextlib.contextmanager
def connection(client: Pod, server: Pod, *, to: str = "", port: int = 9000, at: int = 9000, kind: str = "tcp"):  # type: ignore[no-untyped-def]  # a pair of sockets
    """Yield both ends of a flow from one pod to another, by way of `to`."""
    address = next(a for a in server.addresses if (":" in a) == (":" in (to or server.addresses[0])))
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    number = socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM
    with contextlib.ExitStack() as stack:
        here = stack.enter_context(server.run(lambda: socket.socket(family, number)))
        here.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        here.bind((address, at))
        there = stack.enter_context(client.run(lambda: socket.socket(family, number)))
        for one in (here, there):
            one.settimeout(20)
        if kind == "udp":
            there.connect((to or address, port))
            there.send(b"first")
            here.connect(here.recvfrom(100)[1])
        else:
            here.listen()
            there.connect((to or address, port))
            here = stack.enter_context(here.accept()[0])
            here.settimeout(20)
        yield there, here


def exchange(ends: tuple[socket.socket, socket.socket], count: int = EXCHANGES, size: int = 64) -> None:
    for _ in range(count):
        for sender, receiver in (ends, ends[::-1]):
            sender.sendall(bytes(size))
            got = 0
            while got < size:
                got += len(receiver.recv(size))


def is_fast(machine: Machine, ends: tuple[socket.socket, socket.socket]) -> bool:
    """Tell whether most of some hundred packets went past the rules; on a busy machine not each time."""
    before = seen(machine)
    exchange(ends)
    return seen(machine) - before < EXCHANGES


def works(ends: tuple[socket.socket, socket.socket]) -> bool:
    """Tell whether a datagram arrives within a second."""
    ends[1].settimeout(1)
    try:
        ends[0].send(b"?")
        return bool(ends[1].recv(100))
    except TimeoutError:
        return False


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_flow_passes_by_the_rules_of_all_nodes_on_its_way(world: World, family: int, kind: str) -> None:
    one, two = world.machines
    a = one.pods["a"]
    for server, passed in ((one.pods["b"], [one]), (two.pods["a"], [one, two])):
        to = next(x for x in server.addresses if (":" in x) == (family == 6))
        with connection(a, server, to=to, kind=kind) as ends:
            for machine in passed:
                until(lambda machine=machine, ends=ends: is_fast(machine, ends), limit=PATIENCE)  # type: ignore[misc]  # bound here


def test_a_rule_that_comes_later_holds_for_a_flow_that_runs(world: World) -> None:
    machine = world.machines[0]
    a, b = machine.pods["a"], machine.pods["b"]
    with connection(a, b, kind="udp") as ends:
        until(lambda: is_fast(machine, ends), limit=PATIENCE)
        drop = f"chain inet seen late {{ type filter hook forward priority 20; ip daddr {b.addresses[0]} drop; }}"
        nft(machine, f"add {drop}\n")
        until(lambda: not works(ends), limit=PATIENCE)
        nft(machine, "delete chain inet seen late\n")
        until(lambda: works(ends), limit=PATIENCE)


def test_what_a_service_translates_is_translated_both_ways_beside_the_fast(world: World) -> None:
    machine = world.machines[0]
    a, b = machine.pods["a"], machine.pods["b"]
    service = f"""
    table ip service {{
      chain in {{
        type nat hook prerouting priority -100; ip daddr 10.96.0.1 tcp dport 80 dnat to {b.addresses[0]}:9001;
      }}
    }}
    """
    nft(machine, service)
    with connection(a, b, at=9000) as direct, connection(a, b, to="10.96.0.1", port=80, at=9001) as served:
        until(lambda: is_fast(machine, direct), limit=PATIENCE)
        exchange(served)
        exchange(direct)
        assert served[0].getpeername() == ("10.96.0.1", 80)
    nft(machine, "delete table ip service\n")


def test_a_way_that_narrows_is_told_to_a_flow_that_runs(world: World) -> None:
    machine = world.machines[0]
    a, b = machine.pods["a"], machine.pods["c"]
    with connection(a, b, kind="udp") as ends:
        ends[0].setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER: may not be fragmented
        until(lambda: is_fast(machine, ends), limit=PATIENCE)
        exchange(ends, 20, size=1300)
        argv = ["nsenter", f"--net={machine.netns}", "ip", "route", "change", f"{b.addresses[0]}/32"]
        cable = b.result["interfaces"][0]["name"]
        subprocess.run([*argv, "dev", cable, "proto", "111", "scope", "link", "mtu", "1200"], check=True)

        def is_told() -> bool:
            try:
                exchange(ends, 1, size=1300)
            except TimeoutError:
                return False
            except OSError as error:
                return error.errno == errno.EMSGSIZE
            return False

        ends[1].settimeout(1)
        until(is_told, limit=PATIENCE)


def test_an_address_leads_to_its_new_holder(world: World) -> None:
    machine = world.machines[1]
    a, b = machine.pods["a"], machine.pods["c"]
    with connection(a, b) as ends:
        until(lambda: is_fast(machine, ends), limit=PATIENCE)
        assert machine.delete(b).code == 0
        wanted = {"runtimeConfig": {"ips": [b.addresses[0]]}}
        next_one = machine.container("next")
        until(lambda: machine.call("ADD", next_one, config=wanted).code == 0, limit=PATIENCE, pause=0.1)
        with echo(next_one.netns) as server:
            assert talk(server, a.netns, b.addresses[0]) == a.addresses[0]


def test_a_limit_to_bandwidth_sees_every_packet(world: World) -> None:
    machine = world.machines[0]
    a = machine.pods["a"]
    b = machine.pod("limited", config={"runtimeConfig": {"bandwidth": {"ingressRate": 500_000_000}}})
    settled(machine)
    argv = [
        "nsenter",
        f"--net={machine.netns}",
        "tc",
        "-s",
        "-j",
        "qdisc",
        "show",
        "dev",
        b.result["interfaces"][0]["name"],
    ]

    def queued() -> int:
        rows = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)
        return next(int(row["packets"]) for row in rows if row["kind"] == "tbf")

    with connection(a, b) as ends:
        until(lambda: is_fast(machine, ends), limit=PATIENCE)
        before = queued()
        exchange(ends)
        assert queued() - before >= EXCHANGES


def test_a_daemon_that_was_killed_is_followed_by_one_that_can_be_told_to_leave_it(world: World) -> None:
    machine = world.machines[1]
    a, b = machine.pods["a"], machine.pods["b"]
    with connection(a, b) as ends:
        machine.kill()
        until(lambda: is_fast(machine, ends), limit=PATIENCE)
        machine.start()
        settled(machine)
        until(lambda: is_fast(machine, ends), limit=PATIENCE)
        machine.kill()
        machine.options.append("--fast-path=off")
        try:
            machine.start()
            until(lambda: not programs(machine), limit=PATIENCE)
            before = seen(machine)
            exchange(ends)
            assert seen(machine) - before >= 2 * EXCHANGES
        finally:
            machine.options.pop()
            machine.kill()
            machine.start()


def programs(machine: Machine) -> list[Program]:
    with link.Socket(machine.netns) as links:
        return [one for each in links.links() for one in links.programs(each.index)]


def test_others_programs_at_the_same_link_stay(tmp_path_factory: pytest.TempPathFactory) -> None:
    place = str(tmp_path_factory.mktemp("others") / "netns")
    netns.create(place)
    try:
        with link.Socket(place) as links:
            files = running.loaded()
            links.commit([*shortcut.lay(1, *files)])
            links.commit([replace(Program(1, "other", 7, is_arriving=True, file=files[0]))])
            running.remove_all(links)
            assert [one.name for one in links.programs(1)] == ["other"]
            links.commit([replace(Place(1)), *shortcut.lay(1, *files)])
            assert sorted(one.name for one in links.programs(1)) == ["netplane", "netplane", "other"]
    finally:
        netns.remove_if_present(place)
