"""Say whether tolerations tolerate taints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Toleration = Mapping[str, Any]
Taint = Mapping[str, Any]


def tolerates(toleration: Toleration, taint: Taint) -> bool:
    """Say whether one toleration tolerates one taint: an empty effect, or key with Exists, stands for all."""
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("key") and toleration["key"] != taint.get("key"):
        return False
    if (toleration.get("operator") or "Equal") == "Exists":
        return True
    return bool(toleration.get("key")) and (toleration.get("value") or "") == (taint.get("value") or "")


def untolerated(tolerations: Iterable[Toleration], taints: Iterable[Taint], effects: Iterable[str]) -> Taint | None:
    """Return the first taint of these effects that nothing tolerates, or None."""
    wanted, given = frozenset(effects), tuple(tolerations)
    for taint in taints:
        if taint.get("effect") in wanted and not any(tolerates(found, taint) for found in given):
            return taint
    return None


def patience(tolerations: Iterable[Toleration], taint: Taint) -> float | None:
    """Return for how many seconds a NoExecute taint is tolerated: 0 not at all, None for ever."""
    matching = [found for found in tolerations if tolerates(found, taint)]
    if not matching:
        return 0.0
    limits = [max(0.0, float(found["tolerationSeconds"])) for found in matching if "tolerationSeconds" in found]
    return min(limits) if limits else None
