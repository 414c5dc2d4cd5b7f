"""Containers come, go and vanish, daemons are killed: no address twice, none lost, nothing left behind."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netplane.kernel import netns
from netplane.kernel.link import run as link
from netplane.kernel.link.objects import LinkChange, change
from netplane_cni.plan import attach
from netplane_cni.run import leases as journals
from netplane_cni.spec import POD_ANNOTATIONS
from tests.support.cni_nodes import Machine, Pod, World, until
from tests.support.cni_traffic import echo, talk


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with World(tmp_path / "world", nodes=1) as world:
        world.machines[0].options = ["--cool-down=0"]
        world.machines[0].start()
        yield world.machines[0]


def settled(machine: Machine) -> bool:
    return all(lease["state"] == "attached" for lease in machine.status()["leases"])


def leases(machine: Machine) -> dict[str, list[str]]:
    return {lease["container"]: lease["addresses"] for lease in machine.status()["leases"]}


def pod_routes(machine: Machine) -> set[bytes]:
    with link.Socket(machine.netns) as socket:
        return {route.network for route in socket.routes(protocol=attach.POD_PROTOCOL)}


def assert_untouched(machine: Machine) -> None:
    """Nothing of any pod is on the node."""
    until(lambda: settled(machine))
    assert machine.status()["leases"] == []
    assert machine.links() == set()
    assert pod_routes(machine) == set()
    rules = subprocess.run(
        ["nsenter", f"--net={machine.netns}", "nft", "list", "ruleset"], capture_output=True, check=True
    )
    assert b"elements = { tcp" not in rules.stdout


def test_del_leaves_nothing_and_succeeds_again_and_again(machine: Machine) -> None:
    pod = machine.pod("a", config={"runtimeConfig": {"portMappings": [{"hostPort": 8000, "containerPort": 80}]}})
    for namespace in (pod.netns, pod.netns, ""):
        assert machine.call("DEL", pod, namespace=namespace).code == 0
    assert_untouched(machine)


def test_del_without_add_and_for_a_vanished_namespace_succeeds(machine: Machine) -> None:
    assert machine.call("DEL", machine.container("never")).code == 0
    pod = machine.pod("vanished")
    netns.remove_if_present(pod.netns)
    assert machine.call("DEL", pod).code == 0
    assert_untouched(machine)


def test_a_failed_add_leaves_nothing(machine: Machine) -> None:
    pod = machine.pod("a")
    machine.call("DEL", pod)
    until(lambda: machine.links() == set())
    taken = machine.container("taken")
    subprocess.run(["nsenter", f"--net={taken.netns}", "ip", "link", "add", "eth0", "type", "bridge"], check=True)
    answer = machine.call("ADD", taken)
    assert (answer.code, answer.body["code"]) == (1, 11)
    assert "EEXIST" in answer.body["msg"]
    assert_untouched(machine)


def test_add_again_gives_the_same_addresses_and_a_working_pod(machine: Machine) -> None:
    pod, other = machine.pod("twice"), machine.pod("other")
    again = machine.call("ADD", pod)
    assert again.body["ips"] == pod.result["ips"]
    with echo(pod.netns) as server:
        talk(server, other.netns, pod.addresses[0])


def test_a_container_has_two_interfaces_and_the_first_is_its_default(machine: Machine) -> None:
    pod = machine.pod("two")
    second = machine.call("ADD", pod, ifname="net1")
    assert second.code == 0, second
    assert second.body.get("routes") == []
    with link.Socket(pod.netns) as inside:
        assert {one.name for one in inside.links()} == {"lo", "eth0", "net1"}
    assert machine.call("CHECK", pod, config={"prevResult": pod.result}).code == 0
    assert machine.call("DEL", pod, ifname="net1").code == 0
    until(lambda: len(machine.links()) == 1)


def test_check_finds_what_was_changed(machine: Machine) -> None:
    pod = machine.pod("checked")
    previous = {"prevResult": pod.result}
    assert machine.call("CHECK", pod, config=previous).code == 0
    subprocess.run(["nsenter", f"--net={pod.netns}", "ip", "addr", "flush", "dev", "eth0"], check=True)
    answer = machine.call("CHECK", pod, config=previous)
    assert (answer.code, answer.body["code"]) == (1, 101)
    assert "eth0 has not the address" in answer.body["msg"]
    assert machine.call("CHECK", machine.container("unknown"), config=previous).body["code"] == 3


def test_gc_frees_what_the_runtime_does_not_list(machine: Machine) -> None:
    kept, lost = machine.pod("kept"), machine.pod("lost")
    valid = [{"containerID": kept.container, "ifname": "eth0"}]
    assert machine.call("GC", config={"cni.dev/valid-attachments": valid}).code == 0
    until(lambda: settled(machine))
    assert set(leases(machine)) == {kept.container}
    assert lost.container not in leases(machine)
    until(lambda: len(machine.links()) == 1)


def test_a_full_node_says_so(tmp_path: Path) -> None:
    with World(tmp_path / "world", nodes=1, families=[4]) as world:
        machine = world.machines[0]
        node = machine.node()
        node["spec"]["podCIDRs"] = ["10.244.9.0/29"]
        world.tell([node])
        machine.options = ["--cool-down=30"]
        machine.start()
        assert machine.call("STATUS").code == 0
        pods = [machine.pod(f"p{number}") for number in range(5)]
        assert len({pod.addresses[0] for pod in pods}) == 5
        full = machine.call("ADD", machine.container("more"))
        assert (full.body["code"], full.body["msg"]) == (11, "no address is free in 10.244.9.0/29")
        assert full.body["details"] == "all 5 are held by pods: the node is full"
        assert machine.call("STATUS").body["code"] == 50
        machine.delete(pods[0])
        until(lambda: len(leases(machine)) == 4)
        assert "rest after their last holder" in machine.call("STATUS").body["details"]


def test_excluded_addresses_are_given_to_nobody_and_metrics_tell_how_full_it_is(tmp_path: Path) -> None:
    def metrics() -> dict[str, float]:
        with urllib.request.urlopen("http://127.0.0.1:9910/metrics", timeout=5) as answer:
            lines = [line.rpartition(" ") for line in answer.read().decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    with World(tmp_path / "world", nodes=1, families=[4]) as world:
        machine = world.machines[0]
        node = machine.node()
        node["spec"]["podCIDRs"] = ["10.244.9.0/29"]
        world.tell([node])
        machine.options = ["--exclude=10.244.9.3/32,10.244.9.5/32", "--cool-down=30", "--metrics-port=9910"]
        with netns.inside(machine.netns), link.Socket() as own:
            own.commit([change(LinkChange(1, is_up=True))])
        machine.start()
        pods = [machine.pod(f"p{number}") for number in range(3)]
        assert {pod.addresses[0] for pod in pods} == {"10.244.9.2", "10.244.9.4", "10.244.9.6"}
        refused = {"runtimeConfig": {POD_ANNOTATIONS: {"netplane.io/ips": "10.244.9.5"}}}
        assert machine.call("ADD", machine.container("asks"), config=refused).body["code"] == 7
        assert machine.call("ADD", machine.container("more")).body["code"] == 11
        assert machine.call("STATUS").body["code"] == 50
        machine.delete(pods[0])
        until(lambda: len(leases(machine)) == 2)
        machine.call("STATUS")
        found = machine.run(metrics)
        assert found["netplane_cni_leases"] == 2
        assert found["netplane_cni_resting_addresses"] == 1
        assert found['netplane_cni_free_addresses{family="IPv4"}'] == 0
        assert found['netplane_cni_errors_total{code="50",command="STATUS"}'] >= 1


def test_a_pod_has_the_address_that_its_annotation_asks_for(machine: Machine) -> None:
    asked = {"runtimeConfig": {POD_ANNOTATIONS: {"netplane.io/ips": "10.244.1.200"}}}
    pod = machine.pod("asked", config=asked)
    assert pod.addresses[0] == "10.244.1.200"
    taken = machine.call("ADD", machine.container("second"), config=asked)
    assert (taken.body["code"], taken.body["msg"]) == (
        11,
        f"10.244.1.200 was asked for and is held by {pod.container}",
    )


def test_the_shim_of_a_dead_daemon_says_so_and_a_retry_works(machine: Machine) -> None:
    pod = machine.container("patient")
    machine.kill()
    answer = machine.call("ADD", pod, config={"cniVersion": "0.4.0"})
    assert (answer.code, answer.body["code"], answer.body["cniVersion"]) == (1, 11, "0.4.0")
    assert "is `netplane cni daemon` running" in answer.body["details"]
    assert machine.call("STATUS").body["code"] == 50
    assert machine.call("VERSION").body["supportedVersions"][-1] == "1.1.0"
    machine.start()
    assert machine.call("ADD", pod).code == 0


def test_pods_keep_their_network_while_no_daemon_runs(machine: Machine) -> None:
    a, b = machine.pod("a"), machine.pod("b")
    for number in (signal.SIGTERM, signal.SIGKILL):
        code = machine.kill(number)
        assert code == (0 if number == signal.SIGTERM else -signal.SIGKILL)
        with echo(b.netns) as server:
            assert talk(server, a.netns, b.addresses[0]) == a.addresses[0]
        machine.start()
    assert leases(machine) == {a.container: a.addresses, b.container: b.addresses}
    assert machine.delete(a).code == 0


def test_containers_that_vanished_while_no_daemon_ran_are_found_at_start(machine: Machine) -> None:
    stays, gone = machine.pod("stays"), machine.pod("gone")
    machine.kill()
    netns.remove_if_present(gone.netns)
    until(lambda: len(machine.links()) == 1)
    machine.start()
    assert set(leases(machine)) == {stays.container}


def test_lost_files_lose_no_address(machine: Machine) -> None:
    pods = [machine.pod(f"p{number}") for number in range(3)]
    machine.kill()
    for file in (machine.folder / "state").iterdir():
        file.unlink()
    machine.start()
    assert leases(machine) == {pod.container: pod.addresses for pod in pods}
    newcomer = machine.pod("new")
    assert newcomer.addresses[0] not in {pod.addresses[0] for pod in pods}
    assert machine.delete(pods[0]).code == 0


def test_a_torn_journal_loses_only_its_end(machine: Machine) -> None:
    pods = [machine.pod(f"p{number}") for number in range(3)]
    machine.kill()
    journal = machine.folder / "state" / "leases.journal"
    journal.write_bytes(journal.read_bytes()[:-20])
    machine.start()
    # The last ADD's line is torn: the pod's own cable still tells.
    assert leases(machine) == {pod.container: pod.addresses for pod in pods}
    assert "ends torn" in machine.log()


def test_another_boot_ends_all_leases(machine: Machine) -> None:
    machine.pod("before")
    machine.kill()
    journal = machine.folder / "state" / "leases.journal"
    lines = [journals.unpack(raw) for raw in journal.read_bytes().splitlines(keepends=True)]
    journal.write_bytes(b"".join(journals.pack({**line, "boot": "an earlier one"}) for line in lines if line))
    machine.start()
    assert_untouched(machine)


def test_a_second_daemon_on_the_same_state_is_refused(machine: Machine) -> None:
    first = machine.process
    machine.start(wait=False)
    second, machine.process = machine.process, first
    assert second is not None
    assert second.wait(60) == 1
    assert "is locked: another CNI daemon of this node runs" in machine.log()
    assert machine.status()["ready"]


def test_a_daemon_in_another_mount_namespace_serves_by_the_open_file(machine: Machine) -> None:
    machine.kill()
    folder = machine.folder
    pod = machine.container("hidden")
    hide = f'mount -t tmpfs none {folder}/pods && exec nsenter --net={machine.netns} $0 "$@"'
    argv = ["unshare", "-m", "sh", "-c", hide, str(Path(sys.executable).parent / "netplane"), "cni", "daemon"]
    argv += [
        f"--node-name={machine.name}",
        f"--run-dir={folder}/run",
        f"--state-dir={folder}/state",
        "--metrics-port=0",
    ]
    argv += [f"--conf-dir={folder}/conf", f"--bin-dir={folder}/bin", *machine.world.source()]
    machine.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: machine.status().get("ready"), limit=20)
    assert machine.call("ADD", pod).code == 0
    assert machine.call("DEL", pod).code == 0


def test_a_daemon_killed_at_any_moment_of_add_leaves_what_a_retry_mends(machine: Machine) -> None:
    chance = random.Random(7)
    held: dict[str, list[str]] = {}
    for attempt in range(8):
        pod = machine.container(f"p{attempt}")
        killer = threading.Timer(chance.uniform(0.0, 0.004), machine.kill)
        killer.start()
        machine.call("ADD", pod)
        killer.join()
        machine.start()
        retry = _retry(machine, pod, starts_with_del=attempt % 2 == 0)
        held[pod.container] = [row["address"].partition("/")[0] for row in retry["ips"]]
        assert machine.call("CHECK", pod, config={"prevResult": retry}).code == 0
    assert leases(machine) == held
    assert len({tuple(addresses) for addresses in held.values()}) == len(held)
    assert len(machine.links()) == len(held)
    for pod in machine.pods.values():
        assert machine.delete(pod).code == 0
    assert_untouched(machine)


def _retry(machine: Machine, pod: Pod, *, starts_with_del: bool) -> dict[str, Any]:
    if starts_with_del:
        assert machine.call("DEL", pod).code == 0
    answer = machine.call("ADD", pod)
    assert answer.code == 0, answer
    return answer.body


def test_uninstall_leaves_others_files_and_purge_leaves_nothing(machine: Machine) -> None:
    machine.pod("a")
    others = [machine.folder / "conf" / "20-other.conflist", machine.folder / "bin" / "bridge"]
    for other in others:
        other.write_text("{}")
    machine.kill(signal.SIGTERM)
    netplane = str(Path(sys.executable).parent / "netplane")
    argv = ["nsenter", f"--net={machine.netns}", netplane, "cni", "uninstall", "--purge"]
    argv += [f"--conf-dir={machine.folder}/conf", f"--bin-dir={machine.folder}/bin"]
    subprocess.run(argv, check=True, capture_output=True)
    assert all(other.exists() for other in others)
    assert not machine.conflist.exists()
    assert machine.links() == set()
    left = subprocess.run(
        ["nsenter", f"--net={machine.netns}", "nft", "list", "ruleset"], capture_output=True, check=True
    )
    assert left.stdout == b""
    with link.Socket(machine.netns) as socket:
        assert socket.link("np.vxlan") is None
        assert socket.routes(protocol=110) == []
