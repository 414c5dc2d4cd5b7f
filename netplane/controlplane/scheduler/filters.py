"""Say why a Pod cannot run on a Node, in Kubernetes' own words. An empty answer means it can."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from netplane.controlplane.scheduler import facts, taints
from netplane.controlplane.scheduler.cluster import Cluster, Place

UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
NO_AFFINITY = "node(s) didn't match Pod's node affinity/selector"
Domain = tuple[str, str]
"""(topology key, value)."""


@dataclass(frozen=True, slots=True)
class Context:
    """What is the same for every Node while one Pod is looked at, counted beforehand."""

    near: tuple[tuple[facts.Peers, frozenset[str]], ...] = ()
    """For each required affinity term the values of its key under which matching Pods run."""
    is_first: bool = False
    """No Pod matches any affinity term yet, but this one would match its own: it may go anywhere."""
    apart: frozenset[Domain] = frozenset()
    repelled: frozenset[Domain] = frozenset()
    spread: tuple[tuple[facts.Spread, Counter[str], int], ...] = ()
    """Hard spread constraints with the number of matching Pods by domain, and the least of them."""


def context(cluster: Cluster, pod: facts.Pod) -> Context:
    """Count what the filters of this Pod compare with."""
    near = tuple((term, frozenset(_values(cluster, [term], term.topology_key))) for term in pod.near)
    is_first = bool(near) and not any(values for _, values in near)
    is_first = is_first and all(term.matches(pod, cluster.namespaces) for term in pod.near)
    apart = frozenset(
        (term.topology_key, value) for term in pod.apart for value in _values(cluster, [term], term.topology_key)
    )
    spread = tuple(_spread(cluster, pod, found) for found in pod.spread if found.is_hard)
    return Context(near, is_first, apart, frozenset(_repelled(cluster, pod)), spread)


def reasons(place: Place, pod: facts.Pod, known: Context) -> list[str]:
    """Return why the Pod cannot run there: the first filter that objects, with all its reasons."""
    node = place.node
    if pod.demand.only_node is not None and pod.demand.only_node != node.name:
        return [NO_AFFINITY]
    if node.is_unschedulable and not _tolerates_cordon(pod):
        return ["node(s) were unschedulable"]
    if node.taints:
        taint = taints.untolerated(pod.tolerations, node.taints, ("NoSchedule", "NoExecute"))
        if taint is not None:
            return [f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value') or ''}}}"]
    if not pod.demand.accepts(node.labels, node.name):
        return [NO_AFFINITY]
    if pod.ports and any(place.has_port(port) for port in pod.ports):
        return ["node(s) didn't have free ports for the requested pod ports"]
    return _resources(place, pod) or _topology(node, pod, known) or _neighbours(node, known)


def _tolerates_cordon(pod: facts.Pod) -> bool:
    cordon = {"key": UNSCHEDULABLE, "effect": "NoSchedule"}
    return any(taints.tolerates(found, cordon) for found in pod.tolerations)


def _resources(place: Place, pod: facts.Pod) -> list[str]:
    free = place.node.allocatable
    short = []
    if len(place.pods) + 1 > free.get(facts.PODS, 110):
        short.append("Too many pods")
    for name, wanted in pod.requests.items():
        if wanted > free.get(name, 0) - place.requested[name]:
            short.append(f"Insufficient {name}")
    return short


def _topology(node: facts.Node, pod: facts.Pod, known: Context) -> list[str]:
    for found, counts, least in known.spread:
        value = node.labels.get(found.topology_key)
        if value is None:
            return ["node(s) didn't match pod topology spread constraints (missing required label)"]
        own = 1 if found.selector.matches(pod.labels) else 0
        if counts[value] + own - least > found.max_skew:
            return ["node(s) didn't match pod topology spread constraints"]
    return []


def _neighbours(node: facts.Node, known: Context) -> list[str]:
    for term, values in known.near:
        value = node.labels.get(term.topology_key)
        if value is None or (value not in values and not known.is_first):
            return ["node(s) didn't match pod affinity rules"]
    if any(node.labels.get(key) == value for key, value in known.apart):
        return ["node(s) didn't match pod anti-affinity rules"]
    if any(node.labels.get(key) == value for key, value in known.repelled):
        return ["node(s) didn't satisfy existing pods anti-affinity rules"]
    return []


def _values(cluster: Cluster, terms: Iterable[facts.Peers], key: str) -> Iterable[str]:
    for place in cluster.places.values():
        value = place.node.labels.get(key)
        if value is None:
            continue
        for term in terms:
            if any(term.matches(other, cluster.namespaces) for other in place.pods.values()):
                yield value


def _repelled(cluster: Cluster, pod: facts.Pod) -> Iterable[Domain]:
    """Yield the domains from which Pods already there keep this one away."""
    for key, other in cluster.exclusive.items():
        place = cluster.places.get(cluster.node_of(key))
        for term in other.apart:
            value = place.node.labels.get(term.topology_key) if place else None
            if value is not None and term.matches(pod, cluster.namespaces):
                yield term.topology_key, value


def _spread(cluster: Cluster, pod: facts.Pod, found: facts.Spread) -> tuple[facts.Spread, Counter[str], int]:
    keys = {other.topology_key for other in pod.spread if other.is_hard}
    counts: Counter[str] = Counter()
    domains = set()
    for place in cluster.places.values():
        labels = place.node.labels
        if not keys <= labels.keys() or not _counts(place, pod, found):
            continue
        value = labels[found.topology_key]
        domains.add(value)
        counts[value] += matching(place, pod, found)
    least = min((counts[value] for value in domains), default=0)
    return found, counts, 0 if len(domains) < found.min_domains else least


def _counts(place: Place, pod: facts.Pod, found: facts.Spread) -> bool:
    """Say whether a Node's Pods count for a constraint: the policies may leave out where the Pod could not run."""
    if found.honors_affinity and not pod.demand.accepts(place.node.labels, place.node.name):
        return False
    effects = ("NoSchedule", "NoExecute")
    return not found.honors_taints or taints.untolerated(pod.tolerations, place.node.taints, effects) is None


def matching(place: Place, pod: facts.Pod, found: facts.Spread) -> int:
    """Return how many Pods of the same namespace there match a spread constraint."""
    namespace = pod.key[0]
    return sum(
        1
        for other in place.pods.values()
        if other.key[0] == namespace and not other.is_deleting and found.selector.matches(other.labels)
    )
