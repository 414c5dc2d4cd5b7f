"""All resource types that are served, found by URL or by kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from netplane.controlplane.registry.crd import resource
from netplane.controlplane.registry.types import ResourceType
from netplane.kube.types import Object


class Registry:
    """All resource types that are served, found by URL or by kind. Immutable: `with_crd` returns another one."""

    __slots__ = ("_by_kind", "_by_plural", "_types")

    def __init__(self, types: Iterable[ResourceType]) -> None:
        self._types = tuple(types)
        self._by_plural = {(t.group, t.version, t.plural): t for t in self._types}
        self._by_kind = {(t.group, t.version, t.kind): t for t in self._types}

    def find(self, group: str, version: str, plural: str) -> ResourceType | None:
        """Return the type served at this URL, None when there is none."""
        return self._by_plural.get((group, version, plural))

    def find_kind(self, group: str, version: str, kind: str) -> ResourceType | None:
        """Return the type of an object with this apiVersion and kind."""
        return self._by_kind.get((group, version, kind))

    def all(self) -> tuple[ResourceType, ...]:
        """Every type, in the order discovery shows them."""
        return self._types

    def group_versions(self) -> Mapping[tuple[str, str], tuple[ResourceType, ...]]:
        """(group, version) to its types, core first, preferred version of a group first."""
        by_version: dict[tuple[str, str], list[ResourceType]] = {}
        for each in self._types:
            by_version.setdefault((each.group, each.version), []).append(each)
        return MappingProxyType({key: tuple(value) for key, value in by_version.items()})

    def stored_types(self) -> tuple[ResourceType, ...]:
        """The types whose objects the store keeps, one for each stored resource."""
        return tuple(t for t in self._types if t.is_stored and t.is_storage)

    def with_types(self, types: Iterable[ResourceType]) -> Registry:
        """Return a registry that serves these too, in place of those at the same URL."""
        added = {(t.group, t.version, t.plural): t for t in types}
        kept = [t for t in self._types if (t.group, t.version, t.plural) not in added]
        return Registry([*kept, *added.values()])

    def with_crd(self, crd: Object) -> Registry:
        """Return a registry that serves the CustomResourceDefinition's versions, and no version it no longer serves.

        What is built in stays: a definition of the same name is served by nobody.
        """
        own = {(each.group, each.plural) for each in self._types if each.crd is None}
        added = [each for each in resource.types(crd) if (each.group, each.plural) not in own]
        return self.without_crd(crd["metadata"]["name"]).with_types(added)

    def without_crd(self, name: str) -> Registry:
        """Return a registry without the types of the named CustomResourceDefinition."""
        return Registry([t for t in self._types if t.crd is None or t.crd["metadata"]["name"] != name])
