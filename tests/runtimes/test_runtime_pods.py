"""Real runtimes run pods through the real shim and daemon: containerd by CRI on one machine, podman on another."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from netplane.kernel import netns
from netplane.kernel.link import run as link
from tests.support import cri
from tests.support.cni_nodes import NETPLANE, Machine, World, until
from tests.support.runtimes import Containerd, Failed, Podman, Running, fetched, images, jailed

Runtime = Containerd | Podman
Ports = Sequence[tuple[int, int]]


@dataclass
class Site:
    world: World
    runtimes: dict[str, tuple[Runtime, Machine]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("runtimes")
    archives = images(folder)
    with World(folder / "world", nodes=2) as world, contextlib.ExitStack() as stack:
        for machine in world.machines:
            machine.options = ["--cool-down=0"]
            machine.start()
        runtimes: dict[str, tuple[Runtime, Machine]] = {}
        for name, machine in zip(("containerd", "podman"), world.machines, strict=True):
            jail = stack.enter_context(jailed(machine, name))
            runtime = Containerd(jail, archives) if name == "containerd" else Podman(jail, archives)
            stack.callback(runtime.close)
            runtimes[name] = runtime, machine
        yield Site(world, runtimes)


@pytest.fixture(params=["containerd", "podman"])
def place(request: pytest.FixtureRequest, site: Site) -> tuple[Runtime, Machine]:
    return site.runtimes[request.param]


@contextlib.contextmanager
def running(runtime: Runtime, name: str, *, ports: Ports = (), attempt: int = 0) -> Iterator[Running]:
    pod = runtime.run(name, ports=ports, attempt=attempt)
    try:
        yield pod
    finally:
        runtime.stop(pod)


def is_clean(machine: Machine) -> bool:
    return not machine.status()["leases"] and not machine.links()


def test_pods_of_one_runtime_and_of_two_reach_each_other_in_both_families(site: Site) -> None:
    (first, _), (second, _) = site.runtimes.values()
    with running(first, "a") as a, running(first, "b") as b, running(second, "c") as c:
        assert len(a.ips) == len(c.ips) == 2
        for ip in b.ips:
            assert fetched(first, a, ip) == "b"
        for ip in c.ips:
            assert fetched(first, a, ip) == "c"
        for ip in a.ips:
            assert fetched(second, c, ip) == "a"
        assert "inet 127.0.0.1/8" in first.exec(a, "ip", "addr", "show", "lo")


def test_a_host_port_serves_the_outside_as_long_as_the_pod_is(site: Site, place: tuple[Runtime, Machine]) -> None:
    runtime, machine = place

    def ask() -> str:
        with urllib.request.urlopen(f"http://{machine.addresses[0]}:18080/", timeout=2) as answer:
            return str(answer.read().decode().strip())

    def asked() -> str:
        with contextlib.suppress(OSError):
            return netns.run_in(site.world.client, ask)
        return ""

    with running(runtime, "served", ports=[(18080, 8080)]):
        until(lambda: asked() == "served")
    assert asked() == ""


def test_ten_pods_come_and_go_and_leave_nothing(place: tuple[Runtime, Machine]) -> None:
    runtime, machine = place
    with contextlib.ExitStack() as stack:
        pods = [stack.enter_context(running(runtime, f"p{number}")) for number in range(10)]
        assert len({ip for pod in pods for ip in pod.ips}) == 20
        assert len(machine.links()) == 10
    until(lambda: is_clean(machine))


def test_the_lease_tells_the_pods_name_under_containerd(site: Site) -> None:
    runtime, machine = site.runtimes["containerd"]
    with running(runtime, "named"):
        assert [lease["pod"] for lease in machine.status()["leases"]] == ["tests/named"]


def test_without_the_daemon_the_runtimes_user_reads_why_and_a_retry_works(place: tuple[Runtime, Machine]) -> None:
    runtime, machine = place
    machine.kill()
    try:
        with pytest.raises((cri.Refused, Failed)) as refusal:
            runtime.run("patient")
        said = str(refusal.value)
        assert "netplane's CNI daemon cannot be reached" in said
        assert "is `netplane cni daemon` running on this node?" in said
    finally:
        machine.start()
    with running(runtime, "patient", attempt=1) as pod:
        assert fetched(runtime, pod, pod.ips[0]) == "patient"
    until(lambda: is_clean(machine))


def test_pods_outlive_the_daemon_and_end_cleanly_under_the_next(place: tuple[Runtime, Machine]) -> None:
    runtime, machine = place
    with running(runtime, "one") as one, running(runtime, "two") as two:
        machine.kill()
        try:
            assert fetched(runtime, one, two.ips[0]) == "two"
        finally:
            machine.start()
        assert len(machine.status()["leases"]) == 2
    until(lambda: is_clean(machine))


def test_containerd_hands_a_pods_bandwidth_annotations_on(site: Site) -> None:
    runtime, machine = site.runtimes["containerd"]
    assert isinstance(runtime, Containerd)
    wanted = {"kubernetes.io/ingress-bandwidth": "16M", "kubernetes.io/egress-bandwidth": "8M"}
    pod = runtime.run("held", annotations=wanted)
    try:
        (name,) = machine.links()
        with link.Socket(machine.netns) as socket:
            there = socket.link(name)
            assert there is not None
            assert socket.rate(there.index) == 2_000_000
    finally:
        runtime.stop(pod)


def test_containerd_finds_the_network_ready(site: Site) -> None:
    runtime, _ = site.runtimes["containerd"]
    assert isinstance(runtime, Containerd)
    assert runtime.is_network_ready()


def test_a_pod_has_the_address_of_its_annotation_under_containerd(site: Site) -> None:
    runtime, machine = site.runtimes["containerd"]
    assert isinstance(runtime, Containerd)
    wanted = ["10.244.1.222", "fd00:244:0:1::222"]
    pod = runtime.run("fixed", annotations={"netplane.io/ips": ",".join(wanted)})
    try:
        assert pod.ips == wanted
    finally:
        runtime.stop(pod)
    until(lambda: is_clean(machine))


def test_pods_outlive_containerd_and_end_cleanly_under_the_next(site: Site) -> None:
    runtime, machine = site.runtimes["containerd"]
    assert isinstance(runtime, Containerd)
    one = runtime.run("one")
    runtime.restart()
    with running(runtime, "two") as two:
        assert fetched(runtime, two, one.ips[0]) == "one"
        assert fetched(runtime, one, two.ips[0]) == "two"
    runtime.stop(one)
    until(lambda: is_clean(machine))


def test_a_pod_that_is_stopped_again_and_again_is_gone_all_the_same(site: Site) -> None:
    runtime, machine = site.runtimes["containerd"]
    assert isinstance(runtime, Containerd)
    pod = runtime.run("thrice")
    for _ in range(3):
        runtime.halt(pod)
    runtime.stop(pod)
    until(lambda: is_clean(machine))


def test_containerd_follows_install_and_uninstall_and_others_files_stay(site: Site) -> None:
    runtime, machine = site.runtimes["containerd"]
    assert isinstance(runtime, Containerd)
    others = [machine.folder / "conf" / "notes.txt", machine.folder / "bin" / "other"]
    for other in others:
        other.write_text("somebody's")
    machine.kill(signal.SIGTERM)
    try:
        folders = [f"--conf-dir={machine.folder}/conf", f"--bin-dir={machine.folder}/bin"]
        subprocess.run([str(NETPLANE), "cni", "uninstall", *folders], check=True, capture_output=True)
        until(lambda: not runtime.is_network_ready(), limit=20)
        assert {path.name for folder in ("conf", "bin") for path in (machine.folder / folder).iterdir()} == {
            "notes.txt",
            "other",
        }
    finally:
        machine.start()
    until(runtime.is_network_ready, limit=20)
    with running(runtime, "again") as pod:
        assert fetched(runtime, pod, pod.ips[0]) == "again"
    assert [other.read_text() for other in others] == ["somebody's"] * 2


def test_the_images_were_made_here(tmp_path: Path) -> None:
    assert all(archive.stat().st_size > 10_000 for archive in images(tmp_path))
