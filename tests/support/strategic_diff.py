"""Make strategic merge patches as kubectl does: by comparing two objects (CreateTwoWayMergePatch)."""

from __future__ import annotations

from typing import Any

from netplane.kube.patch.merge import equal
from netplane.kube.shape import Shape


def two_way(original: dict[str, Any], modified: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """Return the patch that turns `original` into `modified`, with every directive kubectl would write."""
    patch: dict[str, Any] = {key: None for key in original if key not in modified}
    for key, value in modified.items():
        if key not in original:
            patch[key] = value
        elif not equal(original[key], value):
            _differing(patch, key, original[key], value, shape.child(key))
    if "retainKeys" in shape.strategies and patch:
        patch["$retainKeys"] = sorted(modified)
    return patch


def three_way(
    original: dict[str, Any], modified: dict[str, Any], current: dict[str, Any], shape: Shape
) -> dict[str, Any]:
    """Return kubectl apply's patch: what `modified` adds or changes, and what it no longer has of `original`."""
    return _joined(
        _without_deletions(two_way(current, modified, shape)), _deletions(two_way(original, modified, shape))
    )


def _differing(patch: dict[str, Any], key: str, old: Any, new: Any, shape: Shape) -> None:
    if isinstance(old, dict) and isinstance(new, dict):
        patch[key] = two_way(old, new, shape)
    elif isinstance(old, list) and isinstance(new, list) and "merge" in shape.strategies:
        _lists(patch, key, old, new, shape)
    else:
        patch[key] = new


def _lists(patch: dict[str, Any], key: str, old: list[Any], new: list[Any], shape: Shape) -> None:
    if not shape.merge_key:
        added = [each for each in new if each not in old]
        removed = [each for each in old if each not in new]
        if added:
            patch[key] = added
        if removed:
            patch[f"$deleteFromPrimitiveList/{key}"] = removed
        patch[f"$setElementOrder/{key}"] = new
        return
    name = shape.merge_key
    before = {each[name]: each for each in old}
    after = {each[name]: each for each in new}
    items: list[Any] = []
    for value, item in after.items():
        if value not in before:
            items.append(item)
        elif before[value] != item:
            items.append({**two_way(before[value], item, shape.item), name: value})
    items += [{"$patch": "delete", name: value} for value in before if value not in after]
    if items:
        patch[key] = items
    patch[f"$setElementOrder/{key}"] = [{name: value} for value in after]


def _without_deletions(patch: Any) -> Any:
    if isinstance(patch, dict):
        return {
            key: _without_deletions(value)
            for key, value in patch.items()
            if value is not None and not key.startswith("$deleteFrom") and key != "$retainKeys"
        }
    if isinstance(patch, list):
        return [
            _without_deletions(each)
            for each in patch
            if not (isinstance(each, dict) and each.get("$patch") == "delete")
        ]
    return patch


def _deletions(patch: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in patch.items():
        if value is None or key.startswith("$deleteFrom"):
            kept[key] = value
        elif isinstance(value, dict):
            below = _deletions(value)
            if below:
                kept[key] = below
        elif isinstance(value, list) and not key.startswith("$"):
            items = [each for each in map(_item_deletions, value) if each]
            if items:
                kept[key] = items
    return kept


def _item_deletions(item: Any) -> Any:
    if not isinstance(item, dict):
        return None
    if item.get("$patch") == "delete":
        return item
    below = _deletions(item)
    named = {key: value for key, value in item.items() if key in ("name", "containerPort", "mountPath", "ip")}
    return {**below, **named} if below else None


def _joined(patch: dict[str, Any], deletions: dict[str, Any]) -> dict[str, Any]:
    joined = dict(patch)
    for key, value in deletions.items():
        if isinstance(value, dict) and isinstance(joined.get(key), dict):
            joined[key] = _joined(joined[key], value)
        elif isinstance(value, list) and isinstance(joined.get(key), list) and not key.startswith("$"):
            joined[key] = [*joined[key], *value]
        else:
            joined.setdefault(key, value)
    return joined
