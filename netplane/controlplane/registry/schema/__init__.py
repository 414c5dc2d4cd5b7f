"""The structure of the built-in types, from Kubernetes' own OpenAPI definitions."""

from __future__ import annotations

from functools import cache

from netplane.controlplane.registry.schema.definitions import Shapes, load
from netplane.controlplane.registry.types import ResourceType
from netplane.kube.shape import Shape


@cache
def shapes() -> Shapes:
    """Return the shapes of every definition, each compiled when it is first asked for."""
    return Shapes(load())


def shape_of(rt: ResourceType) -> Shape:
    """Return the shape of a type's objects."""
    return rt.shape if rt.shape is not None else _defined(rt.definition)


@cache
def _defined(name: str) -> Shape:
    return shapes().of(name)
