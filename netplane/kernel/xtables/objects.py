"""Hold chains and rules as the text that iptables-save prints, so that it compares with what is there.

A rule is its text after `-A CHAIN `, spelled as both variants' iptables-save spells it (1.8.9): source before
destination, addresses with their length, every option that is printed although it is the default.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

Variant = Literal["legacy", "nft"]
"""Which half of the kernel the tools speak to: x_tables, or nf_tables in the disguise of x_tables."""

Command = Literal["iptables", "ip6tables"]
"""The tool of an IP family: IPv4's and IPv6's tables have nothing in common but their names."""

COMMANDS: tuple[Command, ...] = ("iptables", "ip6tables")
VARIANTS: tuple[Variant, ...] = ("nft", "legacy")
NAME_MAX = 28
"""The longest name of a chain (XT_EXTENSION_MAXNAMELEN without its end)."""

BUILTIN = frozenset(("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"))
"""The kernel's own chains, in which our rules stand among those of others."""

Rules = tuple[str, ...]
Chains = Mapping[str, Rules]
"""What is ours of one table: whole chains by name, and under the names of the kernel's own chains our rules there."""

Tables = Mapping[str, Chains]


@dataclass(slots=True)
class Change:
    """What to do in one table: chains to write anew (made when missing), and chains to remove.

    `had` are the rules of ours that stand in the kernel's own chains among those to write.
    """

    written: dict[str, Rules] = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    had: dict[str, Rules] = field(default_factory=dict)

    def __len__(self) -> int:
        """Count the chains it touches."""
        return len(self.written) + len(self.removed)

    def lines(self) -> Iterator[str]:
        """Yield the lines for iptables-restore --noflush, which makes all of them in one transaction."""
        ours = [chain for chain in self.written if chain not in BUILTIN]
        yield from (f":{chain} - [0:0]" for chain in (*ours, *self.removed))
        for chain, rules in self.had.items():
            yield from (f"-D {chain} {rule}" for rule in rules)
        for chain, rules in self.written.items():
            if chain in BUILTIN:
                yield from (f"-I {chain} 1 {rule}" for rule in reversed(rules))
            else:
                yield from (f"-A {chain} {rule}" for rule in rules)
        yield from (f"-X {chain}" for chain in self.removed)


def text(changes: Mapping[str, Change]) -> str:
    """Print changes by table for iptables-restore; "" when there is nothing to do."""
    parts = [[f"*{table}", *change.lines(), "COMMIT"] for table, change in changes.items() if len(change)]
    return "".join(f"{line}\n" for part in parts for line in part)


def read(saved: str, prefix: str) -> dict[str, dict[str, Rules]]:
    """Return what is ours of each table in a listing of iptables-save: chains whose names begin with `prefix`.

    Of the kernel's own chains the rules that lead to one of ours are.
    """
    tables: dict[str, dict[str, list[str]]] = {}
    chains: dict[str, list[str]] = {}
    goals = f"-j {prefix}", f"-g {prefix}"
    for line in saved.splitlines():
        mark = line[:1]
        if mark == "*":
            chains = tables.setdefault(line[1:].strip(), {})
        elif mark == ":" and line.startswith(prefix, 1):
            chains[line[1:].split(" ", 1)[0]] = []
        elif mark == "-":
            _, chain, rule = line.split(" ", 2)
            if chain in chains and chain not in BUILTIN:
                chains[chain].append(rule)
            elif chain in BUILTIN and any(goal in rule for goal in goals):
                chains.setdefault(chain, []).append(rule)
    return {table: {chain: tuple(rules) for chain, rules in found.items()} for table, found in tables.items()}


def packets(listing: str) -> dict[str, int]:
    """Return how many packets met the rules of a chain, by target, in what `iptables -nvxL CHAIN` printed."""
    found: dict[str, int] = {}
    for line in listing.splitlines()[2:]:
        count, _, target, *_ = line.split()
        found[target] = found.get(target, 0) + int(count)
    return found


def checked(names: Iterable[str]) -> None:
    """Raise ValueError when a name is too long for a chain."""
    for name in names:
        if len(name) > NAME_MAX:
            raise ValueError(f"{name!r} is longer than the {NAME_MAX} characters of a chain's name")
