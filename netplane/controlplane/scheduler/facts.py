"""What scheduling needs to know of Pods and Nodes, parsed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from netplane.controlplane.scheduler import affinity
from netplane.kube import meta, quantity, select
from netplane.kube.types import Key, Object, key_of

CPU, MEMORY, PODS = "cpu", "memory", "pods"
SCHEDULER = "default-scheduler"
DEFAULT_CPU, DEFAULT_MEMORY = 100, 200 * 1024 * 1024
"""What a container without requests counts as when Nodes are scored (upstream: non-zero requests)."""

Port = tuple[str, str, int]
"""(host address or "", protocol, port)."""


@dataclass(frozen=True, slots=True)
class Peers:
    """A pod affinity term: which Pods, of which namespaces, in the same domain of which topology key."""

    selector: select.Selector
    namespaces: frozenset[str]
    namespace_selector: select.Selector
    topology_key: str

    def matches(self, pod: Pod, namespace_labels: Mapping[str, Mapping[str, str]]) -> bool:
        """Say whether another Pod is meant."""
        if pod.key[0] not in self.namespaces and not (
            not self.namespace_selector.selects_nothing
            and self.namespace_selector.matches(namespace_labels.get(pod.key[0]))
        ):
            return False
        return self.selector.matches(pod.labels)


@dataclass(frozen=True, slots=True)
class Spread:
    """A topology spread constraint."""

    selector: select.Selector
    topology_key: str
    max_skew: int
    is_hard: bool
    min_domains: int = 1
    honors_affinity: bool = True
    honors_taints: bool = False


@dataclass(frozen=True, slots=True)
class Pod:
    """A Pod as the scheduler sees it. Two are equal when nothing that matters to scheduling differs."""

    key: Key
    uid: str
    labels: Mapping[str, str]
    node: str = ""
    is_ended: bool = False
    is_deleting: bool = False
    is_ours: bool = True
    is_gated: bool = False
    priority: int = 0
    created: str = ""
    requests: Mapping[str, int] = field(default_factory=dict)
    scored: tuple[int, int] = (DEFAULT_CPU, DEFAULT_MEMORY)
    ports: tuple[Port, ...] = ()
    demand: affinity.NodeDemand = affinity.ANYWHERE
    tolerations: tuple[Mapping[str, Any], ...] = ()
    near: tuple[Peers, ...] = ()
    apart: tuple[Peers, ...] = ()
    wishes: tuple[tuple[int, Peers], ...] = ()
    spread: tuple[Spread, ...] = ()
    owner: str = ""
    images: tuple[str, ...] = ()
    told: str = ""

    @property
    def is_pending(self) -> bool:
        """Whether it is for us to place now."""
        return not (self.node or self.is_ended or self.is_deleting or self.is_gated) and self.is_ours

    @property
    def reference(self) -> Object:
        """The object an Event about it names."""
        metadata = {"namespace": self.key[0], "name": self.key[1], "uid": self.uid}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}


@dataclass(frozen=True, slots=True)
class Node:
    """A Node as the scheduler sees it."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    allocatable: Mapping[str, int] = field(default_factory=dict)
    taints: tuple[Mapping[str, Any], ...] = ()
    is_unschedulable: bool = False
    images: Mapping[str, int] = field(default_factory=dict)


def node(obj: Object) -> Node:
    """Return the facts of a Node object."""
    status, spec = obj.get("status") or {}, obj.get("spec") or {}
    images = {
        name: int(image.get("sizeBytes") or 0)
        for image in status.get("images") or ()
        for name in image.get("names") or ()
    }
    return Node(
        obj["metadata"]["name"],
        meta.labels(obj),
        {
            name: amount(name, text)
            for name, text in (status.get("allocatable") or status.get("capacity") or {}).items()
        },
        tuple(spec.get("taints") or ()),
        bool(spec.get("unschedulable")),
        images,
    )


def pod(obj: Object) -> Pod:
    """Return the facts of a Pod object. Raises ValueError for quantities and selectors that are none."""
    spec, status, key = obj["spec"], obj.get("status") or {}, key_of(obj)
    requests, scored = _requests(spec)
    labels, pod_affinity = meta.labels(obj), (spec.get("affinity") or {}).get("podAffinity") or {}
    anti = (spec.get("affinity") or {}).get("podAntiAffinity") or {}
    held = meta.condition(obj, "PodScheduled") or {}
    return Pod(
        key,
        meta.uid(obj),
        labels,
        spec.get("nodeName") or "",
        status.get("phase") in ("Succeeded", "Failed"),
        meta.is_deleting(obj),
        (spec.get("schedulerName") or SCHEDULER) == SCHEDULER,
        bool(spec.get("schedulingGates")),
        int(spec.get("priority") or 0),
        obj["metadata"].get("creationTimestamp") or "",
        requests,
        scored,
        _ports(spec),
        affinity.demand(spec),
        tuple(spec.get("tolerations") or ()),
        tuple(_peers(term, key[0], labels) for term in pod_affinity.get(_REQUIRED) or ()),
        tuple(_peers(term, key[0], labels) for term in anti.get(_REQUIRED) or ()),
        (*_wishes(pod_affinity, key[0], labels, 1), *_wishes(anti, key[0], labels, -1)),
        tuple(_spread(found, labels) for found in spec.get("topologySpreadConstraints") or ()),
        str((meta.controller_of(obj) or {}).get("uid") or ""),
        tuple(sorted({container["image"] for container in spec.get("containers") or () if container.get("image")})),
        str(held.get("message") or "") if held.get("status") == "False" else "",
    )


