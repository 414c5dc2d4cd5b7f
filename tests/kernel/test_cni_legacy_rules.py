"""Host ports and masquerade in iptables' legacy tables, by python-iptables: drift, others' rules, change of bodies."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netplane.kernel import netns
from netplane.kernel.errors import CommandFailed, KernelError
from netplane.kernel.xtables.objects import COMMANDS
from netplane.kernel.xtables.restore import Restorer
from netplane.kernel.xtables.run import Xtables
from netplane.model import address
from netplane_cni.plan import legacy, masquerade
from netplane_cni.plan.ipam import Lease
from netplane_cni.run import legacy as legacies
from netplane_cni.run.translation import Translation
from netplane_cni.spec import PortMapping
from tests.support.cni_memory import Flows
from tests.support.cni_nodes import Machine, World, until
from tests.support.cni_traffic import reaches

PORTS = (
    PortMapping("tcp", 80, 8080),
    PortMapping("udp", 53, 5353),
    PortMapping("sctp", 80, 80),
    PortMapping("tcp", 81, 80, address.parse("172.30.0.11")),
    PortMapping("tcp", 81, 80, address.parse("fd00:30::11")),
)
POD = Lease("c", "eth0", "np", (address.parse("10.244.1.5"), address.parse("fd00::5")), b"\2" * 6, "boot", ports=PORTS)
FACTS = masquerade.Facts(
    (address.prefix("10.244.1.0/24"), address.prefix("fd00::/64")),
    (address.prefix("10.244.0.0/16"), address.prefix("0.0.0.0/1")),
    (POD,),
    clamps=True,
)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "ns")
    netns.create(path)
    yield path
    netns.remove_if_present(path)


def iptables(place: str, words: str) -> str:
    argv = ["nsenter", f"--net={place}", *words.split()]
    return subprocess.run(argv, capture_output=True, check=True, text=True).stdout


def test_python_iptables_makes_what_the_tools_make_and_what_the_plan_says(tmp_path: Path) -> None:
    async def course(kernel: Restorer | Xtables) -> list[Any]:
        found: list[Any] = []
        for want in (FACTS, masquerade.Facts(FACTS.pods[:1], (), ()), FACTS):
            for command, tables in legacy.tables(want).items():
                text, _ = legacy.changes(tables, await kernel.save(command, legacy.PREFIX))
                if text:
                    await kernel.load(command, text)
                saved = await kernel.save(command, legacy.PREFIX)
                assert legacy.changes(tables, saved) == ("", 0)
                found.append(saved)
        return found

    def opened(number: int) -> Restorer | Xtables:
        return Xtables("legacy") if number else Restorer()

    async def removed_by_the_tools(kernel: Xtables) -> None:
        # They compare whole rules, masks of interfaces' names too, which no listing shows.
        for command in COMMANDS:
            await kernel.load(command, legacy.changes({}, await kernel.save(command, legacy.PREFIX))[0])

    results = []
    for number in range(2):
        path = str(tmp_path / str(number))
        netns.create(path)
        try:
            with contextlib.closing(netns.run_in(path, lambda number=number: opened(number))) as kernel:  # type: ignore[misc]
                results.append(asyncio.run(course(kernel)))
            with contextlib.closing(netns.run_in(path, lambda: Xtables("legacy"))) as tools:
                asyncio.run(removed_by_the_tools(tools))
        finally:
            netns.remove_if_present(path)
    assert results[0] == results[1]


def test_what_is_refused_changes_nothing_and_a_process_that_died_is_started_again(place: str) -> None:
    async def course(kernel: Restorer) -> None:
        for refused in ("*nat\n:NP-CNI-A - [0:0]\n-A NP-CNI-A -j NOWHERE\nCOMMIT\n", "*nat\n-X NP-CNI-B\nCOMMIT\n"):
            with pytest.raises(CommandFailed, match=r"line [23]"):
                await kernel.load("iptables", refused)
        await kernel.load("iptables", "*nat\n:NP-CNI-A - [0:0]\nCOMMIT\n")
        child = kernel._children["iptables"]._process
        assert child is not None
        child.kill()
        child.wait()
        with pytest.raises(KernelError, match="the process that does so ended"):
            await kernel.load("iptables", "*nat\n:NP-CNI-B - [0:0]\nCOMMIT\n")
        await kernel.load("iptables", "*nat\n:NP-CNI-C - [0:0]\nCOMMIT\n")
        assert set((await kernel.save("iptables", legacy.PREFIX))["nat"]) == {"NP-CNI-A", "NP-CNI-C"}

    with contextlib.closing(netns.run_in(place, Restorer)) as kernel:
        asyncio.run(course(kernel))


def test_drift_is_mended_and_others_rules_stay(place: str) -> None:
    async def course(kernel: Restorer) -> None:
        rules = Translation(legacies.Legacy(kernel), Flows(), lambda: FACTS)
        await rules.bring_up_to_date(must_look=True)
        iptables(place, "iptables-legacy -t nat -I PREROUTING -p tcp --dport 99 -j ACCEPT")
        for vandal in (
            "iptables-legacy -t nat -F NP-CNI-ALL",
            "iptables-legacy -t nat -D PREROUTING -m addrtype --dst-type LOCAL -j NP-CNI-PORTS",
            "iptables-legacy -t nat -A NP-CNI-OUTSIDE -j ACCEPT",
            "ip6tables-legacy -t raw -F",
            "iptables-legacy -t mangle -F",
        ):
            iptables(place, vandal)
            assert await rules.bring_up_to_date(must_look=True) > 0, vandal
            assert await rules.bring_up_to_date(must_look=True) == 0, vandal
        iptables(place, "iptables-legacy -t nat -F")
        assert await rules.bring_up_to_date(must_look=True) > 1
        for command, tables in legacy.tables(FACTS).items():
            assert legacy.changes(tables, await kernel.save(command, legacy.PREFIX)) == ("", 0)

    with contextlib.closing(netns.run_in(place, Restorer)) as kernel:
        asyncio.run(course(kernel))
    assert netns.run_in(place, legacies.is_used_here), "a host with chains of ours is not known again"
    netns.run_in(place, lambda: asyncio.run(legacies.remove()))
    for command in COMMANDS:
        assert legacy.PREFIX not in iptables(place, f"{command}-legacy-save")
    assert not netns.run_in(place, legacies.is_used_here)


def test_foreign_rules_outlive_ours(place: str) -> None:
    iptables(place, "iptables-legacy -t nat -A PREROUTING -p tcp --dport 99 -j ACCEPT")

    async def course(kernel: Restorer) -> None:
        await legacies.Legacy(kernel).bring(FACTS, must_look=True)

    with contextlib.closing(netns.run_in(place, Restorer)) as kernel:
        asyncio.run(course(kernel))
    rules = iptables(place, "iptables-legacy -t nat -S PREROUTING").splitlines()
    assert rules[1:] == [
        "-A PREROUTING -p tcp -m tcp --dport 99 -j ACCEPT",
        "-A PREROUTING -m addrtype --dst-type LOCAL -j NP-CNI-PORTS",
    ]
    netns.run_in(place, lambda: asyncio.run(legacies.remove()))
    assert "--dport 99" in iptables(place, "iptables-legacy -t nat -S PREROUTING")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with World(tmp_path / "world", nodes=1, families=[4]) as world:
        yield world.machines[0]


def begin(machine: Machine, rules: str) -> None:
    machine.options = ["--cool-down=0", f"--rules={rules}"]
    machine.start()


def serves(machine: Machine, port: int) -> bool:
    return reaches(machine.world.client, machine.addresses[0], port)


def test_a_daemon_told_otherwise_takes_the_others_rules_along(machine: Machine) -> None:
    begin(machine, "iptables")
    config = {"runtimeConfig": {"portMappings": [{"hostPort": 18080, "containerPort": 8080}]}}
    pod = machine.pod("a", config=config)
    listening = ["nsenter", f"--net={pod.netns}", "python3", "-m", "http.server", "8080"]
    with subprocess.Popen(listening, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        until(lambda: serves(machine, 18080), limit=30)
        for rules, there, gone in (
            ("auto", "iptables-legacy-save", "nft list ruleset"),
            ("nftables", "nft list ruleset", "iptables-legacy-save"),
            ("iptables", "iptables-legacy-save", "nft list ruleset"),
        ):
            machine.kill(15)
            begin(machine, rules)
            until(lambda: serves(machine, 18080), limit=30)
            until(lambda there=there: "18080" in iptables(machine.netns, there), limit=30)  # type: ignore[misc]
            assert "18080" not in iptables(machine.netns, gone), rules
        iptables(machine.netns, "iptables-legacy -t nat -F")
        iptables(machine.netns, "iptables-legacy -t nat -X")
        assert not serves(machine, 18080)
        other = {"runtimeConfig": {"portMappings": [{"hostPort": 81, "containerPort": 81}]}}
        machine.pod("other", config=other)
        assert serves(machine, 18080), "an ADD that met missing chains did not mend them"
        machine.delete(pod)
        assert not serves(machine, 18080)
        server.kill()
