"""Compare two mappings by key: the one diff, used wherever what is wanted meets what is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Delta(Generic[K, V]):
    """What turns `have` into `want`. The values in `remove` are those of `have`, the others those of `want`."""

    add: dict[K, V]
    change: dict[K, V]
    remove: dict[K, V]

    def __bool__(self) -> bool:
        return bool(self.add or self.change or self.remove)


def diff(want: Mapping[K, V], have: Mapping[K, V]) -> Delta[K, V]:
    """Return what to add, change and remove, in the order of `want`, then of `have`; equal values are left alone."""
    add = {key: value for key, value in want.items() if key not in have}
    change = {key: value for key, value in want.items() if key in have and have[key] != value}
    remove = {key: value for key, value in have.items() if key not in want}
    return Delta(add, change, remove)