_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def amount(name: str, text: str | int) -> int:
    """Return how much of a resource a quantity is: CPU in thousandths, all else in units."""
    return quantity.milli(text) if name == CPU else quantity.whole(text)


def _requests(spec: Object) -> tuple[dict[str, int], tuple[int, int]]:
    """Return what the Pod takes, and (cpu, memory) as scored: containers together, or a hungrier init container."""
    total: dict[str, int] = {}
    cpu = memory = 0
    for container in spec.get("containers") or ():
        wanted = _wanted(container)
        _add(total, wanted)
        cpu += wanted.get(CPU) or DEFAULT_CPU
        memory += wanted.get(MEMORY) or DEFAULT_MEMORY
    sidecars: dict[str, int] = {}
    peak: dict[str, int] = {}
    for container in spec.get("initContainers") or ():
        wanted = _wanted(container)
        if container.get("restartPolicy") == "Always":
            _add(sidecars, wanted)
            _raise(peak, sidecars)
        else:
            _raise(peak, {name: wanted.get(name, 0) + sidecars.get(name, 0) for name in {*wanted, *sidecars}})
    _add(total, sidecars)
    _raise(total, peak)
    _add(total, {name: amount(name, text) for name, text in (spec.get("overhead") or {}).items()})
    scored = (max(cpu, total.get(CPU, 0)), max(memory, total.get(MEMORY, 0)))
    return {name: value for name, value in total.items() if value}, scored


def _wanted(container: Object) -> dict[str, int]:
    given = container.get("resources") or {}
    texts = {**(given.get("limits") or {}), **(given.get("requests") or {})}
    return {name: amount(name, text) for name, text in texts.items()}


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for name, value in more.items():
        total[name] = total.get(name, 0) + value


def _raise(total: dict[str, int], least: Mapping[str, int]) -> None:
    for name, value in least.items():
        total[name] = max(total.get(name, 0), value)


def _ports(spec: Object) -> tuple[Port, ...]:
    is_host = bool(spec.get("hostNetwork"))
    found = set()
    for container in spec.get("containers") or ():
        for port in container.get("ports") or ():
            number = port.get("hostPort") or (port.get("containerPort") if is_host else 0)
            if number:
                address = port.get("hostIP") or ""
                address = "" if address in ("0.0.0.0", "::") else address
                found.add((address, port.get("protocol") or "TCP", int(number)))
    return tuple(sorted(found))


def _peers(term: Mapping[str, Any], namespace: str, labels: Mapping[str, str]) -> Peers:
    selector = select.from_object(term.get("labelSelector"))
    given = frozenset(term.get("namespaces") or ())
    chosen = term.get("namespaceSelector")
    if not given and chosen is None:
        given = frozenset({namespace})
    others = select.NOTHING if chosen is None else select.from_object(chosen)
    return Peers(_with_keys(selector, term, labels), given, others, term["topologyKey"])


def _with_keys(selector: select.Selector, term: Mapping[str, Any], labels: Mapping[str, str]) -> select.Selector:
    """Return the selector narrowed by matchLabelKeys: the Pod's own values of these labels (KEP-3633, KEP-3243)."""
    more = [select.Requirement(key, "In", (labels[key],)) for key in term.get("matchLabelKeys") or () if key in labels]
    more += [
        select.Requirement(key, "NotIn", (labels[key],)) for key in term.get("mismatchLabelKeys") or () if key in labels
    ]
    return select.Selector((*selector.requirements, *more), selector.selects_nothing) if more else selector


def _wishes(
    given: Mapping[str, Any], namespace: str, labels: Mapping[str, str], sign: int
) -> tuple[tuple[int, Peers], ...]:
    return tuple(
        (sign * int(wish["weight"]), _peers(wish["podAffinityTerm"], namespace, labels))
        for wish in given.get(_PREFERRED) or ()
    )


def _spread(found: Mapping[str, Any], labels: Mapping[str, str]) -> Spread:
    return Spread(
        _with_keys(select.from_object(found.get("labelSelector")), found, labels),
        found["topologyKey"],
        int(found["maxSkew"]),
        found.get("whenUnsatisfiable", "DoNotSchedule") == "DoNotSchedule",
        int(found.get("minDomains") or 1),
        found.get("nodeAffinityPolicy", "Honor") == "Honor",
        found.get("nodeTaintsPolicy", "Ignore") == "Honor",
    )
