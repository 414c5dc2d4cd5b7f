"""The lab's own commands: again and again, with bad input, and without a trace at the end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from netplane.kernel import cgroup
from netplane.lab import launch
from tests.support.cluster import NETPLANE, Lab, eventually, run

OTHER = "ci-other"


@pytest.fixture(autouse=True)
def _one_failure_stays_one() -> Iterator[None]:
    """What a failed test left behind is not the next one's fault."""
    yield
    if traces(OTHER):
        run(NETPLANE, "lab", "down", f"--name={OTHER}", check=False)


def traces(name: str) -> list[str]:
    """Everything on this machine that bears the lab's name."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    found = [m for m in mounts if f"/netplane-lab/{name}/" in f"{m}/"]
    found += [str(p) for p in Path("/run/netns").glob(f"{name}-*")]
    found += [str(p) for root in ("/run", "/var/lib") for p in Path(root).glob(f"netplane-lab/{name}")]
    found += [str(p) for root in cgroup.hierarchies() for p in root.glob(f"netplane-lab/{name}")]
    found += [str(pid) for pid in cgroup.processes(f"netplane-lab/{name}")]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"--name={name}" in process.read_text().split("\0"):
                found.append(str(process))
        except OSError:
            continue
    return found


def cut_off(verb: str, *arguments: str, seconds: float, number: int, name: str = OTHER) -> None:
    """Begin a command and send it a signal after some time."""
    with subprocess.Popen(
        [NETPLANE, "lab", verb, f"--name={name}", *arguments],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        # A test run in the background ignores Ctrl-C, and what it starts would, too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as command:
        try:
            command.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            command.send_signal(number)
            command.wait(timeout=90)


def test_up_again_changes_nothing(lab: Lab) -> None:
    before = {name: unit.pid for name, unit in lab.units().items()}
    lab.netplane("up", limit=110)
    assert {name: unit.pid for name, unit in lab.units().items()} == before


def test_status_shows_every_daemon_and_its_health_in_the_exit_code(lab: Lab) -> None:
    shown = json.loads(lab.netplane("status", "-o", "json").stdout)
    assert shown["healthy"]
    assert len(shown["daemons"]) == 2 + 3 * len(lab.spec.nodes)


def test_state_survives_down_and_up_and_down_leaves_no_trace(lab: Lab) -> None:
    other = Lab(OTHER)
    before = {name: unit.pid for name, unit in lab.units().items()}
    other.netplane("up", "--nodes=1", "--api-port=17443", "--fabric=direct", limit=110)
    try:
        other.kubectl("create", "configmap", "kept", "--from-literal=a=b")
        other.netplane("down", "--keep", limit=110)
        assert not [t for t in traces(OTHER) if "/var/lib/" not in t]
        other.netplane("up", limit=110)
        assert other.get("configmap", "kept")["data"] == {"a": "b"}
    finally:
        other.netplane("down", limit=110)
    assert traces(OTHER) == []
    # The lab beside it, whose name begins the same, did not notice.
    assert {name: unit.pid for name, unit in lab.units().items()} == before
    assert lab.enter("node-1", "ls", "/run/netplane/cni.sock", "/opt/cni/bin/netplane-cni").returncode == 0


def test_a_killed_up_is_continued_and_a_killed_down_too() -> None:
    other = Lab(OTHER)
    cut_off("up", "--nodes=1", "--api-port=17443", seconds=0.9, number=signal.SIGKILL)
    try:
        other.netplane(
            "up", *([] if other.folders.spec_file.exists() else ["--nodes=1", "--api-port=17443"]), limit=110
        )
        assert set(other.get("nodes")["items"][0]["metadata"]["labels"]) >= {"kubernetes.io/hostname"}
        cut_off("down", seconds=0.3, number=signal.SIGINT)
        cut_off("down", seconds=0.3, number=signal.SIGKILL)
    finally:
        other.netplane("down", limit=110)
    assert traces(OTHER) == []


@pytest.mark.parametrize(("number", "seconds"), [(signal.SIGKILL, 0.6), (signal.SIGINT, 1.2)])
def test_a_node_that_was_half_made_is_mended_by_up_and_one_half_removed_by_removing_it_again(
    lab: Lab, number: signal.Signals, seconds: float
) -> None:
    cut_off("add-node", seconds=seconds, number=number, name=lab.name)
    try:
        assert_up_has_all_nodes(lab)
    finally:
        for name in {node.name for node in lab.spec.node_specs()} - {"node-1", "node-2", "node-3"}:
            cut_off("remove-node", name, seconds=seconds / 2, number=number, name=lab.name)
            # Again, it does the rest; there is none where the first one was quicker.
            again = lab.netplane("remove-node", name, check=False, limit=110)
            assert again.returncode == 0 or f"{name}: no such node" in again.stderr
            assert_up_has_all_nodes(lab)


def assert_up_has_all_nodes(lab: Lab) -> None:
    """The nodes of the lab's spec are in the API and on the machine after `up`, and no others."""
    lab.netplane("up", limit=110)
    known = {node.name for node in lab.spec.node_specs()}
    assert {node["metadata"]["name"] for node in lab.get("nodes")["items"]} == known
    assert {p.name for p in Path("/run/netns").glob(f"{lab.name}-node-*")} == {f"{lab.name}-{n}" for n in known}


