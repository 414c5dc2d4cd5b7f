"""Which of several Nodes suits best."""

from __future__ import annotations

import time
from typing import Any

from netplane.controlplane.scheduler import facts
from netplane.controlplane.scheduler.cluster import Cluster
from netplane.controlplane.scheduler.decide import Placed, decide
from netplane.kube.types import Object
from tests.support import workloads


def _cluster(*nodes: Object, pods: tuple[Object, ...] = ()) -> Cluster:
    found = Cluster()
    for node in nodes:
        found.set_node(facts.node(node))
    for pod in pods:
        found.set_pod(facts.pod(pod))
    return found


def _owned(name: str, **given: Any) -> Object:
    pod = workloads.pod(name, **given)
    pod["metadata"]["ownerReferences"] = [{"uid": "rs", "kind": "ReplicaSet", "name": "rs", "controller": True}]
    return pod


def _pending(**given: Any) -> facts.Pod:
    return facts.pod(_owned("new", node="", phase="Pending", ready=False, **given))


def _choice(held: Cluster, pod: facts.Pod) -> str:
    found = decide(held, pod)
    assert isinstance(found, Placed)
    return found.node


def test_the_emptier_node_is_taken() -> None:
    containers = [{"name": "c", "resources": {"requests": {"cpu": "2", "memory": "4Gi"}}}]
    busy = workloads.pod("p", node="a", containers=containers)
    assert _choice(_cluster(workloads.node("a"), workloads.node("b"), pods=(busy,)), _pending()) == "b"


def test_siblings_are_spread_over_nodes_even_if_these_are_fuller() -> None:
    containers = [{"name": "c", "resources": {"requests": {"cpu": "1", "memory": "2Gi"}}}]
    other = workloads.pod("p", node="b", containers=containers)
    held = _cluster(workloads.node("a"), workloads.node("b"), pods=(_owned("s", node="a"), other))
    assert _choice(held, _pending()) == "b"


def test_siblings_are_spread_over_zones() -> None:
    nodes = [workloads.node("a", zone="z1"), workloads.node("b", zone="z1"), workloads.node("c", zone="z2")]
    assert _choice(_cluster(*nodes, pods=(_owned("s", node="a"),)), _pending()) == "c"


def test_a_preferred_node_is_taken_when_it_fits() -> None:
    wish = {"weight": 100, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}}
    affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [wish]}}
    nodes = [workloads.node("a"), workloads.node("b", labels={"disk": "ssd"})]
    assert _choice(_cluster(*nodes), _pending(affinity=affinity)) == "b"


def test_a_softly_tainted_node_is_taken_last() -> None:
    tainted = workloads.node("a", taints=[{"key": "old", "effect": "PreferNoSchedule"}])
    assert _choice(_cluster(tainted, workloads.node("b")), _pending()) == "b"
    assert _choice(_cluster(tainted), _pending()) == "a"


def test_preferred_affinity_attracts_and_preferred_anti_affinity_repels() -> None:
    def wish(kind: str) -> dict[str, Any]:
        term = {"labelSelector": {"matchLabels": {"app": "db"}}, "topologyKey": "kubernetes.io/hostname"}
        preferred = [{"weight": 50, "podAffinityTerm": term}]
        return {kind: {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}

    database = workloads.pod("db", node="a", labels={"app": "db"})
    held = _cluster(workloads.node("a"), workloads.node("b"), pods=(database,))
    assert _choice(held, _pending(affinity=wish("podAffinity"))) == "a"
    assert _choice(held, _pending(affinity=wish("podAntiAffinity"))) == "b"


def test_soft_spread_is_followed_but_never_binds() -> None:
    spread = {"topologyKey": "topology.kubernetes.io/zone", "maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway"}
    constraints = [{**spread, "labelSelector": {"matchLabels": workloads.LABELS}}]
    nodes = [workloads.node("a", zone="z1"), workloads.node("b", zone="z2")]
    pods = (workloads.pod("p", node="a"), workloads.pod("q", node="a"))
    assert _choice(_cluster(*nodes, pods=pods), _pending(topologySpreadConstraints=constraints)) == "b"
    assert _choice(_cluster(nodes[0], pods=pods), _pending(topologySpreadConstraints=constraints)) == "a"


def test_assumed_pods_count_so_that_a_burst_spreads_evenly() -> None:
    held = _cluster(*(workloads.node(f"n{number:02}") for number in range(10)))
    for number in range(50):
        pod = facts.pod(_owned(f"p{number}", node="", phase="Pending", ready=False))
        held.set_pod(pod, _choice(held, pod))
    assert {len(place.pods) for place in held.places.values()} == {5}


def test_five_hundred_pods_are_placed_on_fifty_nodes_in_about_a_second() -> None:
    held = _cluster(*(workloads.node(f"n{number:02}", zone=f"z{number % 3}") for number in range(50)))
    pods = [facts.pod(_owned(f"p{number}", node="", phase="Pending", ready=False)) for number in range(500)]
    began = time.process_time()
    for pod in pods:
        held.set_pod(pod, _choice(held, pod))
    assert time.process_time() - began < 2.0  # twice the aim: the machine is shared
