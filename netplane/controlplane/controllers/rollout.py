"""Size the ReplicaSets of a Deployment: the arithmetic of rolling, recreating and scaling in proportion.

Sizes are `spec.replicas` by ReplicaSet name. Each function returns the sizes to have next; unchanged means no step is
possible now. After kubernetes/pkg/controller/deployment: rolling.go, recreate.go, sync.go, util/deployment_util.go.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from netplane.kube.types import Object

DESIRED = "deployment.kubernetes.io/desired-replicas"
MAXIMUM = "deployment.kubernetes.io/max-replicas"
Sizes = dict[str, int]


def name(replica_set: Object) -> str:
    """Return the name of a ReplicaSet: the key of `Sizes`."""
    return str(replica_set["metadata"]["name"])


def replicas(obj: Object) -> int:
    """Return `spec.replicas`, 1 when absent."""
    found = obj["spec"].get("replicas")
    return 1 if found is None else int(found)


def available(replica_sets: Iterable[Object]) -> int:
    """Return how many Pods of these ReplicaSets are available, by their status."""
    return sum(int((found.get("status") or {}).get("availableReplicas") or 0) for found in replica_sets)


def _standing(replica_set: Object) -> int:
    return int((replica_set.get("status") or {}).get("replicas") or 0)


def is_rolling(deployment: Object) -> bool:
    """Say whether the strategy is RollingUpdate, the default."""
    return bool((deployment["spec"].get("strategy") or {}).get("type", "RollingUpdate") == "RollingUpdate")


def limits(deployment: Object) -> tuple[int, int]:
    """Return (surge, unavailable) in Pods: surge rounds up, unavailable down, and both zero means one unavailable."""
    if not is_rolling(deployment):
        return 0, 0
    given = (deployment["spec"].get("strategy") or {}).get("rollingUpdate") or {}
    total = replicas(deployment)
    surge = scaled(given.get("maxSurge", "25%"), total, up=True)
    unavailable = scaled(given.get("maxUnavailable", "25%"), total, up=False)
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return surge, min(unavailable, total)


def scaled(value: int | str, total: int, *, up: bool) -> int:
    """Resolve an IntOrString against a total."""
    if isinstance(value, int):
        return value
    if not value.endswith("%"):
        return int(value)
    share = int(value[:-1]) * total
    return -(-share // 100) if up else share // 100


def new_size(deployment: Object, others: Iterable[Object], current: int) -> int:
    """Return how large the new ReplicaSet may be now, given that it has `current` replicas (NewRSNewReplicas).

    Stricter than upstream: a Pod that an old ReplicaSet was told to delete, but did not yet, still takes its place.
    """
    wanted = replicas(deployment)
    if not is_rolling(deployment):
        return wanted
    if current >= wanted:
        return wanted
    taken = current + sum(max(replicas(found), _standing(found)) for found in others)
    room = wanted + limits(deployment)[0] - taken
    return current + max(0, min(room, wanted - current))


def roll(deployment: Object, new: Object, old: Sequence[Object]) -> Sizes:
    """Return the sizes of the next step of a rolling update: first the new one up, then the old ones down."""
    sizes = {name(found): replicas(found) for found in (*old, new)}
    grown = new_size(deployment, old, replicas(new))
    if grown != replicas(new):
        return {**sizes, name(new): grown}
    return _shrink(deployment, new, [found for found in old if replicas(found)], sizes)


def _shrink(deployment: Object, new: Object, old: list[Object], sizes: Sizes) -> Sizes:
    least = replicas(deployment) - limits(deployment)[1]
    budget = sum(sizes.values()) - least - (replicas(new) - available([new]))
    if budget <= 0:
        return sizes
    sizes = dict(sizes)
    ordered = sorted(old, key=_age)
    for found in ordered:  # unhealthy ones first: they cost no availability, and would block the rollout
        unhealthy = min(budget, max(0, sizes[name(found)] - available([found])))
        sizes[name(found)] -= unhealthy
        budget -= unhealthy
    # The statuses may lag behind our own scaling, so what is left of the budget bounds what they promise.
    spare = min(budget, available([*old, new]) - least)
    for found in ordered:
        step = max(0, min(sizes[name(found)], spare))
        sizes[name(found)] -= step
        spare -= step
    return sizes


def rescale(deployment: Object, new: Object | None, old: Sequence[Object]) -> Sizes:
    """Return the sizes after `spec.replicas` changed in mid-rollout or while paused: each keeps its proportion."""
    everything = [*old, *([new] if new else [])]
    sizes = {name(found): replicas(found) for found in everything}
    wanted = replicas(deployment)
    active = [found for found in everything if replicas(found)]
    if len(active) <= 1:
        only = active[0] if active else new or max(old, key=_age, default=None)
        return sizes if only is None else {**sizes, name(only): wanted}
    if new is not None and _is_saturated(new, wanted):
        return {found: wanted if found == name(new) else 0 for found in sizes}
    if not is_rolling(deployment):
        return sizes
    return _proportional(deployment, active, sizes)


def _is_saturated(new: Object, wanted: int) -> bool:
    annotations = new["metadata"].get("annotations") or {}
    return replicas(new) == wanted == available([new]) and annotations.get(DESIRED) == str(wanted)


def _proportional(deployment: Object, active: list[Object], sizes: Sizes) -> Sizes:
    wanted = replicas(deployment)
    allowed = wanted + limits(deployment)[0] if wanted else 0
    to_add = allowed - sum(sizes.values())
    if to_add == 0:
        return sizes
    grows = to_add > 0
    ordered = sorted(active, key=_age, reverse=grows)  # on a tie the newer grows, the older shrinks
    ordered.sort(key=lambda found: -replicas(found))
    sizes, added = dict(sizes), 0
    for found in ordered:
        share = _fraction(deployment, found, allowed)
        left = to_add - added
        step = min(share, left) if grows else max(share, left)
        if (step > 0) == grows:
            sizes[name(found)] += step
            added += step
    first = name(ordered[0])
    sizes[first] = max(0, sizes[first] + to_add - added)
    return sizes


def _fraction(deployment: Object, replica_set: Object, allowed: int) -> int:
    size = replicas(replica_set)
    if replicas(deployment) == 0:
        return -size
    noted = (replica_set["metadata"].get("annotations") or {}).get(MAXIMUM)
    base = int(noted) if noted and noted.isdigit() and int(noted) else 0
    base = base or int((deployment.get("status") or {}).get("replicas") or 0)
    return math.floor(size * allowed / base + 0.5) - size if base else 0


def _age(replica_set: Object) -> tuple[str, str]:
    return replica_set["metadata"].get("creationTimestamp") or "", name(replica_set)
