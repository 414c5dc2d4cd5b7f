"""Packets arrive: between pods, to Services, from nodes and from outside, in both IP families, over TCP and UDP."""

from __future__ import annotations

import ipaddress
import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from netplane.lab import host
from netplane.lab.units import bracketed
from tests.support.cluster import Lab, echo, eventually, service

FAMILIES = ("IPv4", "IPv6")
UDP = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as s:
    s.settimeout(5)
    s.connect((sys.argv[1], int(sys.argv[2])))
    s.send(b"ping")
    print(s.recv(65536).decode())
"""


@pytest.fixture(scope="module")
def pods(lab: Lab) -> Iterator[list[dict[str, Any]]]:
    """Four echo pods named `net` on three nodes, so that two share one; Services net4 and net6, NodePorts too."""
    lab.apply(echo("net", 4, spread=False))
    for family in FAMILIES:
        lab.apply(service(f"net{family[-1]}", "net", family=family, type="NodePort"))
    found = lab.ready_pods("app=net", 4)
    for name in ("net4", "net6"):
        eventually(partial(all_answer, lab, cluster_url(lab, name), 4))
    yield found
    lab.kubectl("delete", "deployment/net", "service/net4", "service/net6", "--wait=false", "--grace-period=0")


def all_answer(lab: Lab, url: str, count: int) -> bool:
    """So many pods answer."""
    return len(answers(lab, "node-1", url, 5 * count)) == count


def cluster_ip(lab: Lab, name: str) -> str:
    return str(lab.get("service", name)["spec"]["clusterIP"])


def cluster_url(lab: Lab, name: str) -> str:
    return f"http://{bracketed(cluster_ip(lab, name))}/"


def address(pod: dict[str, Any], family: str) -> str:
    version = int(family[-1])
    return next(str(ip["ip"]) for ip in pod["status"]["podIPs"] if ipaddress.ip_address(ip["ip"]).version == version)


def answers(lab: Lab, place: str, url: str, count: int) -> Counter[str]:
    return Counter(lab.curl(place, url)["pod"] for _ in range(count))


def from_pod(lab: Lab, pod: dict[str, Any], url: str) -> dict[str, Any]:
    """Ask the echo server from inside a pod, through kubectl exec and the pod's own Python."""
    program = f"import urllib.request as u; print(u.urlopen({url!r}, timeout=5).read().decode())"
    said = lab.kubectl("exec", pod["metadata"]["name"], "--", "/usr/bin/python3.11", "-I", "-S", "-c", program)
    answer: dict[str, Any] = json.loads(said)
    return answer


@pytest.mark.parametrize("family", FAMILIES)
def test_every_pod_reaches_every_pod_with_its_own_address(lab: Lab, pods: list[dict[str, Any]], family: str) -> None:
    assert len({pod["spec"]["nodeName"] for pod in pods}) == 3
    for source in pods:
        for target in pods:
            answer = from_pod(lab, source, f"http://{bracketed(address(target, family))}:8080/")
            assert (answer["pod"], answer["client"]["address"]) == (
                target["metadata"]["name"],
                address(source, family),
            )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_service_reached_from_a_pod_spreads_over_all_its_pods(
    lab: Lab, pods: list[dict[str, Any]], family: str
) -> None:
    url = cluster_url(lab, f"net{family[-1]}")
    seen = {from_pod(lab, pods[0], url)["pod"] for _ in range(24)}
    assert seen == {pod["metadata"]["name"] for pod in pods}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("node", ["node-1", "node-2", "node-3"])
def test_a_service_answers_every_node(lab: Lab, pods: list[dict[str, Any]], node: str, family: str) -> None:
    seen = answers(lab, node, cluster_url(lab, f"net{family[-1]}"), 30)
    assert set(seen) == {pod["metadata"]["name"] for pod in pods}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_client_outside_reaches_the_node_port_of_every_node(
    lab: Lab, pods: list[dict[str, Any]], family: str
) -> None:
    port = lab.get("service", f"net{family[-1]}")["spec"]["ports"][0]["nodePort"]
    for node in lab.spec.node_specs():
        host = bracketed(node.addresses[FAMILIES.index(family)])
        seen = answers(lab, "client", f"http://{host}:{port}/", 16)
        assert len(seen) > 1, f"{node.name} gives only {seen}"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pod_reaches_itself_through_its_service(lab: Lab, pods: list[dict[str, Any]], family: str) -> None:
    url = cluster_url(lab, f"net{family[-1]}")
    me = pods[0]
    eventually(lambda: from_pod(lab, me, url)["pod"] == me["metadata"]["name"], limit=110)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("place", ["node-2", "client"])
def test_udp_is_answered_from_the_address_it_was_sent_to(
    lab: Lab, pods: list[dict[str, Any]], place: str, family: str
) -> None:
    name = f"net{family[-1]}"
    if place == "client":
        target = lab.spec.node(1).addresses[FAMILIES.index(family)]
        port = lab.get("service", name)["spec"]["ports"][2]["nodePort"]
    else:
        target, port = cluster_ip(lab, name), 82
    # The socket is connected: an answer from any other address would be refused by the kernel.
    said = lab.enter(place, "/usr/bin/python3", "-I", "-S", "-c", UDP, target, str(port)).stdout
    assert json.loads(said)["pod"] in {pod["metadata"]["name"] for pod in pods}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_service_without_pods_refuses_at_once(lab: Lab, pods: list[dict[str, Any]], family: str) -> None:
    name = f"empty{family[-1]}"
    lab.apply(service(name, "nobody", family=family))
    url = cluster_url(lab, name)

    def refused() -> bool:
        done = lab.enter("node-1", "curl", "-sS", "--max-time", "3", url, check=False)
        return done.returncode == 7  # CURLE_COULDNT_CONNECT; a silent time-out is 28

    eventually(refused)
    lab.kubectl("delete", "service", name)


def test_a_pod_leaves_the_cluster_with_its_nodes_address(lab: Lab, pods: list[dict[str, Any]]) -> None:
    server = lab.spec.client_addresses[0]
    source = next(p for p in pods if p["spec"]["nodeName"] == "node-1")
    listen = (
        "import socket\nwith socket.create_server(('0.0.0.0', 9000)) as s:\n"
        " s.settimeout(10); print('up', flush=True); c, a = s.accept(); print(a[0]); c.close()"
    )
    argv = host.entered(lab.spec, lab.folders, "client", ["/usr/bin/python3", "-I", "-S", "-c", listen])
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "up\n"
        program = f"import socket; socket.create_connection(({server!r}, 9000), 5).close()"
        lab.kubectl("exec", source["metadata"]["name"], "--", "/usr/bin/python3.11", "-I", "-S", "-c", program)
        assert listener.stdout.readline().strip() == lab.spec.node(1).addresses[0]


def test_the_root_namespace_knows_nothing_of_the_labs_ranges(lab: Lab, pods: list[dict[str, Any]]) -> None:
    shown = subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True, check=True).stdout
    shown += subprocess.run(["ip", "route", "show", "table", "all"], capture_output=True, text=True, check=True).stdout
    shown += subprocess.run(
        ["ip", "-6", "route", "show", "table", "all"], capture_output=True, text=True, check=True
    ).stdout
    for range_start in ("172.30.0.", "172.31.0.", "10.244.", "10.96.", "fd00:30:", "fd00:31:", "fd00:244:", "fd00:96:"):
        assert range_start not in shown
