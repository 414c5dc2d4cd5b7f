"""Keep account of what is where: Nodes with the Pods bound (or about to be) to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from netplane.controlplane.scheduler import facts
from netplane.kube.types import Key


class Place:
    """One Node and what is taken of it."""

    __slots__ = ("node", "owners", "pods", "ports", "requested", "scored_cpu", "scored_memory")

    def __init__(self, node: facts.Node) -> None:
        self.node = node
        self.pods: dict[Key, facts.Pod] = {}
        self.requested: Counter[str] = Counter()
        self.owners: Counter[str] = Counter()
        self.ports: Counter[facts.Port] = Counter()
        self.scored_cpu = 0
        self.scored_memory = 0

    def put(self, pod: facts.Pod, sign: int = 1) -> None:
        """Account for a Pod; with sign -1, no longer."""
        for name, value in pod.requests.items():
            self.requested[name] += sign * value
        self.scored_cpu += sign * pod.scored[0]
        self.scored_memory += sign * pod.scored[1]
        if pod.owner and not pod.is_deleting:
            self.owners[pod.owner] += sign
        for port in pod.ports:
            self.ports[port] += sign
        if sign > 0:
            self.pods[pod.key] = pod
        else:
            self.pods.pop(pod.key, None)

    def has_port(self, wanted: facts.Port) -> bool:
        """Say whether a host port is taken: on the same address, or either on all of them."""
        if not self.ports:
            return False
        address, protocol, number = wanted
        return any(
            count > 0 and (port[1], port[2]) == (protocol, number) and ("" in (port[0], address) or port[0] == address)
            for port, count in self.ports.items()
        )


class Cluster:
    """All Nodes, and the Pods on them. Pods of Nodes not known (yet) wait aside."""

    def __init__(self) -> None:
        self.places: dict[str, Place] = {}
        self.namespaces: dict[str, Mapping[str, str]] = {}
        self.exclusive: dict[Key, facts.Pod] = {}
        self._node_of: dict[Key, str] = {}
        self._strays: dict[str, dict[Key, facts.Pod]] = {}

    def set_node(self, node: facts.Node) -> None:
        """Take in a Node that is new or changed."""
        held = self.places.get(node.name)
        if held is not None:
            held.node = node
            return
        place = self.places[node.name] = Place(node)
        for pod in self._strays.pop(node.name, {}).values():
            place.put(pod)

    def remove_node(self, name: str) -> None:
        """Forget a Node; its Pods wait for its return or their own end."""
        place = self.places.pop(name, None)
        if place is not None and place.pods:
            self._strays[name] = place.pods

    def set_pod(self, pod: facts.Pod, node: str = "") -> None:
        """Account for a Pod on its Node, or (assumed) on another; an ended or unbound one is accounted for nowhere."""
        self.remove_pod(pod.key)
        where = node or pod.node
        if not where or pod.is_ended:
            return
        self._node_of[pod.key] = where
        if pod.apart or pod.wishes or pod.near:
            self.exclusive[pod.key] = pod
        place = self.places.get(where)
        if place is not None:
            place.put(pod)
        else:
            self._strays.setdefault(where, {})[pod.key] = pod

    def remove_pod(self, key: Key) -> None:
        """Account for a Pod no longer."""
        where = self._node_of.pop(key, None)
        if where is None:
            return
        self.exclusive.pop(key, None)
        place = self.places.get(where)
        if place is not None:
            place.put(place.pods[key], -1)
        else:
            self._strays.get(where, {}).pop(key, None)

    def node_of(self, key: Key) -> str:
        """Return the Node a Pod is accounted for on, or ""."""
        return self._node_of.get(key, "")
