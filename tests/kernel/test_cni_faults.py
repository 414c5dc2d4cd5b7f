"""What can go wrong while a pod is attached or detached, and that nothing is left of it: the real daemon and kernel."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from netplane.kernel import netns
from netplane.kernel.link import run as link
from netplane_cni.plan import attach
from tests.support.cni_nodes import Machine, Pod, World, until
from tests.support.cni_nursery import Nursery
from tests.support.cni_traffic import echo, reaches, talk

PORT = {
    "runtimeConfig": {
        "portMappings": [
            {"hostPort": 18080, "containerPort": 8080},
            {"hostPort": 53, "containerPort": 53, "protocol": "udp"},
        ],
        "bandwidth": {"ingressRate": 100_000_000, "egressRate": 100_000_000},
    }
}
MOST_STEPS = 40
NEVER = "1000000"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with World(tmp_path / "world", nodes=1, families=[4]) as world:
        world.machines[0].options = ["--cool-down=0"]
        world.machines[0].start()
        yield world.machines[0]


def assert_untouched(machine: Machine) -> None:
    """Nothing of any pod is on the node: no lease, cable, route or rule."""
    assert_no_pods(machine)
    # A daemon that has just begun answers before it has brought the rules up to date.
    until(lambda: "18080" not in printed(machine, "nft list table ip netplane_cni"))


def assert_no_pods(machine: Machine) -> None:
    until(lambda: machine.status().get("leases") == [] and machine.links() == set())
    with link.Socket(machine.netns) as socket:
        assert socket.routes(protocol=attach.POD_PROTOCOL) == []


def printed(machine: Machine, command: str) -> str:
    argv = ["nsenter", f"--net={machine.netns}", *command.split()]
    return subprocess.run(argv, capture_output=True, check=True, text=True).stdout


# The daemon ends between any two steps of ADD and of DEL.


class Mortal:
    """A node whose daemon ends itself after some steps, and keeps its rules in nftables or iptables."""

    def __init__(self, machine: Machine, nursery: Nursery, body: str = "nftables") -> None:
        self.machine = machine
        self._nursery = nursery
        self._body = body

    def start(self) -> None:
        machine = self.machine
        words = [str(machine.folder), machine.name, str(machine.world.folder / "nodes.json"), self._body]
        machine.process = self._nursery.start(
            machine.netns, machine.folder / "log", words, module="tests.support.cni_killed"
        )
        until(lambda: machine.status().get("ready") and machine.conflist.exists(), limit=60)

    def assert_untouched(self) -> None:
        if self._body == "nftables":
            assert_untouched(self.machine)
            return
        assert_no_pods(self.machine)
        # As above; before the first of all there are no chains.
        until(lambda: "NP-CNI" in (text := printed(self.machine, "iptables-legacy-save")) and "18080" not in text)

    def ends(self, command: str, pod: Pod, after: int) -> bool:
        """Call the plugin and tell whether the daemon ended after so many steps, or got through with fewer."""
        machine = self.machine
        assert machine.process is not None
        (machine.folder / "steps").write_text(str(after))
        answer = machine.call(command, pod, config=PORT)
        if command == "DEL" and answer.code == 0:
            # What DEL leaves to do is done behind its answer.
            until(lambda: not machine.status().get("leases"))
        (machine.folder / "steps").write_text(NEVER)
        if machine.status():
            return False
        (machine.folder / "steps").unlink()
        machine.process.wait(10)
        assert answer.code == 0 or answer.body["code"] == 11, answer
        return True


@pytest.fixture
def mortal(tmp_path: Path, cni_nursery: Nursery, body: str) -> Iterator[Mortal]:
    with World(tmp_path / "world", nodes=1, families=[4]) as world:
        node = world.machines[0].node()
        node["spec"]["podCIDRs"] = ["10.244.1.0/29"]  # a single lost address would soon be missed
        world.tell([node])
        yield Mortal(world.machines[0], cni_nursery, body)


@pytest.mark.parametrize(
    ("body", "afterwards"), [("nftables", "retried"), ("nftables", "gone"), ("iptables", "retried")]
)
def test_whatever_step_of_add_the_daemon_ends_at_nothing_is_lost(mortal: Mortal, afterwards: str) -> None:
    machine, steps = mortal.machine, 0
    mortal.start()
    while True:
        pod = machine.container(f"c{steps}")
        if not mortal.ends("ADD", pod, steps):
            break
        if afterwards == "gone":
            netns.remove_if_present(pod.netns)
        mortal.start()
        if afterwards != "gone":
            if steps % 2:  # containerd cleans up after a failure, others simply try again
                assert machine.call("DEL", pod).code == 0
            again = machine.call("ADD", pod, config=PORT)
            assert again.code == 0, again
            assert machine.call("CHECK", pod, config={**PORT, "prevResult": again.body}).code == 0
            assert machine.call("DEL", pod).code == 0
        mortal.assert_untouched()
        steps += 1
        assert steps < MOST_STEPS
    assert steps > 12
    assert machine.delete(pod).code == 0
    mortal.assert_untouched()


@pytest.mark.parametrize("body", ["nftables", "iptables"])
def test_whatever_step_of_del_the_daemon_ends_at_nothing_is_left(mortal: Mortal) -> None:
    machine, steps = mortal.machine, 0
    mortal.start()
    while True:
        pod = machine.pod(f"c{steps}", config=PORT)
        if not mortal.ends("DEL", pod, steps):
            break
        if steps % 2:  # the container goes, whether or not the runtime asks once more
            netns.remove_if_present(pod.netns)
        mortal.start()
        if not steps % 2:
            assert machine.call("DEL", pod).code == 0
        mortal.assert_untouched()
        steps += 1
        assert steps < MOST_STEPS
    assert steps > 5
    mortal.assert_untouched()


# The rest of the world.


def test_del_without_daemon_says_so_and_its_retry_works(machine: Machine) -> None:
    pod = machine.pod("patient", config=PORT)
    machine.kill()
    answer = machine.call("DEL", pod)
    assert (answer.code, answer.body["code"]) == (1, 11)
    assert answer.body["msg"] == "netplane's CNI daemon cannot be reached"
    netns.remove_if_present(pod.netns)
    machine.start()
    assert machine.call("DEL", pod, namespace="").code == 0
    assert_untouched(machine)


def test_a_full_disk_refuses_calls_and_loses_nothing(machine: Machine) -> None:
    machine.kill(signal.SIGTERM)
    state = machine.folder / "state"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(state)], check=True)
    try:
        machine.start()
        pod = machine.pod("held", config=PORT)
        filler = state / "filler"
        with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        # What is left of the journal's last page takes some more.
        refused = None
        for number in range(60):
            more = machine.container(f"more{number}")
            answer = machine.call("ADD", more)
            if answer.code:
                refused = answer
                break
            assert machine.delete(more).code in (0, 1)
        assert refused is not None
        assert refused.body["code"] == 11
        assert "No space left on device" in refused.body["msg"]
        assert machine.call("DEL", pod).body["code"] == 11
        with echo(pod.netns) as server:
            talk(server, machine.netns, pod.addresses[0])
        filler.unlink()
        for one in machine.pods.values():
            assert machine.delete(one).code == 0
        assert_untouched(machine)
        machine.kill(signal.SIGTERM)
    finally:
        subprocess.run(["umount", "--lazy", str(state)], check=True)


def test_a_killed_shim_leaves_an_add_that_del_undoes(machine: Machine) -> None:
    binary = str(machine.folder / "bin" / "netplane-cni")
    stdin = json.dumps({"cniVersion": "1.1.0", "name": "netplane", "type": "netplane-cni", **PORT}).encode()
    for number in range(12):
        pod = machine.container(f"c{number}")
        environment = {
            "CNI_COMMAND": "ADD",
            "CNI_CONTAINERID": pod.container,
            "CNI_NETNS": pod.netns,
            "CNI_IFNAME": "eth0",
        }
        shim = subprocess.Popen([binary], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment)
        assert shim.stdin is not None
        shim.stdin.write(stdin)
        shim.stdin.close()
        time.sleep(number / 3000)  # at any moment of the call
        shim.kill()
        shim.wait(10)
        assert machine.call("DEL", pod).code == 0
    assert_untouched(machine)


def test_calls_for_one_container_at_once_agree(machine: Machine) -> None:
    pod = machine.container("contended")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: machine.call("ADD", pod, config=PORT), range(8)))
        assert {answer.code for answer in answers} == {0}
        assert len({answer.body["ips"][0]["address"] for answer in answers}) == 1
        for answer in pool.map(lambda n: machine.call("DEL" if n % 2 else "ADD", pod, config=PORT), range(8)):
            assert answer.code == 0, answer
    assert machine.call("DEL", pod).code == 0
    assert_untouched(machine)


@pytest.mark.parametrize("whose", ["pod", "node"])
def test_a_renamed_interface_goes_with_its_pod(machine: Machine, whose: str) -> None:
    pod = machine.pod("renamed", config=PORT)
    place, name = (pod.netns, "eth0") if whose == "pod" else (machine.netns, next(iter(machine.links())))
    argv = ["nsenter", f"--net={place}", "ip", "link", "set", name]
    for more in (["down"], ["name", "npother"], ["up"]):
        subprocess.run([*argv[:-1], "npother" if more == ["up"] else name, *more], check=True)
    assert machine.call("CHECK", pod, config={**PORT, "prevResult": pod.result}).body["code"] == 101
    assert machine.call("DEL", pod).code == 0
    assert_untouched(machine)


def test_pods_outside_of_a_range_that_shrank_live_on_and_leave_cleanly(machine: Machine) -> None:
    high = machine.pod("high", config={**PORT, "runtimeConfig": {**PORT["runtimeConfig"], "ips": ["10.244.1.200"]}})
    node = machine.node()
    node["spec"]["podCIDRs"] = ["10.244.1.0/29"]
    machine.world.tell([node])
    until(lambda: machine.status()["pools"][0]["cidr"] == "10.244.1.0/29")
    low = machine.pod("low")
    assert int(low.addresses[0].rpartition(".")[2]) < 8
    with echo(high.netns) as server:
        talk(server, low.netns, high.addresses[0])
    for process in (machine.kill, machine.start):
        process()
    assert machine.call("CHECK", high, config={**PORT, "prevResult": high.result}).code == 0
    for pod in (high, low):
        assert machine.delete(pod).code == 0
    assert_untouched(machine)


def test_a_host_port_whose_rules_somebody_flushed_is_back_soon(machine: Machine) -> None:
    pod = machine.pod("served", config=PORT)
    with echo(pod.netns):
        assert reaches(machine.world.client, machine.addresses[0], 18080)
        subprocess.run(["nsenter", f"--net={machine.netns}", "nft", "flush", "ruleset"], check=True)
        assert not reaches(machine.world.client, machine.addresses[0], 18080)
        other = machine.pod(
            "other", config={"runtimeConfig": {"portMappings": [{"hostPort": 81, "containerPort": 81}]}}
        )
        assert reaches(machine.world.client, machine.addresses[0], 18080)
    assert machine.delete(other).code == 0


def test_an_api_server_that_is_away_keeps_no_pod_from_coming_and_going(machine: Machine) -> None:
    (machine.world.folder / "nodes.json").write_text("not JSON any more")
    until(lambda: "the nodes stay as they were" in machine.log())
    pod = machine.pod("a", config=PORT)
    assert machine.delete(pod).code == 0
    assert_untouched(machine)
