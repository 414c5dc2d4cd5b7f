"""Where Pods may not go, and in which words that is said."""

from __future__ import annotations

from typing import Any

import pytest

from netplane.controlplane.scheduler import facts
from netplane.controlplane.scheduler.cluster import Cluster
from netplane.controlplane.scheduler.decide import Placed, decide
from netplane.kube.types import Object
from tests.support import workloads

WEB = {"matchLabels": {"app": "web"}}


def cluster(*nodes: Object, pods: tuple[Object, ...] = ()) -> Cluster:
    found = Cluster()
    found.namespaces["default"] = {}
    for node in nodes:
        found.set_node(facts.node(node))
    for pod in pods:
        found.set_pod(facts.pod(pod))
    return found


def pending(**spec: Any) -> facts.Pod:
    return facts.pod(workloads.pod("new", node="", phase="Pending", ready=False, **spec))


def requests(**amounts: str) -> dict[str, Any]:
    return {"containers": [{"name": "c", "image": "i", "resources": {"requests": amounts}}]}


def outcome(held: Cluster, pod: facts.Pod) -> str:
    found = decide(held, pod)
    return found.node if isinstance(found, Placed) else found.message


def _required(**terms: Any) -> dict[str, Any]:
    return {"requiredDuringSchedulingIgnoredDuringExecution": terms}


def test_without_nodes_it_says_so() -> None:
    assert outcome(cluster(), pending()) == "no nodes available to schedule pods"


def test_reasons_are_counted_by_node_and_sorted() -> None:
    held = cluster(*(workloads.node(f"n{number}") for number in range(3)))
    assert outcome(held, pending(**requests(cpu="5"))) == "0/3 nodes are available: 3 Insufficient cpu."
    told = "0/3 nodes are available: 3 Insufficient cpu, 3 Insufficient memory."
    assert outcome(held, pending(**requests(cpu="5", memory="9Gi"))) == told


def test_what_runs_already_is_taken_off_what_is_free() -> None:
    running = workloads.pod("a", **requests(cpu="3500m"))
    held = cluster(workloads.node(), pods=(running,))
    assert outcome(held, pending(**requests(cpu="501m"))) == "0/1 nodes are available: 1 Insufficient cpu."
    assert outcome(held, pending(**requests(cpu="500m"))) == "node-1"


def test_a_hungry_init_container_counts_as_its_pods_need() -> None:
    hungry = [{"name": "i", "resources": {"requests": {"cpu": "6"}}}]
    assert "Insufficient cpu" in outcome(cluster(workloads.node()), pending(initContainers=hungry))


def test_a_node_takes_no_more_pods_than_it_allows() -> None:
    node = workloads.node()
    node["status"]["allocatable"]["pods"] = "1"
    assert outcome(cluster(node, pods=(workloads.pod("a"),)), pending()) == "0/1 nodes are available: 1 Too many pods."


def test_ended_pods_take_nothing() -> None:
    ended = workloads.pod("a", phase="Succeeded", **requests(cpu="4"))
    assert outcome(cluster(workloads.node(), pods=(ended,)), pending(**requests(cpu="4"))) == "node-1"


def test_a_taint_keeps_away_all_that_do_not_tolerate_it() -> None:
    held = cluster(workloads.node(taints=[{"key": "dedicated", "value": "db", "effect": "NoSchedule"}]))
    assert outcome(held, pending()) == "0/1 nodes are available: 1 node(s) had untolerated taint {dedicated: db}."
    tolerant = pending(tolerations=[{"key": "dedicated", "operator": "Equal", "value": "db"}])
    assert outcome(held, tolerant) == "node-1"


def test_a_cordoned_node_takes_nothing() -> None:
    told = "0/1 nodes are available: 1 node(s) were unschedulable."
    assert outcome(cluster(workloads.node(unschedulable=True)), pending()) == told


@pytest.mark.parametrize(
    "spec",
    [
        {"nodeSelector": {"disk": "ssd"}},
        {
            "affinity": {
                "nodeAffinity": _required(
                    nodeSelectorTerms=[{"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}]
                )
            }
        },
        {
            "affinity": {
                "nodeAffinity": _required(
                    nodeSelectorTerms=[{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]
                )
            }
        },
    ],
    ids=["selector", "labels", "name"],
)
def test_a_pod_goes_only_where_its_node_demand_is_met(spec: dict[str, Any]) -> None:
    a, b = workloads.node("a"), workloads.node("b", labels={"disk": "ssd"})
    assert outcome(cluster(a, b), pending(**spec)) == "b"
    told = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
    assert outcome(cluster(a), pending(**spec)) == told


def test_a_host_port_is_given_once_per_node_and_protocol() -> None:
    def port(protocol: str) -> dict[str, Any]:
        return {"containers": [{"name": "c", "ports": [{"hostPort": 53, "containerPort": 53, "protocol": protocol}]}]}

    held = cluster(workloads.node(), pods=(workloads.pod("a", **port("UDP")),))
    told = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."
    assert outcome(held, pending(**port("UDP"))) == told
    assert outcome(held, pending(**port("TCP"))) == "node-1"


def _peers(kind: str, key: str = "kubernetes.io/hostname") -> dict[str, Any]:
    term = {"labelSelector": WEB, "topologyKey": key}
    return {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}


def test_required_affinity_follows_and_required_anti_affinity_avoids() -> None:
    held = cluster(workloads.node("a"), workloads.node("b"), pods=(workloads.pod("p", node="a"),))
    assert outcome(held, pending(**_peers("podAffinity"))) == "a"
    assert outcome(held, pending(**_peers("podAntiAffinity"))) == "b"


def test_the_first_of_a_group_that_wants_its_own_kind_may_go_anywhere() -> None:
    assert outcome(cluster(workloads.node("a")), pending(**_peers("podAffinity"))) == "a"


def test_pods_already_there_keep_away_whom_they_cannot_stand() -> None:
    hermit = workloads.pod("p", node="a", labels={"app": "db"}, **_peers("podAntiAffinity"))
    told = "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules."
    assert outcome(cluster(workloads.node("a"), pods=(hermit,)), pending()) == told


def test_hard_spread_keeps_within_its_skew() -> None:
    spread = {"topologyKey": "topology.kubernetes.io/zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}
    constraint = {"topologySpreadConstraints": [{**spread, "labelSelector": WEB}]}
    nodes = workloads.node("a", zone="z1"), workloads.node("b", zone="z2")
    held = cluster(*nodes, pods=(workloads.pod("p", node="a"),))
    assert outcome(held, pending(**constraint)) == "b"
    assert "missing required label" in outcome(cluster(workloads.node("c")), pending(**constraint))
