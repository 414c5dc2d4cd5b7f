"""What breaks is mended, and what need not break does not: traffic through it all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from netplane.lab import host
from netplane.lab.units import bracketed
from tests.support import load as load_program
from tests.support.cluster import Lab, echo, eventually, is_ready, service

RATE = 200  # requests a second


@pytest.fixture(scope="module")
def web(lab: Lab) -> Iterator[str]:
    """Three echo pods behind the Service `web`; the Service's URL."""
    lab.apply(echo("web", 3), service("web", "web"))
    lab.ready_pods("app=web", 3)
    url = f"http://{bracketed(lab.get('service', 'web')['spec']['clusterIP'])}/"
    eventually(lambda: lab.curl("node-1", url)["pod"])
    yield url
    lab.kubectl("delete", "deployment/web", "service/web", "--wait=false", "--grace-period=1")


@contextmanager
def requests(lab: Lab, place: str, url: str, *, seconds: float) -> Iterator[dict[str, Any]]:
    """Make RATE requests a second meanwhile; the dictionary is filled at the end."""
    argv = ["/usr/bin/python3", "-I", load_program.__file__, url, str(RATE), str(seconds)]
    result: dict[str, Any] = {}
    with subprocess.Popen(
        host.entered(lab.spec, lab.folders, place, argv), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as load:
        try:
            time.sleep(0.5)
            yield result
            out, err = load.communicate(timeout=seconds + 30)
        finally:
            load.kill()
    assert load.returncode == 0, err
    result.update(json.loads(out))


def restarts(pod: dict[str, Any]) -> int:
    return int(pod["status"]["containerStatuses"][0]["restartCount"])


def test_a_rolling_update_loses_no_request(lab: Lab, web: str) -> None:
    before = {pod["metadata"]["name"] for pod in lab.pods("app=web")}
    with requests(lab, "node-2", web, seconds=15) as result:
        lab.kubectl("rollout", "restart", "deployment/web")
        lab.kubectl("rollout", "status", "deployment/web", "--timeout=60s")
    assert result["failures"] == {}
    assert result["requests"] == RATE * 15
    assert set(result["pods"]) > before, "the load saw both generations"


def test_a_killed_container_is_restarted_and_its_endpoint_follows(lab: Lab, web: str) -> None:
    pod = lab.ready_pods("app=web", 3)[0]
    name = pod["metadata"]["name"]
    lab.kubectl("exec", name, "--", "/usr/bin/python3.11", "-ISc", "import os; os.kill(1, 9)", check=False)
    killed = lab.kubectl("get", "pod", name, "-o", "json")
    if restarts(json.loads(killed)) == restarts(pod):
        # A namespace's first process is immune to its own; the host is not bound by that.
        lab.curl(pod["spec"]["nodeName"], f"http://{bracketed(pod['status']['podIP'])}:8080/exit?code=9")
    eventually(lambda: restarts(lab.get("pod", name)) == restarts(pod) + 1)
    eventually(lambda: is_ready(lab.get("pod", name)), limit=110)
    eventually(lambda: name in {lab.curl("node-1", web)["pod"] for _ in range(12)})


@pytest.mark.parametrize("victim", ["node-1/proxy", "node-1/cni", "node-1/agent", "server"])
def test_traffic_survives_the_death_of_a_daemon_and_it_comes_back(lab: Lab, web: str, victim: str) -> None:
    lab.ready_pods("app=web", 3)
    pods_before = {pod["metadata"]["uid"]: restarts(pod) for pod in lab.pods("app=web")}
    before = lab.units()[victim]
    with requests(lab, "node-1", web, seconds=6) as result:
        lab.netplane("kill", victim)
        eventually(lambda: lab.units()[victim].pid != before.pid and lab.units()[victim].state == "ready", limit=110)
    assert result["failures"] == {}
    eventually(lambda: len(lab.pods("app=web")) == 3)
    assert {pod["metadata"]["uid"]: restarts(pod) for pod in lab.pods("app=web")} == pods_before


@pytest.mark.parametrize("victim", ["node-2/proxy", "node-2/cni", "node-2/agent", "server"])
def test_after_its_death_a_daemon_does_its_work_again(lab: Lab, web: str, victim: str) -> None:
    before = lab.units()[victim]
    lab.netplane("kill", victim)
    eventually(lambda: lab.units()[victim].pid != before.pid and lab.units()[victim].state == "ready", limit=110)
    name = f"after-{victim.replace('/', '-')}"
    deployment = echo(name, 1, spread=False)
    deployment["spec"]["template"]["spec"]["nodeSelector"] = {"kubernetes.io/hostname": "node-2"}
    lab.apply(deployment, service(name, name))
    lab.ready_pods(f"app={name}", 1)
    url = f"http://{bracketed(lab.get('service', name)['spec']['clusterIP'])}/"
    eventually(lambda: lab.curl("node-2", url)["pod"].startswith(name))
    lab.kubectl("delete", f"deployment/{name}", f"service/{name}", "--wait=false", "--grace-period=1")


def test_the_keepers_death_stops_nothing_and_up_brings_it_back(lab: Lab, web: str) -> None:
    before = {name: unit.pid for name, unit in lab.units().items()}
    keeper = keeper_pid(lab)
    os.kill(keeper, signal.SIGKILL)
    assert lab.curl("node-1", web)["pod"]
    lab.netplane("up", limit=110)
    assert {name: unit.pid for name, unit in lab.units().items()} == before


def keeper_pid(lab: Lab) -> int:
    argument = f"--name={lab.name}"
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_text().split("\0")
        except OSError:
            continue
        if "keeper" in words and argument in words:
            return int(process.parent.name)
    raise AssertionError("the lab has no keeper")


def mobile(lab: Lab) -> dict[str, Any]:
    """Four echo pods, one a node of four, that leave a lost node after 2 s."""
    deployment = echo("mobile", 4)
    spec = deployment["spec"]["template"]["spec"]
    # A node without power still counts as a place to spread over: with DoNotSchedule its pods could not move.
    spec["topologySpreadConstraints"][0]["whenUnsatisfiable"] = "ScheduleAnyway"
    spec["tolerations"] = [
        {"key": f"node.kubernetes.io/{why}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 2}
        for why in ("not-ready", "unreachable")
    ]
    return deployment


@pytest.fixture
def fourth(lab: Lab) -> Iterator[str]:
    """A fourth node with a pod of `mobile` on it."""
    name = lab.netplane("add-node", limit=110).stdout.strip()
    lab.apply(mobile(lab), service("mobile", "mobile"))
    assert name in {pod["spec"]["nodeName"] for pod in lab.ready_pods("app=mobile", 4)}
    yield name
    lab.kubectl("delete", "deployment/mobile", "service/mobile", "--wait=false", "--grace-period=1")
    if name in {node.name for node in lab.spec.node_specs()}:
        lab.netplane("remove-node", name, limit=110)


def moved_from(lab: Lab, node: str) -> bool:
    """All four pods are ready, and none of them on the node."""
    pods = [pod for pod in lab.pods("app=mobile") if is_ready(pod)]
    return len(pods) == 4 and node not in {pod["spec"]["nodeName"] for pod in pods}


def has_no_route_over(lab: Lab, node: str, address: str) -> bool:
    """No route of the node leads over the address."""
    return address not in lab.enter(node, "ip", "route").stdout


def test_the_pods_of_a_removed_node_run_elsewhere_and_its_routes_are_gone(lab: Lab, fourth: str) -> None:
    address = next(node.addresses[0] for node in lab.spec.node_specs() if node.name == fourth)
    lab.netplane("remove-node", fourth, limit=110)
    eventually(lambda: moved_from(lab, fourth))
    assert fourth not in lab.kubectl("get", "nodes")
    for node in ("node-1", "node-2", "node-3"):
        eventually(partial(has_no_route_over, lab, node, address))


@pytest.mark.timeout(240)
def test_a_node_without_power_loses_its_endpoints_and_then_its_pods(lab: Lab, fourth: str) -> None:
    lost = next(pod for pod in lab.pods("app=mobile") if pod["spec"]["nodeName"] == fourth)
    lab.netplane("kill", fourth)
    # 40 s without a lease until the node counts as lost, 2 s of toleration.
    eventually(
        lambda: lost["metadata"]["name"] not in {p["metadata"]["name"] for p in lab.pods("app=mobile")}, limit=60
    )
    eventually(lambda: moved_from(lab, fourth))
    lab.netplane("up", limit=110)
    eventually(lambda: is_ready(lab.get("node", fourth)), limit=110)
    eventually(lambda: lost["metadata"]["name"] not in lab.kubectl("get", "pods", "-o", "name"), limit=110)
