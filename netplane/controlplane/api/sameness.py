"""Say whether two objects say the same. Pure."""

from __future__ import annotations

from netplane.kube.types import Object


def same(new: Object, old: Object) -> bool:
    """Whether two objects say the same, the times in managedFields aside."""
    if new == old:
        return True
    if any(new.get(name) != old.get(name) for name in {*new, *old} - {"metadata"}):
        return False
    metadata, before = new["metadata"], old["metadata"]
    if any(metadata.get(name) != before.get(name) for name in {*metadata, *before} - {"managedFields"}):
        return False
    return _untimed(metadata.get("managedFields")) == _untimed(before.get("managedFields"))


def _untimed(managed: list[Object] | None) -> list[Object]:
    return [{name: value for name, value in entry.items() if name != "time"} for entry in managed or ()]
