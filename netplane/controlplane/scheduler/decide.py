"""Choose a Node for a Pod. Binding it there is `run`'s."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from netplane.controlplane.scheduler import facts, filters, scores
from netplane.controlplane.scheduler.cluster import Cluster


@dataclass(frozen=True, slots=True)
class Placed:
    """The Node chosen."""

    node: str


@dataclass(frozen=True, slots=True)
class Unplaced:
    """Why no Node will do, in the words of `kubectl describe pod`."""

    message: str


def decide(cluster: Cluster, pod: facts.Pod) -> Placed | Unplaced:
    """Return the best Node for the Pod, or why there is none."""
    if not cluster.places:
        return Unplaced("no nodes available to schedule pods")
    known = filters.context(cluster, pod)
    fitting, objections = [], Counter[str]()
    only = pod.demand.only_node
    if only is not None and only in cluster.places:
        objections[filters.NO_AFFINITY] = len(cluster.places) - 1
        candidates = [cluster.places[only]]
    else:
        candidates = list(cluster.places.values())
    for place in candidates:
        reasons = filters.reasons(place, pod, known)
        if reasons:
            objections.update(reasons)
        else:
            fitting.append(place)
    if fitting:
        return Placed(scores.best(cluster, pod, fitting).node.name)
    told = ", ".join(sorted(f"{count} {reason}" for reason, count in objections.items() if count))
    return Unplaced(f"0/{len(cluster.places)} nodes are available: {told}.")
