"""What objects of a type are made of: fields, lists and their keys. Patches, apply and decoding go by it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal[
    "object", "map", "list", "string", "integer", "number", "boolean",
    "quantity", "int-or-string", "time", "micro-time", "bytes", "any",
]  # fmt: skip
ListType = Literal["atomic", "set", "map"]


@dataclass(slots=True, eq=False, kw_only=True)
class Shape:
    """One node of a type's structure, made of an OpenAPI schema with the x-kubernetes extensions.

    An `object` has named `fields`, a `map` has `items` for every key, a `list` has `items`. Types may contain
    themselves, so shapes are a graph: never walk one without an object at hand. `list_type`, `list_keys` and
    `is_atomic` are server-side apply's; `merge_key` and `strategies` are strategic merge's.
    `is_open` keeps fields that the shape does not name.
    """

    kind: Kind
    name: str = ""
    fields: dict[str, Shape] = field(default_factory=dict)
    items: Shape | None = None
    required: frozenset[str] = frozenset()
    list_type: ListType = "atomic"
    list_keys: tuple[str, ...] = ()
    key_defaults: dict[str, Any] = field(default_factory=dict)
    is_atomic: bool = False
    merge_key: str = ""
    strategies: frozenset[str] = frozenset()
    is_open: bool = False
    format: str = ""

    def child(self, name: str) -> Shape:
        """Return the shape of a field or map value; `ANY` when the shape does not know it."""
        if self.kind == "object":
            return self.fields.get(name, ANY)
        return self.items or ANY

    @property
    def item(self) -> Shape:
        """The shape of a list's items or a map's values."""
        return self.items or ANY


ANY = Shape(kind="any", is_open=True)
"""Untyped: maps inside it merge by key, lists are one value."""
