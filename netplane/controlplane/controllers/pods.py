"""Tell what state a Pod is in, and which of several to delete first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta

from netplane.kube import meta
from netplane.kube.types import Object
from netplane.lib import timestamp

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"


def phase(pod: Object) -> str:
    """Return the phase; a Pod without status is Pending."""
    return str(pod.get("status", {}).get("phase") or "Pending")


def is_terminal(pod: Object) -> bool:
    """Say whether all its containers have ended for good."""
    return phase(pod) in ("Succeeded", "Failed")


def is_active(pod: Object) -> bool:
    """Say whether the Pod counts towards its owner's replicas."""
    return not is_terminal(pod) and not meta.is_deleting(pod)


def is_ready(pod: Object) -> bool:
    """Say whether the Pod's Ready condition is True."""
    return meta.is_condition_true(pod, "Ready")


def available_in(pod: Object, min_ready_seconds: int, now: datetime) -> float | None:
    """Return the seconds until the Pod counts as available (0 = it does), None while it is not ready."""
    found = meta.condition(pod, "Ready")
    if found is None or found.get("status") != "True":
        return None
    if min_ready_seconds == 0:
        return 0.0
    since = found.get("lastTransitionTime")
    if not since:
        return float(min_ready_seconds)
    due = timestamp.parse(since) + timedelta(seconds=min_ready_seconds)
    return max(0.0, (due - now).total_seconds())


def waits(pods: Iterable[Object], min_ready_seconds: int, now: datetime) -> tuple[int, float | None]:
    """Return how many Pods are available, and after how many seconds the next one will be (None: no one waits)."""
    times = [available_in(pod, min_ready_seconds, now) for pod in pods]
    later = [seconds for seconds in times if seconds]
    return sum(1 for seconds in times if seconds == 0.0), min(later) if later else None


def deletion_order(pods: Iterable[Object], neighbours: Iterable[Object], now: datetime) -> list[Object]:
    """Sort Pods so that those to be deleted come first, as ReplicaSets do (ActivePodsWithRanks).

    Unscheduled, pending, not ready, cheap (pod-deletion-cost), doubled up on a Node with `neighbours` (active Pods of
    the same controller family), ready for a shorter time (by powers of two), restarted more often, newer.
    """
    crowd = Counter(pod["spec"].get("nodeName", "") for pod in neighbours if is_active(pod))

    def rank(pod: Object) -> tuple[object, ...]:
        node = pod["spec"].get("nodeName") or ""
        ready = is_ready(pod)
        return (
            bool(node),
            {"Pending": 0, "Unknown": 1}.get(phase(pod), 2),
            ready,
            _cost(pod),
            -crowd[node],
            _ready_age(pod, now) if ready else 0,
            -_restarts(pod),
            _newest_first(pod, now),
            pod["metadata"]["name"],
        )

    return sorted(pods, key=rank)


def _restarts(pod: Object) -> int:
    statuses = pod.get("status", {}).get("containerStatuses") or ()
    return max((int(status.get("restartCount") or 0) for status in statuses), default=0)


def _cost(pod: Object) -> int:
    try:
        return int((pod["metadata"].get("annotations") or {}).get(DELETION_COST, "0"))
    except ValueError:
        return 0


def _ready_age(pod: Object, now: datetime) -> int:
    found = meta.condition(pod, "Ready") or {}
    since = found.get("lastTransitionTime")
    return _power(now, since) if since else 0


def _newest_first(pod: Object, now: datetime) -> int:
    since = pod["metadata"].get("creationTimestamp")
    return _power(now, since) if since else 0


def _power(now: datetime, since: str) -> int:
    return max(0, int((now - timestamp.parse(since)).total_seconds())).bit_length()
