"""Keep the chains of both tables as the skeleton says, and read what the tables hold.

A set of each table, `about`, says of which frame and rules the table is, and what the kernel's own listing of the rules
hashes to. So a restart knows whether the rules are ours, of this version, and untouched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

from netplane.kernel.errors import KernelError
from netplane.kernel.nft.objects import Batch, Element, Table, u32
from netplane.kernel.nft.run import Kernel
from netplane.model.address import Family
from netplane_proxy.plan.nftables import skeleton
from netplane_proxy.plan.nftables.adopt import Observed
from netplane_proxy.plan.nftables.layout import LAYOUTS, TABLE, Layout
from netplane_proxy.plan.nftables.skeleton import Parameters

State = Literal["absent", "foreign", "stale", "ours"]
"""No table; one of another frame; ours with other rules; all as it should be."""

ASIDE = {family: Table(sets.table.family, f"{sets.table.name}_next") for family, sets in LAYOUTS.items()}
"""The tables that stand in while those of ours are exchanged."""

_KEY = u32(1)
_OWN_NAME = re.compile(rf"^((?:table|add element) ip6? {TABLE})\b", re.MULTILINE)


class About(NamedTuple):
    """What a table says of itself."""

    frame: str = ""
    rules: str = ""
    fingerprint: str = ""

    def __str__(self) -> str:
        """Print it as the comment that it is."""
        return f"frame={self.frame} rules={self.rules} kernel={self.fingerprint}"


def read_about(kernel: Kernel, sets: Layout) -> About | None:
    """Return what a table says of itself; None when there is no such table, empty when it says nothing."""
    if sets.table not in kernel.tables():
        return None
    try:
        found = [element for element in kernel.dump(sets.about) if element.key == _KEY]
    except KernelError:
        return About()
    words = dict(word.partition("=")[::2] for word in found[0].comment.split()) if found else {}
    return About(words.get("frame", ""), words.get("rules", ""), words.get("kernel", ""))


def is_adoptable(about: About | None, sets: Layout) -> bool:
    """Tell whether the table's sets are those of this version."""
    return about is not None and about.frame == skeleton.digest(skeleton.frame(sets))


def state(kernel: Kernel, about: About | None, sets: Layout, wanted: Parameters) -> State:
    """Compare a table's chains with those wanted."""
    if about is None:
        return "absent"
    if not is_adoptable(about, sets):
        return "foreign"
    is_ours = about.rules == _digest(sets, wanted) and about.fingerprint == kernel.fingerprint(sets.table)
    return "ours" if is_ours else "stale"


def _digest(sets: Layout, wanted: Parameters) -> str:
    return skeleton.digest(skeleton.text(sets, wanted))


def observe(kernel: Kernel, about: Mapping[Family, About | None]) -> Observed:
    """Read all that can be adopted: nothing of a table of another frame, or of one that lost a set."""
    seen = Observed()
    for family, sets in LAYOUTS.items():
        if not is_adoptable(about[family], sets):
            continue
        held = {target: {element.key: element for element in kernel.dump(target)} for target in sets.compiled}
        seen.elements |= held
        seen.chains[family] = tuple(kernel.chains(sets.table))
    return seen


async def load(
    kernel: Kernel, states: Mapping[Family, State], wanted: Mapping[Family, Parameters], filling: Mapping[Family, str]
) -> None:
    """Bring the skeletons up to date, of both tables in one transaction; `filling` is what a replaced table shall hold.

    Sets, their elements, and the chains of endpoint counts stay, unless the table is of another frame: then it is
    replaced whole.
    """
    parts = [
        _text(kernel, LAYOUTS[family], was, wanted[family], filling.get(family, "")) for family, was in states.items()
    ]
    await kernel.load("".join(parts))


def sign(kernel: Kernel, sets: Layout, wanted: Parameters) -> None:
    """Write into a table what it is."""
    frame = skeleton.digest(skeleton.frame(sets))
    about = About(frame, _digest(sets, wanted), kernel.fingerprint(sets.table))
    batch = Batch()
    batch.remove(sets.about, kernel.dump(sets.about))
    batch.add(sets.about, [Element(_KEY, None, str(about))])
    kernel.commit(batch)


def _text(kernel: Kernel, sets: Layout, was: State, wanted: Parameters, filling: str) -> str:
    text = skeleton.text(sets, wanted)
    if was == "absent":
        return text
    if was == "foreign":
        return f"{removal(sets.table)}{text}{filling}"
    if was == "stale":
        return f"flush set {sets.about}\n{_cleared(kernel, sets, wanted)}{text}"
    return ""


def _cleared(kernel: Kernel, sets: Layout, wanted: Parameters) -> str:
    """Print what empties the skeleton's chains and removes those of nobody; all that go to others before these."""
    ours = skeleton.chains(sets, wanted)
    there = kernel.chains(sets.table)
    unknown = [name for name in there if name not in ours and not skeleton.is_of_count(name)]
    lines = [f"flush chain {sets.table} {name}" for name in there if not skeleton.is_of_count(name)]
    lines += [f"delete chain {sets.table} {name}" for name in unknown]
    return "".join(f"{line}\n" for line in lines)


def removal(table: Table) -> str:
    """Print what removes a table whether it is there or not."""
    return f"table {table} {{}}\ndelete table {table}\n"


def emptying(table: Table) -> str:
    """Print what takes all rules out of a table and leaves its elements to the packets that are in the rules."""
    return f"flush table {table}\n"


def aside(text: str) -> str:
    """Return a table's text under the name of the one that stands in for it."""
    return _OWN_NAME.sub(r"\g<1>_next", text)
