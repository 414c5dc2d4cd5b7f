"""The resource types of the API as data: definition, defaults, validation, table columns. Serving them is `api`'s."""

from __future__ import annotations

from functools import cache

from netplane.controlplane.registry import groups
from netplane.controlplane.registry.catalog import Registry

__all__ = ["Registry", "builtin"]


@cache
def builtin() -> Registry:
    """Return the registry of all types that Kubernetes itself defines and netplane serves."""
    return Registry(groups.all_types())
