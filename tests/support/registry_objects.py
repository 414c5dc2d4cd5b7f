"""Objects and types for tests of the registry."""

from __future__ import annotations

import copy
from typing import Any

from netplane.controlplane.registry import builtin, strategy
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.types import ResourceType

NOW = "2026-01-01T00:00:00Z"


def type_of(name: str) -> ResourceType:
    """Return a type by `plural` or `plural.group`."""
    return next(rt for rt in builtin().all() if rt.resource.group_resource == name)


def made(rt: ResourceType, obj: dict[str, Any]) -> tuple[dict[str, Any], list[Fault]]:
    """Return the object as a create leaves it, and its faults."""
    new = copy.deepcopy(obj)
    new.setdefault("metadata", {}).setdefault("name", "it")
    outcome = strategy.read(rt, new)
    assert not outcome.error, outcome.error
    found = strategy.create(rt, new, namespace="default" if rt.namespaced else "", now=NOW, uid="uid-1")
    return new, found


def created(name: str, obj: dict[str, Any]) -> dict[str, Any]:
    """Return the object as a create leaves it; it must have no faults."""
    new, found = made(type_of(name), obj)
    assert not found, [str(each) for each in found]
    return new


def updated(name: str, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return the faults of a change."""
    return [str(each) for each in strategy.update(type_of(name), new, old)]


def pod(**spec: Any) -> dict[str, Any]:
    """A pod of one container."""
    return {"metadata": {"name": "web"}, "spec": {"containers": [{"name": "web", "image": "web:1"}], **spec}}


def deployment(**spec: Any) -> dict[str, Any]:
    """A deployment of that pod."""
    template = {"metadata": {"labels": {"app": "web"}}, "spec": pod()["spec"]}
    return {
        "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template, **spec},
    }
