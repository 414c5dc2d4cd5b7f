"""Bring an applied configuration into an object, and take out what is applied no more."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from netplane.kube.apply import fields
from netplane.kube.apply.fields import Path
from netplane.kube.shape import Shape


def merge(live: Any, config: Any, shape: Shape) -> Any:
    """Return the live value with the configuration's values in it; lists merge by key where their type says so."""
    if isinstance(config, dict) and isinstance(live, dict) and not shape.is_atomic:
        result = dict(live)
        for key, value in config.items():
            result[key] = merge(live[key], value, shape.child(key)) if key in live else value
        return result
    if isinstance(config, list) and isinstance(live, list) and shape.list_type != "atomic":
        return _merge_lists(live, config, shape)
    return config


def _merge_lists(live: list[Any], config: list[Any], shape: Shape) -> list[Any]:
    """The configuration's order holds for its items; items of others stay where they stood among them."""
    kept = [(fields.item_step(each, shape), each) for each in live]
    given = {fields.item_step(each, shape): each for each in config}
    by_step = dict(kept)
    result: list[Any] = []
    done: set[str] = set()
    waiting = iter(given)
    following = next(waiting, None)
    for step, each in kept:
        if step in done:
            continue
        if step not in given:
            result.append(each)
            continue
        while following is not None and following not in done:
            result.append(_item(by_step, given, following, shape))
            done.add(following)
            if following == step:
                following = next(waiting, None)
                break
            following = next(waiting, None)
    while following is not None:
        result.append(_item(by_step, given, following, shape))
        following = next(waiting, None)
    return result


def _item(live: dict[str, Any], given: dict[str, Any], step: str, shape: Shape) -> Any:
    return merge(live[step], given[step], shape.item) if step in live else given[step]


def without(obj: Any, paths: Iterable[Path], shape: Shape) -> Any:
    """Return the object without the fields at these paths; maps and lists which that leaves empty go too."""
    tree: dict[str, Any] = {}
    for path in paths:
        node = tree
        for step in path[:-1]:
            node = node.setdefault(step, {})
            if node is _ALL:
                break
        else:
            node[path[-1]] = _ALL
    return _without(obj, tree, shape)


_ALL: dict[str, Any] = {}


def _without(value: Any, tree: dict[str, Any], shape: Shape) -> Any:
    if isinstance(value, dict):
        return _map_without(value, tree, shape)
    if isinstance(value, list) and shape.list_type != "atomic":
        return _list_without(value, tree, shape)
    return value


def _map_without(value: dict[str, Any], tree: dict[str, Any], shape: Shape) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, each in value.items():
        below = tree.get("f:" + key)
        if below is None:
            result[key] = each
        elif below is not _ALL:
            left = _without(each, below, shape.child(key))
            if left or not each or not isinstance(left, (dict, list)):
                result[key] = left
    return result


def _list_without(value: list[Any], tree: dict[str, Any], shape: Shape) -> list[Any]:
    result: list[Any] = []
    for each in value:
        below = tree.get(fields.item_step(each, shape))
        if below is None:
            result.append(each)
        elif below is not _ALL:
            result.append(_without(each, below, shape.item))
    return result