def test_a_lab_without_its_keeper_says_so_and_up_adopts_what_runs(lab: Lab) -> None:
    before = {name: unit.pid for name, unit in lab.units().items()}
    (keeper,) = [pid for pid in cgroup.processes(f"netplane-lab/{lab.name}/keeper") if pid not in before.values()]
    os.kill(keeper, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{keeper}").exists())
    shown = lab.netplane("status", "-o", "json", check=False)
    assert shown.returncode == 1
    assert {unit["state"] for unit in json.loads(shown.stdout)["daemons"]} == {"unkept"}
    lab.netplane("up", limit=110)
    assert {name: unit.pid for name, unit in lab.units().items()} == before


def test_an_interrupted_up_leaves_nothing_half_made() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        cut_off("up", "--nodes=2", "--api-port=17443", seconds=1.5, number=number)
        assert traces(OTHER) == []


def test_an_up_interrupted_when_its_keeper_is_born_leaves_nothing() -> None:
    with subprocess.Popen(
        [NETPLANE, "lab", "up", f"--name={OTHER}", "--nodes=1", "--api-port=17443"], stderr=subprocess.DEVNULL
    ) as command:
        eventually(lambda: launch.keepers(OTHER), limit=90, every=0.005)
        command.terminate()
        command.wait(timeout=90)
    assert traces(OTHER) == []


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["--nodes=0"], 2, "0 is not in the range"),
        (["--nodes=51"], 2, "51 is not in the range"),
        (["--fabric=geneve"], 2, "'geneve' is not one of"),
        (["--pods-cidr=10.96.0.0/16"], 1, "--pods-cidr 10.96.0.0/16 overlaps --services-cidr 10.96.0.0/16"),
        (["--pods-cidr=10.244.0.0/33"], 1, "--pods-cidr 10.244.0.0/33"),
        (["--pods-cidr=10.1.0.0/16,10.2.0.0/16"], 1, "at most one range of each IP family"),
        (["--pods-cidr=fd00::/48"], 1, "not of the lab's IP family"),
        (["--pods-cidr=10.244.0.0/23"], 1, "a /24 for each node does not fit"),
    ],
)
def test_a_wrong_flag_is_one_clear_line_and_makes_nothing(arguments: list[str], code: int, complaint: str) -> None:
    done = run(NETPLANE, "lab", "up", f"--name={OTHER}", *arguments, check=False)
    assert done.returncode == code
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert traces(OTHER) == []


def test_a_taken_port_is_named_and_nothing_is_made() -> None:
    with socket.create_server(("127.0.0.1", 17444)):
        done = run(NETPLANE, "lab", "up", f"--name={OTHER}", "--api-port=17444", check=False)
    assert done.returncode == 1
    assert "127.0.0.1:17444 is taken" in done.stderr
    assert "--api-port" in done.stderr
    assert traces(OTHER) == []


def test_without_root_the_lab_says_so() -> None:
    done = run(
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        NETPLANE,
        "lab",
        "up",
        f"--name={OTHER}",
        check=False,
    )
    assert done.returncode != 0
    assert "run this as root" in done.stderr
    assert traces(OTHER) == []


def test_other_settings_for_a_lab_that_is_up_are_refused(lab: Lab) -> None:
    done = lab.netplane("up", "--fabric=direct", check=False)
    assert done.returncode == 1
    assert "exists with other settings" in done.stderr


def test_an_unknown_place_names_those_that_are(lab: Lab) -> None:
    done = lab.netplane("exec", "node-9", "--", "true", check=False)
    assert done.returncode == 1
    assert "node-1, node-2, node-3, client, underlay" in done.stderr
