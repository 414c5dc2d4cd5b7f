"""Say which of the Nodes a Pod could run on suits it best. Weights and formulas are those of kube-scheduler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from netplane.controlplane.scheduler import facts, filters, taints
from netplane.controlplane.scheduler.cluster import Cluster, Place

ZONE = "topology.kubernetes.io/zone"
HOSTNAME = "kubernetes.io/hostname"
_MEGABYTE = 1024 * 1024
Scores = list[float]


def best(cluster: Cluster, pod: facts.Pod, places: Sequence[Place]) -> Place:
    """Return the Node to take; of equals the one with fewest Pods, then the first by name."""
    if len(places) == 1:
        return places[0]
    total = [0.0] * len(places)
    for weight, score in SCORES:
        for index, value in enumerate(score(cluster, pod, places)):
            total[index] += weight * value
    ranked = sorted(range(len(places)), key=lambda at: (-total[at], len(places[at].pods), places[at].node.name))
    return places[ranked[0]]


def _resources(cluster: Cluster, pod: facts.Pod, places: Sequence[Place]) -> Scores:
    """Least allocated and balanced allocation together: both look at the same two fractions."""
    scores = []
    for place in places:
        free = place.node.allocatable
        cpu, memory = free.get(facts.CPU, 0), free.get(facts.MEMORY, 0)
        if not cpu or not memory:
            scores.append(0.0)
            continue
        cpu_share = min(1.0, (place.scored_cpu + pod.scored[0]) / cpu)
        memory_share = min(1.0, (place.scored_memory + pod.scored[1]) / memory)
        least = 100 - 50 * (cpu_share + memory_share)
        scores.append(least + 100 - 50 * abs(cpu_share - memory_share))
    return scores


def _wished(cluster: Cluster, pod: facts.Pod, places: Sequence[Place]) -> Scores:
    if not pod.demand.wishes:
        return []
    return _normal([float(pod.demand.liking(place.node.labels, place.node.name)) for place in places])


def _soft_taints(cluster: Cluster, pod: facts.Pod, places: Sequence[Place]) -> Scores:
    if not any(place.node.taints for place in places):
        return []
    return _reversed([float(_intolerable(pod, place)) for place in places])


def _intolerable(pod: facts.Pod, place: Place) -> int:
    return sum(
        taints.untolerated(pod.tolerations, (taint,), ("PreferNoSchedule",)) is not None for taint in place.node.taints
    )


def _siblings(cluster: Cluster, pod: facts.Pod, places: Sequence[Place]) -> Scores:
    """Spread Pods of one owner over Nodes and zones, or as the Pod's own soft constraints say."""
    soft = [found for found in pod.spread if not found.is_hard]
    if soft:
        return _softly(pod, places, soft)
    if not pod.owner or pod.spread:
        return []
    counts = [place.owners[pod.owner] for place in places]
    if not any(counts):
        return []
    zones: Counter[str] = Counter()
    for place, count in zip(places, counts, strict=True):
        zones[place.node.labels.get(ZONE, "")] += count
    by_zone = _reversed([float(zones[place.node.labels.get(ZONE, "")]) for place in places])
    by_node = _reversed([float(count) for count in counts])
    return [(node + zone) / 2 for node, zone in zip(by_node, by_zone, strict=True)] if len(zones) > 1 else by_node


def _softly(pod: facts.Pod, places: Sequence[Place], soft: list[facts.Spread]) -> Scores:
    total = [0.0] * len(places)
    for found in soft:
        counts: Counter[str | None] = Counter()
        for place in places:
            counts[place.node.labels.get(found.topology_key)] += filters.matching(place, pod, found)
        for index, place in enumerate(places):
            value = place.node.labels.get(found.topology_key)
            total[index] += counts[value] + found.max_skew - 1 if value is not None else 2 * sum(counts.values()) + 1
    return _reversed(total)


def _neighbours(cluster: Cluster, pod: facts.Pod, places: Sequence[Place]) -> Scores:
    """Follow the preferred affinities of this Pod, and those of the Pods already there towards it."""
    weights: Counter[filters.Domain] = Counter()
    for weight, term in pod.wishes:
        for place in cluster.places.values():
            value = place.node.labels.get(term.topology_key)
            if value is not None:
                number = sum(term.matches(other, cluster.namespaces) for other in place.pods.values())
                weights[term.topology_key, value] += weight * number
    for key, other in cluster.exclusive.items():
        found = cluster.places.get(cluster.node_of(key))
        for weight, term in (*other.wishes, *((1, term) for term in other.near)):
            value = found.node.labels.get(term.topology_key) if found else None
            if value is not None and term.matches(pod, cluster.namespaces):
                weights[term.topology_key, value] += weight
    if not any(weights.values()):
        return []
    raw = [sum(weights.get(pair, 0) for pair in place.node.labels.items()) for place in places]
    low = min(raw)
    return _normal([float(value - low) for value in raw])


def _images(cluster: Cluster, pod: facts.Pod, places: Sequence[Place]) -> Scores:
    if not any(place.node.images for place in places):
        return []
    least, most = 23 * _MEGABYTE, 1000 * _MEGABYTE * max(1, len(pod.images))
    scores = []
    for place in places:
        held = sum(place.node.images.get(name, 0) for name in pod.images)
        scores.append(100.0 * (min(max(held, least), most) - least) / (most - least))
    return scores


def _normal(raw: Scores) -> Scores:
    top = max(raw)
    return [100 * value / top for value in raw] if top else raw


def _reversed(raw: Scores) -> Scores:
    top = max(raw)
    return [100 - 100 * value / top for value in raw] if top else [100.0] * len(raw)


SCORES: tuple[tuple[int, Callable[[Cluster, facts.Pod, Sequence[Place]], Scores]], ...] = (
    (1, _resources),
    (1, _images),
    (2, _wished),
    (2, _siblings),
    (2, _neighbours),
    (3, _soft_taints),
)
