"""Compare the elements of a set: what turns those that are there into those wanted, as one batch."""

from __future__ import annotations

from collections.abc import Iterable

from netplane.kernel.nft.objects import Batch, Element, Set
from netplane.lib import keyed


def elements(target: Set, want: Iterable[Element], have: Iterable[Element]) -> Batch:
    """Return the batch that turns `have` into `want`: empty when they are equal, and the same for any order of either.

    An element that only changes is removed and added again: within a transaction no packet sees it missing.
    """
    delta = keyed.diff({e.key: e for e in sorted_by_key(want)}, {e.key: e for e in sorted_by_key(have)})
    former = {element.key: element for element in have if element.key in delta.change}
    batch = Batch()
    batch.remove(target, sorted_by_key((*delta.remove.values(), *former.values())))
    batch.add(target, sorted_by_key((*delta.add.values(), *delta.change.values())))
    return batch


def sorted_by_key(elements: Iterable[Element]) -> list[Element]:
    """Sort elements; data may be of kinds that do not compare."""
    return sorted(elements, key=lambda element: element.key)
