"""Decide what a DELETE does to an object: nothing yet, a mark and a grace period, or its end. Pure.

After k8s.io/apiserver's registry/rest/delete.go and store.go: BeforeDelete, deletionFinalizersForGarbageCollection.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from netplane.controlplane.api import options
from netplane.kube.types import Object
from netplane.lib import timestamp

ORPHAN, FOREGROUND = "orphan", "foregroundDeletion"
_DEFAULT_POD_GRACE = 30
_LEAVING = frozenset({("batch/v1", "Job"), ("v1", "ReplicationController")})


@dataclass(frozen=True, slots=True)
class Decision:
    """The object as it must be written, and whether that is its end. `is_change` is False when nothing is written."""

    obj: Object
    is_removal: bool
    is_change: bool = True


def decide(kind: str, obj: Object, wanted: options.Deleting, *, now: datetime) -> Decision:
    """Return what happens to `obj` (owned by the caller, changed in place)."""
    metadata = obj["metadata"]
    before = (metadata.get("deletionTimestamp"), metadata.get("deletionGracePeriodSeconds"), _finalizers(obj))
    _choose_propagation(metadata, wanted.propagation or _default_propagation(obj))
    grace = _pod_grace(obj, wanted) if kind == "Pod" else 0
    if grace is None:
        return Decision(obj, is_removal=False, is_change=_finalizers(obj) != before[2])
    waits_for_namespace = kind == "Namespace" and bool((obj.get("spec") or {}).get("finalizers"))
    if not grace and not metadata.get("finalizers") and not waits_for_namespace:
        return Decision(obj, is_removal=True)
    _mark(obj, grace, now)
    if kind == "Namespace":
        obj.setdefault("status", {})["phase"] = "Terminating"
    after = (metadata.get("deletionTimestamp"), metadata.get("deletionGracePeriodSeconds"), _finalizers(obj))
    return Decision(obj, is_removal=False, is_change=after != before)


def is_over(kind: str, obj: Object) -> bool:
    """Whether an update has removed the last thing that a marked object was waiting for."""
    metadata = obj["metadata"]
    if not metadata.get("deletionTimestamp") or metadata.get("finalizers"):
        return False
    if kind == "Namespace" and (obj.get("spec") or {}).get("finalizers"):
        return False
    return not metadata.get("deletionGracePeriodSeconds")


def _finalizers(obj: Object) -> tuple[str, ...]:
    return tuple(obj["metadata"].get("finalizers") or ())


def leaves_dependents(api_version: str, kind: str) -> bool:
    """Whether what such objects own stays where a deletion does not say (DefaultGarbageCollectionPolicy)."""
    return (api_version, kind) in _LEAVING


def _default_propagation(obj: Object) -> str:
    if not leaves_dependents(obj.get("apiVersion", ""), obj.get("kind", "")):
        return ""
    return "" if {ORPHAN, FOREGROUND} & {*_finalizers(obj)} else "Orphan"


def _choose_propagation(metadata: Object, propagation: str) -> None:
    if not propagation:
        return
    kept = [name for name in metadata.get("finalizers") or () if name not in (ORPHAN, FOREGROUND)]
    if propagation == "Orphan":
        kept.append(ORPHAN)
    elif propagation == "Foreground":
        kept.append(FOREGROUND)
    metadata["finalizers"] = kept
    if not kept:
        del metadata["finalizers"]


def _pod_grace(pod: Object, wanted: options.Deleting) -> int | None:
    """Return the grace period in seconds, None when one that is no longer runs already."""
    spec, metadata = pod.get("spec") or {}, pod["metadata"]
    asked = wanted.grace_seconds
    grace = asked if asked is not None else spec.get("terminationGracePeriodSeconds", _DEFAULT_POD_GRACE)
    phase = (pod.get("status") or {}).get("phase")
    if not spec.get("nodeName") or phase in ("Succeeded", "Failed"):
        grace = 0
    if not metadata.get("deletionTimestamp"):
        return int(grace)
    running = metadata.get("deletionGracePeriodSeconds") or 0
    if asked is None and grace:
        return None
    return int(grace) if grace < running or not grace else None


def _mark(obj: Object, grace: int, now: datetime) -> None:
    metadata = obj["metadata"]
    if metadata.get("deletionTimestamp"):
        running = metadata.get("deletionGracePeriodSeconds") or 0
        if grace >= running:
            return
        # A shorter period counts from the first request, not from this one.
        asked_at = timestamp.parse(metadata["deletionTimestamp"]) - timedelta(seconds=running)
        metadata["deletionTimestamp"] = timestamp.rfc3339(asked_at + timedelta(seconds=grace))
    else:
        metadata["deletionTimestamp"] = timestamp.rfc3339(now + timedelta(seconds=grace))
        if metadata.get("generation"):
            metadata["generation"] += 1
    metadata["deletionGracePeriodSeconds"] = grace
