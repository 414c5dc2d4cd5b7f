"""Tables in memory that take what iptables-restore takes, and refuse what it refuses."""

from __future__ import annotations

import copy

from netplane.kernel.errors import CommandFailed
from netplane.kernel.xtables.objects import BUILTIN, COMMANDS, Command, Rules

_TARGETS = frozenset(("ACCEPT", "DROP", "RETURN", "REJECT", "DNAT", "MARK", "MASQUERADE", "TCPMSS"))


class Kernel:
    """The tables of both families: chains by table, foreign rules included."""

    def __init__(self) -> None:
        """Start without a rule."""
        self.tables: dict[Command, dict[str, dict[str, list[str]]]] = {command: {} for command in COMMANDS}
        self.loads = 0

    async def load(self, command: Command, text: str) -> None:
        """Carry out the text, table by table."""
        self.loads += 1
        table, work = "", {}
        for number, line in enumerate(text.splitlines(), 1):
            if line.startswith("*"):
                table = line[1:]
                there = self.tables[command].get(table, {chain: [] for chain in sorted(BUILTIN)})
                work = copy.deepcopy(there)
            elif line == "COMMIT":
                _check(work, number)
                self.tables[command][table] = work
            else:
                _act(work, line, number)

    async def save(self, command: Command, prefix: str) -> dict[str, dict[str, Rules]]:
        """Return what is ours of each table."""
        found: dict[str, dict[str, Rules]] = {}
        for table, chains in self.tables[command].items():
            ours = {name: tuple(rules) for name, rules in chains.items() if name.startswith(prefix)}
            for name in BUILTIN & chains.keys():
                led = tuple(rule for rule in chains[name] if f"-j {prefix}" in rule)
                if led:
                    ours[name] = led
            found[table] = ours
        return found


def _act(work: dict[str, list[str]], line: str, number: int) -> None:
    if line.startswith(":"):
        work[line[1:].split()[0]] = []
        return
    verb, chain, *rest = line.split(" ", 2)
    if chain not in work:
        raise _refused(number)
    rule = rest[0] if rest else ""
    if verb == "-A":
        work[chain].append(rule)
    elif verb == "-I":
        work[chain].insert(0, rule.split(" ", 1)[1])
    elif verb == "-D" and rule in work[chain]:
        work[chain].remove(rule)
    elif verb == "-X" and not work[chain]:
        del work[chain]
    else:
        raise _refused(number)


def _check(work: dict[str, list[str]], number: int) -> None:
    for rules in work.values():
        for rule in rules:
            target = rule.partition("-j ")[2].split(" ")[0]
            if target not in work and target not in _TARGETS:
                raise _refused(number)


def _refused(number: int) -> CommandFailed:
    return CommandFailed(0, "run iptables-restore", f"line {number} failed", returncode=1)
