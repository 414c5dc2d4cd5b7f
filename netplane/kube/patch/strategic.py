"""Strategic merge patch: lists merge by the keys of their items, directives say what else to do.

As in k8s.io/apimachinery/pkg/util/strategicpatch:
- `$patch: delete|replace|merge` in a map or a list item; `$retainKeys: [..]` keeps only these keys of a map;
- `$setElementOrder/LIST: [..]` orders a merged list; `$deleteFromPrimitiveList/LIST: [..]` removes values.
Lists that have no merge strategy are replaced.
"""

from __future__ import annotations

from typing import Any

from netplane.kube.patch.errors import PatchError
from netplane.kube.patch.merge import equal
from netplane.kube.shape import Shape

_DIRECTIVE = "$patch"
_RETAIN = "$retainKeys"
_ORDER = "$setElementOrder/"
_DELETE = "$deleteFromPrimitiveList/"


def apply(document: dict[str, Any], patch: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """Return the document with the patch merged in, by the strategies of its shape. Raises PatchError."""
    return _map(document, patch, shape)


def _map(original: dict[str, Any], patch: dict[str, Any], shape: Shape) -> dict[str, Any]:
    directive = patch.get(_DIRECTIVE)
    if directive == "replace":
        return _map({}, {key: value for key, value in patch.items() if key != _DIRECTIVE}, shape)
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise PatchError(f"Unknown patch type found: {directive}", is_malformed=True)
    result = _retained(original, patch)
    orders = {key[len(_ORDER) :]: value for key, value in patch.items() if key.startswith(_ORDER)}
    for key, value in patch.items():
        if key.startswith(_DELETE):
            _delete_values(result, key[len(_DELETE) :], value)
        elif key in (_DIRECTIVE, _RETAIN) or key.startswith(_ORDER):
            continue
        elif value is None:
            result.pop(key, None)
        else:
            result[key] = _value(result.get(key), value, shape.child(key), orders.pop(key, None), key)
    for key, order in orders.items():
        if isinstance(result.get(key), list):
            result[key] = _ordered(result[key], order, shape.child(key), patch_items=[])
    return result


def _retained(original: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    retained = patch.get(_RETAIN)
    if retained is None:
        return dict(original)
    if not isinstance(retained, list):
        raise PatchError("invalid patch format of retainKeys", is_malformed=True)
    return {key: value for key, value in original.items() if key in retained}


def _value(original: Any, value: Any, shape: Shape, order: Any, key: str) -> Any:
    if isinstance(value, dict):
        # A RawExtension and the like are merged as JSON maps too; lists in them are replaced.
        return _map(original if isinstance(original, dict) else {}, value, shape)
    if isinstance(value, list):
        if "merge" not in shape.strategies:
            return [_new(each, shape.item) for each in value if not _is_directive(each)]
        return _list(original if isinstance(original, list) else [], value, shape, order, key)
    return value


def _new(value: Any, shape: Shape) -> Any:
    """Strip the directives from a value that is added where nothing was."""
    if isinstance(value, dict):
        return _map({}, {k: v for k, v in value.items() if k != _DIRECTIVE or v != "delete"}, shape)
    if isinstance(value, list):
        return [_new(each, shape.item) for each in value if not _is_directive(each)]
    return value


def _is_directive(item: Any) -> bool:
    return isinstance(item, dict) and _DIRECTIVE in item and len(item) == 1


def _list(original: list[Any], patch: list[Any], shape: Shape, order: Any, name: str) -> list[Any]:
    if any(isinstance(each, dict) and each == {_DIRECTIVE: "replace"} for each in patch):
        return [_new(each, shape.item) for each in patch if not _is_directive(each)]
    if not shape.merge_key:
        merged = original + [each for each in patch if not any(equal(each, have) for have in original)]
        merged = _unique(merged)
        return _ordered(merged, order, shape, patch_items=patch) if order is not None else merged
    merged = _merged(original, patch, shape, name)
    return _ordered(merged, order, shape, patch_items=patch) if order is not None else merged


def _go_map(item: dict[str, Any]) -> str:
    """Return a map as Go prints it: `map[image:nginx]`."""

    def text(value: Any) -> str:
        if isinstance(value, dict):
            return _go_map(value)
        if isinstance(value, list):
            return f"[{' '.join(map(text, value))}]"
        return "<nil>" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

    return f"map[{' '.join(f'{key}:{text(item[key])}' for key in sorted(item))}]"


def _merged(original: list[Any], patch: list[Any], shape: Shape, name: str) -> list[Any]:
    merged = list(original)
    for item in patch:
        if not isinstance(item, dict):
            raise PatchError(f"list {name} cannot contain {item!r}: its items are maps", is_malformed=True)
        key = item.get(shape.merge_key)
        if key is None:
            raise PatchError(f"map: {_go_map(item)} does not contain declared merge key: {shape.merge_key}")
        index = _index(merged, shape.merge_key, key)
        directive = item.get(_DIRECTIVE)
        if directive == "delete":
            merged = [each for each in merged if not (isinstance(each, dict) and each.get(shape.merge_key) == key)]
        elif index is None:
            merged.append(_new(item, shape.item))
        else:
            merged[index] = _map(merged[index], item, shape.item)
    return merged


def _index(items: list[Any], merge_key: str, key: Any) -> int | None:
    found = (index for index, each in enumerate(items) if isinstance(each, dict) and equal(each.get(merge_key), key))
    return next(found, None)


def _unique(values: list[Any]) -> list[Any]:
    unique: list[Any] = []
    for each in values:
        if not any(equal(each, have) for have in unique):
            unique.append(each)
    return unique


def _delete_values(result: dict[str, Any], name: str, values: Any) -> None:
    if not isinstance(values, list):
        raise PatchError(f"invalid patch format of {_DELETE}{name}", is_malformed=True)
    if isinstance(result.get(name), list):
        result[name] = [each for each in result[name] if not any(equal(each, value) for value in values)]


def _ordered(items: list[Any], order: Any, shape: Shape, *, patch_items: list[Any]) -> list[Any]:
    """Return the items in the given order; those that only the server has keep their place relative to each other.

    An item which the order does not name stays behind the item that stood before it.
    """
    if not isinstance(order, list):
        raise PatchError("invalid patch format of setElementOrder", is_malformed=True)
    wanted = [_identity(each, shape) for each in order]
    _must_be_in_order(patch_items, wanted, shape)
    ranked = {value: rank for rank, value in enumerate(wanted)}
    named = sorted(
        (each for each in items if _identity(each, shape) in ranked), key=lambda e: ranked[_identity(e, shape)]
    )
    result: list[Any] = []
    pending = iter(named)
    followers = _followers(items, ranked, shape)
    result += followers.get(None, [])
    for each in pending:
        result.append(each)
        result += followers.get(_identity(each, shape), [])
    return result


def _followers(items: list[Any], ranked: dict[Any, int], shape: Shape) -> dict[Any, list[Any]]:
    """Named item (None for the start) to the unnamed items that stand right behind it."""
    followers: dict[Any, list[Any]] = {}
    last: Any = None
    for each in items:
        identity = _identity(each, shape)
        if identity in ranked:
            last = identity
        else:
            followers.setdefault(last, []).append(each)
    return followers


def _must_be_in_order(patch_items: list[Any], wanted: list[Any], shape: Shape) -> None:
    named = [_identity(each, shape) for each in patch_items if not (isinstance(each, dict) and each.get(_DIRECTIVE))]
    missing = [each for each in named if each not in wanted]
    if missing:
        raise PatchError(f"The items in the patch list must be present in $setElementOrder: {missing[0]!r} is not")


def _identity(item: Any, shape: Shape) -> Any:
    value = item.get(shape.merge_key) if shape.merge_key and isinstance(item, dict) else item
    return repr(value) if isinstance(value, (dict, list)) else (type(value).__name__, value)
