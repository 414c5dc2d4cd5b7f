"""Stand in for nf_tables in memory. tests/parity holds it to what the kernel does with the same transactions.

It understands the text that our compilers write: whole tables with one declaration, rule or brace a line, the commands
`delete table`, `flush set`, `flush chain` and `delete chain`. It leaves out elements that come as text.
"""

from __future__ import annotations

import errno
import hashlib
import re
from collections.abc import Iterator

from netplane.kernel.errors import CommandFailed, KernelError
from netplane.kernel.nft.objects import Batch, Element, Set, Table, Verb, Verdict, command

_FAMILIES = {"ip": 2, "ip6": 10}


class _Table:
    def __init__(self) -> None:
        self.sets: dict[str, str] = {}
        self.elements: dict[str, dict[bytes, Element]] = {}
        self.chains: dict[str, list[str]] = {}

    def copy(self) -> _Table:
        twin = _Table()
        twin.sets = dict(self.sets)
        twin.elements = {name: dict(held) for name, held in self.elements.items()}
        twin.chains = {name: list(lines) for name, lines in self.chains.items()}
        return twin


class Kernel:
    """An nf_tables of its own, empty at first. `commits` and `loads` are what was asked, for tests to look at."""

    def __init__(self) -> None:
        """Begin without tables."""
        self._tables: dict[Table, _Table] = {}
        self._generation = 1
        self.commits: list[Batch] = []
        self.loads: list[str] = []
        self.refuse_next: KernelError | None = None

    def declare(self, *sets: Set) -> None:
        """Add empty sets, and their tables."""
        for target in sets:
            held = self._tables.setdefault(target.table, _Table())
            held.sets[target.name] = target.declaration
            held.elements[target.name] = {}

    def commit(self, batch: Batch) -> None:
        """Make all changes of the batch, or raise KernelError and make none."""
        if not len(batch):
            return
        if self.refuse_next is not None:
            error, self.refuse_next = self.refuse_next, None
            raise error
        staged = {table: held.copy() for table, held in self._tables.items()}
        for chain in batch.chains:
            if chain.table not in staged:
                raise KernelError(errno.ENOENT, f"replace chain {chain}")
            staged[chain.table].chains[chain.name] = ["", *(rule.text for rule in chain.rules)]
        for verb, target, elements in batch.runs:
            for element in elements:
                _change(staged, verb, target, element)
        self._tables = staged
        self._generation += 1
        self.commits.append(batch)

    def dump(self, target: Set) -> list[Element]:
        """List a set's elements."""
        held = self._tables.get(target.table)
        if held is None or target.name not in held.sets:
            raise KernelError(errno.ENOENT, f"list elements of {target}")
        return list(held.elements[target.name].values())

    def tables(self) -> list[Table]:
        """List the tables."""
        return list(self._tables)

    def chains(self, table: Table) -> list[str]:
        """List the names of a table's chains."""
        return list(self._tables[table].chains) if table in self._tables else []

    def fingerprint(self, table: Table) -> str:
        """Return a hash of a table's chains and rules."""
        chains = self._tables[table].chains if table in self._tables else {}
        return hashlib.sha256(repr(chains).encode()).hexdigest()[:16]

    def generation(self) -> int:
        """Return the number of the last transaction."""
        return self._generation

    async def load(self, text: str) -> None:
        """Run nft commands in one transaction."""
        staged = {table: held.copy() for table, held in self._tables.items()}
        lines = iter(text.splitlines())
        for line in lines:
            if line.strip():
                self._command(staged, line.strip(), lines)
        self._tables = staged
        self._generation += 1
        self.loads.append(text)

    def add_by_packet(self, target: Set, element: Element) -> None:
        """Add an element as a rule's `update` does: without a transaction."""
        self._tables[target.table].elements[target.name][element.key] = element

    def _command(self, staged: dict[Table, _Table], line: str, rest: Iterator[str]) -> None:
        if found := re.fullmatch(r"table (\w+) (\w+) \{(\})?", line):
            held = staged.setdefault(_table(found), _Table())
            if not found[3]:
                _block(held, rest)
        elif found := re.fullmatch(r"delete table (\w+) (\w+)", line):
            if staged.pop(_table(found), None) is None:
                raise CommandFailed(0, "run nft -f -", f"no table {_table(found)}")
        elif found := re.fullmatch(r"flush table (\w+) (\w+)", line):
            for chain in staged[_table(found)].chains.values():
                del chain[1:]
        elif found := re.fullmatch(r"flush chain (\w+) (\w+) (\w+)", line):
            del staged[_table(found)].chains[found[3]][1:]
        elif found := re.fullmatch(r"flush set (\w+) (\w+) (\w+)", line):
            staged[_table(found)].elements[found[3]].clear()
        elif found := re.fullmatch(r"delete chain (\w+) (\w+) (\w+)", line):
            _delete_chain(staged[_table(found)], found[3])
        elif not line.startswith("add element "):
            raise CommandFailed(0, "run nft -f -", f"syntax error: {line}")


