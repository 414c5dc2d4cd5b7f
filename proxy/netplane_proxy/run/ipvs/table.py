"""Keep the table beside IPVS as plan/ipvs says, and read what it holds.

Its set `about` says which text it was made of, and what the kernel's own listing of its rules hashes to: so a restart,
or a look after somebody else's change, knows whether the rules are whole.
"""

from __future__ import annotations

from collections.abc import Iterable

from netplane.kernel.errors import KernelError
from netplane.kernel.nft import diff
from netplane.kernel.nft.objects import Batch, Element, Set, command, u32
from netplane.kernel.nft.run import Kernel
from netplane_proxy.plan.forwarding import NodeFacts
from netplane_proxy.plan.ipvs import tables
from netplane_proxy.plan.ipvs.book import Pair
from netplane_proxy.plan.ipvs.tables import LAYOUTS, Layout

Seen = dict[Set, list[Element]]
"""The elements by set; a set that is not there is missing."""

_KEY = u32(1)


def observe(kernel: Kernel) -> Seen:
    """Read all sets that are there."""
    there = kernel.tables()
    seen: Seen = {}
    for sets in LAYOUTS.values():
        if sets.table not in there:
            continue
        for target in (sets.about, *sets.compiled):
            try:
                seen[target] = kernel.dump(target)
            except KernelError:
                continue  # of another version, or somebody deleted it: the table will be made anew
    return seen


def is_whole(kernel: Kernel, seen: Seen, sets: Layout, node: NodeFacts) -> bool:
    """Tell whether a table has the rules it should have."""
    return any(element.comment == _about(kernel, sets, node) for element in seen.get(sets.about, ()))


async def load(kernel: Kernel, seen: Seen, sets: Layout, node: NodeFacts, elements: Iterable[Pair]) -> None:
    """Make a table with its elements, in place of whatever is there, in one transaction."""
    fill = [pair for pair in elements if pair[0].table == sets.table]
    text = tables.text(sets, node)
    if sets.table in kernel.tables():
        lines = "".join(f"{command('add', *pair)}\n" for pair in fill)
        text = f"{removal(sets)}{text}{lines}"
    await kernel.load(text)
    for target in (sets.about, *sets.compiled):
        seen[target] = kernel.dump(target)


def removal(sets: Layout) -> str:
    """Print what removes a table whether it is there or not."""
    return f"table {sets.table} {{}}\ndelete table {sets.table}\n"


def sign(kernel: Kernel, sets: Layout, node: NodeFacts) -> None:
    """Write into a table what it is."""
    batch = Batch()
    batch.remove(sets.about, kernel.dump(sets.about))
    batch.add(sets.about, [Element(_KEY, None, _about(kernel, sets, node))])
    kernel.commit(batch)


def difference(seen: Seen, elements: Iterable[Pair]) -> Batch:
    """Return what makes the tables hold exactly these elements."""
    want: dict[Set, list[Element]] = {target: [] for sets in LAYOUTS.values() for target in sets.compiled}
    for target, element in elements:
        want[target].append(element)
    whole = Batch()
    parts = [diff.elements(target, wanted, seen.get(target, ())) for target, wanted in want.items()]
    for verb in ("remove", "add"):
        for part in parts:
            for done, target, changed in part.runs:
                if done == verb:
                    (whole.remove if verb == "remove" else whole.add)(target, changed)
    return whole


def batch(removed: Iterable[Pair], added: Iterable[Pair]) -> Batch:
    """Return the transaction that removes elements and adds others."""
    made = Batch()
    for target, element in removed:
        made.remove(target, [element])
    for target, element in added:
        made.add(target, [element])
    return made


def _about(kernel: Kernel, sets: Layout, node: NodeFacts) -> str:
    return f"text={tables.digest(sets, node)} kernel={kernel.fingerprint(sets.table)}"
