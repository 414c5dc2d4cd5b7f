"""Sets of fields: what an object has, and how `managedFields` writes it down (FieldsV1).

A path is a tuple of steps as FieldsV1 spells them: `f:NAME` a field or map key, `k:{"name":"web"}` the list item with
these keys, `v:"x"` the value of a set. A list item is a member of the set itself, as are entries of maps.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import orjson

from netplane.kube.known import Known
from netplane.kube.shape import ANY, Shape

Path = tuple[str, ...]
Fields = frozenset[Path]

CONTAINER = object()
"""Stands for the value of a path that has others beneath it."""

_WALKED = frozenset({"object", "map", "any"})
_SORTED = orjson.OPT_SORT_KEYS


def of(obj: Any, shape: Shape) -> dict[Path, Any]:
    """Return every field of an object with its value; list items and map entries that hold fields have CONTAINER."""
    found: dict[Path, Any] = {}
    _walk(obj, shape, (), found)
    return found


def _walk(value: Any, shape: Shape, path: Path, found: dict[Path, Any]) -> None:
    if isinstance(value, dict) and not shape.is_atomic and shape.kind in ("object", "map", "any"):
        if not value and path:
            found[path] = value
        for key, each in value.items():
            child = (*path, "f:" + key)
            if shape.kind != "object" or key not in shape.fields:
                found[child] = CONTAINER
            _walk(each, shape.child(key), child, found)
    elif isinstance(value, list) and shape.list_type != "atomic":
        for each in value:
            child = (*path, item_step(each, shape))
            found[child] = CONTAINER if isinstance(each, dict) else each
            if isinstance(each, dict):
                _walk(each, shape.item, child, found)
    else:
        found[path] = value


def item_step(item: Any, shape: Shape) -> str:
    """Return the step that names a list's item: its keys' values, or the value itself."""
    if shape.list_type == "map" and isinstance(item, dict):
        keys = {key: item.get(key, shape.key_defaults.get(key)) for key in shape.list_keys}
        present = {key: value for key, value in keys.items() if value is not None}
        return "k:" + orjson.dumps(present, option=_SORTED).decode()
    return "v:" + orjson.dumps(item, option=_SORTED).decode()


def tree(obj: Any, shape: Shape, *, is_member: bool = True) -> dict[str, Any] | None:
    """Return `dump(of(obj, shape))` at once, None when nothing of it is a member: what a create costs is this.

    `is_member` says whether the value's own path is one, as that of an entry of a map or of a list's item.
    """
    if isinstance(obj, dict) and not shape.is_atomic and shape.kind in _WALKED:
        if not obj:
            return {}
        names = shape.fields if shape.kind == "object" else ()
        steps = {"f:" + key: tree(obj[key], shape.child(key), is_member=key not in names) for key in sorted(obj)}
    elif isinstance(obj, list) and shape.list_type != "atomic":
        steps = _item_trees(obj, shape)
    else:
        return {}
    below = {step: node for step, node in steps.items() if node is not None}
    if not below:
        return {} if is_member else None
    return {".": {}, **below} if is_member else below


def tree_of_new(obj: dict[str, Any], shape: Shape) -> Known | None:
    """Return the tree of what was made with a `spec`, remembered: a template makes the same again and again.

    None when the spec has other fields than its shape names.
    """
    spec = obj["spec"]
    if spec.__class__ is Known:
        text: bytes = spec.text
    elif _is_plain(spec, shape.child("spec")):
        text = orjson.dumps(spec)
    else:
        return None
    return _remembered_whole(orjson.dumps({**obj, "spec": None}), text, shape)


def _is_plain(spec: Any, shape: Shape) -> bool:
    named = isinstance(spec, dict) and shape.kind == "object" and shape.fields.keys() >= spec.keys()
    return named and not shape.is_atomic


@lru_cache(256)
def _remembered_whole(rest: bytes, text: bytes, shape: Shape) -> Known | None:
    spec, of_spec = orjson.loads(text), shape.child("spec")
    if not _is_plain(spec, of_spec):
        return None
    steps = {name: _remembered(orjson.dumps(spec[name]), of_spec.child(name)) for name in sorted(spec)}
    below = {"f:" + name: node for name, node in steps.items() if node is not None}
    around = tree(orjson.loads(rest), shape, is_member=False) or {}
    whole = {step: below if step == "f:spec" else node for step, node in around.items() if below or step != "f:spec"}
    return Known(whole, orjson.dumps(whole))


@lru_cache(512)
def _remembered(part: bytes, shape: Shape) -> dict[str, Any] | None:
    return tree(orjson.loads(part), shape, is_member=False)


def _item_trees(items: list[Any], shape: Shape) -> dict[str, dict[str, Any] | None]:
    found: dict[str, dict[str, Any] | None] = {}
    for each in items:
        step, node = item_step(each, shape), tree(each, shape.item) if isinstance(each, dict) else {}
        found[step] = node if step not in found else _united(found[step] or {}, node or {})
    return dict(sorted(found.items()))


def _united(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    out = dict(one)
    for step, node in other.items():
        out[step] = _united(out[step], node) if step in out else node
    return dict(sorted(out.items()))


def dump(fields: Iterable[Path]) -> dict[str, Any]:
    """Return the FieldsV1 of a set: nested maps, `.` for a path that is a member and has members beneath it."""
    tree: dict[str, Any] = {}
    for path in sorted(fields):
        node = tree
        for step in path:
            node = node.setdefault(step, {})
        node["."] = {}
    return _without_lonely_dots(tree)


def _without_lonely_dots(node: dict[str, Any]) -> dict[str, Any]:
    if node.keys() == {"."}:
        return {}
    return {step: {} if step == "." else _without_lonely_dots(child) for step, child in sorted(node.items())}


def load(tree: Any) -> Fields:
    """Return the set that a FieldsV1 writes down. Raises ValueError when it is none."""
    found: set[Path] = set()
    _load(tree, (), found)
    return frozenset(found)


def _load(node: Any, path: Path, found: set[Path]) -> None:
    if not isinstance(node, dict):
        raise ValueError(f"FieldsV1 holds {node!r} at {text(path)}")
    if not node and path:
        found.add(path)
    for step, child in node.items():
        if step == ".":
            found.add(path)
        elif step[:2] in ("f:", "k:", "v:", "i:"):
            _load(child, (*path, step), found)
        else:
            raise ValueError(f"FieldsV1 has the unknown step {step!r} at {text(path)}")


def text(path: Path) -> str:
    """Return a path as conflicts print it: `.spec.containers[name="web"].image`."""
    return "".join(_step_text(step) for step in path)


def _step_text(step: str) -> str:
    kind, rest = step[:2], step[2:]
    if kind == "f:":
        return f".{rest}"
    if kind == "v:":
        return f"[={rest}]"
    if kind == "i:":
        return f"[{rest}]"
    keys = orjson.loads(rest)
    return "[" + ",".join(f"{key}={orjson.dumps(value).decode()}" for key, value in keys.items()) + "]"


@lru_cache(1024)
def keys_of(step: str) -> Any:
    """Return what a `k:` or `v:` step names."""
    return orjson.loads(step[2:])


def shape_at(shape: Shape, step: str) -> Shape:
    """Return the shape one step down."""
    if step.startswith("f:"):
        return shape.child(step[2:]) if shape.kind in ("object", "map") else ANY
    return shape.item
