"""Compare chains of one table: what turns those that are there into those wanted."""

from __future__ import annotations

from netplane.kernel.xtables.objects import BUILTIN, Chains, Change, Tables
from netplane.lib import keyed


def chains(want: Chains, have: Chains) -> Change:
    """Return what turns `have` into `want`; empty when they are equal. A chain that differs is written anew."""
    delta = keyed.diff(_filled(want), _filled(have))
    written = {**delta.add, **delta.change}
    gone = {chain: () for chain in delta.remove if chain in BUILTIN}
    had = {chain: have[chain] for chain in (*delta.change, *gone) if chain in BUILTIN}
    removed = tuple(sorted(chain for chain in delta.remove if chain not in BUILTIN))
    return Change({**dict(sorted(written.items())), **gone}, removed, had)


def tables(want: Tables, have: Tables) -> dict[str, Change]:
    """Return what differs by table, in the order of `want`; tables without a difference are left out."""
    names = dict.fromkeys((*want, *have))
    found = {name: chains(want.get(name, {}), have.get(name, {})) for name in names}
    return {name: change for name, change in found.items() if len(change)}


def _filled(found: Chains) -> Chains:
    """Leave out the kernel's own chains in which nothing is ours."""
    return {chain: rules for chain, rules in found.items() if rules or chain not in BUILTIN}
