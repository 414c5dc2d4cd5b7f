"""Random objects that fit a shape, and mean nothing."""

from __future__ import annotations

import random
from typing import Any

from netplane.kube.shape import Shape

_TEXTS = (
    "",
    "a",
    "web",
    "TCP",
    "None",
    "ClusterIP",
    "Always",
    "10.0.0.1",
    "10.0.0.0/8",
    "x/y",
    "Pod",
    "In",
    "Exists",
    "25%",
    "v1",
)
_TIMES = ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00+01:00")


def objects(shape: Shape, seed: int) -> dict[str, Any]:
    """Return an object with some of the shape's fields, the same for the same seed."""
    made: dict[str, Any] = _value(shape, random.Random(seed), 0)
    return made


def _value(shape: Shape, dice: random.Random, depth: int) -> Any:
    if shape.kind == "object":
        chance = 0.7 if depth < 3 else 0.35
        names = [name for name in shape.fields if dice.random() < chance] if depth < 9 else []
        names = names if len(names) < 8 or depth < 3 else dice.sample(names, 8)
        return {name: _value(shape.fields[name], dice, depth + 1) for name in names}
    if shape.kind == "map":
        return {dice.choice(_TEXTS): _value(shape.item, dice, depth + 1) for _ in range(dice.randrange(3))}
    if shape.kind == "list":
        return [_value(shape.item, dice, depth + 1) for _ in range(dice.randrange(3))] if depth < 9 else []
    return dice.choice(_SCALARS[shape.kind])


_SCALARS: dict[str, tuple[Any, ...]] = {
    "any": ({}, {"a": 1}),
    "string": _TEXTS,
    "integer": (0, 1, -1, 80, 70000),
    "number": (0, 1.5),
    "boolean": (True, False),
    "quantity": ("1", "500m", "-1", 2),
    "int-or-string": (0, 80, "http", "25%"),
    "time": _TIMES,
    "micro-time": _TIMES,
    "bytes": ("", "YQ=="),
}
