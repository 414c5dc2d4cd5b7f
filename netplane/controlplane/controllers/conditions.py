"""Set, drop and compare status conditions without touching the status that is given."""

from __future__ import annotations

from datetime import datetime

from netplane.kube.types import Object
from netplane.lib import timestamp


def find(status: Object, kind: str) -> Object | None:
    """Return the condition of that type, or None."""
    for found in status.get("conditions") or ():
        if found["type"] == kind:
            return dict(found)
    return None


def without(status: Object, kind: str) -> Object:
    """Return the status without the condition of that type."""
    if find(status, kind) is None:
        return status
    return {**status, "conditions": [found for found in status["conditions"] if found["type"] != kind]}


def put(status: Object, condition: Object) -> Object:
    """Return the status with this condition in the place of the one of its type."""
    held = list(status.get("conditions") or ())
    for index, found in enumerate(held):
        if found["type"] == condition["type"]:
            held[index] = condition
            return {**status, "conditions": held}
    return {**status, "conditions": [*held, condition]}


def make(kind: str, status: str, reason: str, message: str, now: datetime) -> Object:
    """Return a condition that came true (or untrue) now."""
    return {
        "type": kind,
        "status": status,
        "lastTransitionTime": timestamp.rfc3339(now),
        "reason": reason,
        "message": message,
    }


def ensure(status: Object, kind: str, value: str, reason: str, message: str, now: datetime) -> Object:
    """Return the status in which this condition holds; its transition time stays when its status does."""
    new = make(kind, value, reason, message, now)
    old = find(status, kind)
    if old is not None and old.get("status") == value:
        new["lastTransitionTime"] = old.get("lastTransitionTime", new["lastTransitionTime"])
        if all(old.get(name) == new[name] for name in ("reason", "message")):
            return status
    return put(status, new)


def same(one: Object, other: Object) -> bool:
    """Say whether two statuses say the same: absent, null, zero and empty are one."""
    return _solid(one) == _solid(other)


def _solid(status: Object) -> Object:
    return {name: value for name, value in status.items() if value not in (None, 0, "", [], {})}
