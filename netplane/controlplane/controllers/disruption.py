"""Say how many Pods of each PodDisruptionBudget may be evicted now. Spending the budget is the API's, on eviction.

A Pod that the API has let go counts as gone until it is, for two minutes at most: then the eviction came to nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from netplane.controlplane.controllers import conditions, pods, rollout, writes
from netplane.controlplane.controllers.view import View, controller_uid
from netplane.kube import meta, select
from netplane.kube.types import PODDISRUPTIONBUDGETS, PODS, Key, Object
from netplane.lib import timestamp

EVICTION_SECONDS = 120.0


def decide(view: View, key: Key, now: datetime) -> Sequence[writes.Write]:
    """Return the budget's status, and when to look again at Pods that were to be evicted."""
    budget = view.get(PODDISRUPTIONBUDGETS, key)
    if budget is None or meta.is_deleting(budget):
        return ()
    mine = [pod for pod in view.all(PODS, key[0]) if protects(budget, pod)]
    leaving = _leaving(budget, mine, now)
    status = _status(budget, view, mine, leaving, now)
    todo: list[writes.Write] = []
    if not conditions.same(status, budget.get("status") or {}):
        todo.append(writes.UpdateStatus(PODDISRUPTIONBUDGETS, writes.with_status(budget, status)))
    if leaving:
        todo.append(writes.Requeue(max(0.1, min(_left(since, now) for since in leaving.values()))))
    return todo


def protects(budget: Object, pod: Object) -> bool:
    """Say whether the budget's selector meets the Pod's labels; an empty selector meets all, none meets nothing."""
    return select.matches(budget["spec"].get("selector"), meta.labels(pod))


def _status(budget: Object, view: View, mine: list[Object], leaving: dict[str, str], now: datetime) -> Object:
    expected, desired = _demand(budget["spec"], view, mine)
    healthy = sum(
        pods.is_ready(pod) and not meta.is_deleting(pod) and pod["metadata"]["name"] not in leaving for pod in mine
    )
    allowed = max(0, healthy - desired) if expected else 0
    status: Object = {
        "conditions": (budget.get("status") or {}).get("conditions") or [],
        "currentHealthy": healthy,
        "desiredHealthy": desired,
        "disruptionsAllowed": allowed,
        "expectedPods": expected,
        "observedGeneration": budget["metadata"].get("generation", 0),
    }
    if leaving:
        status["disruptedPods"] = leaving
    value, reason = ("True", "SufficientPods") if allowed else ("False", "InsufficientPods")
    return conditions.ensure(status, "DisruptionAllowed", value, reason, "", now)


def _demand(spec: Object, view: View, mine: list[Object]) -> tuple[int, int]:
    """Return (how many Pods there should be, how many must be healthy); shares round up."""
    if (most := spec.get("maxUnavailable")) is not None:
        expected = _scale(view, mine)
        return expected, max(0, expected - rollout.scaled(most, expected, up=True))
    least = spec.get("minAvailable", 1)
    expected = len(mine) if isinstance(least, int) else _scale(view, mine)
    return expected, rollout.scaled(least, expected, up=True)


def _scale(view: View, mine: Iterable[Object]) -> int:
    """Return the replicas that the Pods' controllers want in all. Pods without one do not count."""
    sizes: dict[str, int] = {}
    for pod in mine:
        top = _controller(view, controller_uid(pod))
        if top is not None:
            sizes[top["metadata"]["uid"]] = int(top["spec"].get("replicas", 1))
    return sum(sizes.values())


def _controller(view: View, uid: str) -> Object | None:
    """Return the topmost controller that has replicas: a ReplicaSet's Deployment rather than the ReplicaSet."""
    row = view.row_of(uid) if uid else None
    found = view.get(*row) if row else None
    if found is None or "spec" not in found:
        return None
    return _controller(view, controller_uid(found)) or found


def _leaving(budget: Object, mine: Iterable[Object], now: datetime) -> dict[str, str]:
    """Return the Pods whose eviction was granted and is not yet seen, with the time of the grant."""
    standing = {pod["metadata"]["name"] for pod in mine if not meta.is_deleting(pod)}
    granted = (budget.get("status") or {}).get("disruptedPods") or {}
    return {name: since for name, since in granted.items() if name in standing and _left(since, now) > 0}


def _left(since: str, now: datetime) -> float:
    return (timestamp.parse(since) + timedelta(seconds=EVICTION_SECONDS) - now).total_seconds()