def _table(found: re.Match[str], at: int = 1) -> Table:
    return Table(_FAMILIES[found[at]], found[at + 1])


def _block(held: _Table, rest: Iterator[str]) -> None:
    chain: list[str] | None = None
    for raw in rest:
        line = raw.strip()
        if found := re.fullmatch(r"(set|map) (\w+) \{ (.*) \}", line):
            if held.sets.setdefault(found[2], line) != line:
                raise CommandFailed(0, "run nft -f -", f"{found[2]}: EEXIST")
            held.elements.setdefault(found[2], {})
        elif found := re.fullmatch(r"chain (\w+) \{", line):
            chain = held.chains.setdefault(found[1], [""])
        elif line == "}" and chain is not None:
            chain = None
        elif line == "}":
            return
        elif chain is not None and line.startswith("type "):
            chain[0] = line
        elif chain is not None:
            chain.append(line)
    raise CommandFailed(0, "run nft -f -", "syntax error: unexpected end of file")


def _delete_chain(held: _Table, name: str) -> None:
    data = (element.data for elements in held.elements.values() for element in elements.values())
    if any(isinstance(verdict, Verdict) and verdict.chain == name for verdict in data):
        raise CommandFailed(0, "run nft -f -", f"delete chain {name}: EBUSY")
    del held.chains[name]


def _change(staged: dict[Table, _Table], verb: Verb, target: Set, element: Element) -> None:
    held = staged.get(target.table)
    if held is None or target.name not in held.sets:
        raise KernelError(errno.ENOENT, command(verb, target, element))
    elements = held.elements[target.name]
    found = elements.get(element.key)
    if verb == "remove":
        is_other = target.is_interval and found is not None and found.key_end != _last(element)
        if found is None or is_other:
            raise KernelError(errno.ENOENT, command(verb, target, element))
        del elements[element.key]
        return
    if isinstance(element.data, Verdict) and element.data.chain and element.data.chain not in held.chains:
        raise KernelError(errno.ENOENT, command(verb, target, element))
    if found is None:
        _refuse_overlap(target, element, elements)
        elements[element.key] = element._replace(key_end=_last(element)) if target.is_interval else element
    elif found.data != element.data:
        raise KernelError(errno.EEXIST, command(verb, target, element))


def _last(element: Element) -> bytes:
    return element.key if element.key_end is None else element.key_end


def _refuse_overlap(target: Set, element: Element, elements: dict[bytes, Element]) -> None:
    if not target.is_interval:
        return
    width = target.key[-1].padded
    for other in elements.values():
        is_same_place = other.key[:-width] == element.key[:-width]
        if is_same_place and element.key <= _last(other) and other.key <= _last(element):
            raise KernelError(errno.EEXIST, command("add", target, element))
