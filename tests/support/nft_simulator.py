"""Run packets through nft text and set elements as the kernel would: an interpreter of the few expressions we use.

It knows nothing of Services. It reads chains line by line and looks keys up byte by byte; a line is nft_rule's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from netplane.kernel.nft.objects import Element, Set
from netplane.model.address import Family, Packed
from tests.support.nft_rule import End, Miss, Packet, Return, Rule, joined, split

Chains = Mapping[str, tuple[str, ...]]

_HOOK = re.compile(r"type (\w+) hook (\w+) priority (-?\d+); policy (\w+);")
_TOKEN = re.compile(r"[{},]|[^\s{},]+")
_STEPS = 500


class Seen(NamedTuple):
    """How a connection's first packet left: where to, and whether masqueraded. `end` is accept, drop or reject."""

    end: str
    destination: Packed = b""
    port: int = 0
    is_translated: bool = False
    is_masqueraded: bool = False


@dataclass(slots=True)
class Simulator:
    """One family's table. Elements that packets add (affinity) stay for the next packet."""

    family: Family
    chains: Chains
    elements: dict[str, dict[bytes, Element]]
    sets: dict[str, Set]
    hooks: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    steps: int = 0

    @classmethod
    def of(cls, family: Family, chains: Chains, elements: Mapping[Set, Iterable[Element]]) -> Simulator:
        """Load a table. Two elements of one key are a mistake of the compiler, as they are for the kernel."""
        loaded: dict[str, dict[bytes, Element]] = {}
        for target, found in elements.items():
            rows = loaded.setdefault(target.name, {})
            for element in found:
                assert element.key not in rows, f"{target}: two elements {target.text(element)}"
                rows[element.key] = element
        made = cls(family, chains, loaded, {target.name: target for target in elements})
        for name, lines in chains.items():
            if lines and (match := _HOOK.fullmatch(lines[0])):
                assert match[1] in ("nat", "route", "filter")
                assert match[4] == "accept"
                made.hooks.setdefault(match[2], []).append((int(match[3]), name))
                made.kinds[name] = match[1]
        return made

    def outcomes(self, source: Packed, destination: Packed, protocol: int, port: int, *, from_node: bool) -> list[Seen]:
        """Return how a connection's first packet can leave, one entry for each random draw; nothing is remembered."""
        kept = {name: dict(rows) for name, rows in self.elements.items() if self.sets[name].timeout}
        found: list[Seen] = []
        modulus = 1
        while len(found) < modulus:
            packet = Packet(source, destination, protocol, port, from_node, number=len(found))
            found.append(self._travel(packet, from_node=from_node))
            self.elements.update({name: dict(rows) for name, rows in kept.items()})
            modulus = packet.modulus
        return found

    def connect(
        self, source: Packed, destination: Packed, protocol: int, port: int, *, from_node: bool, draw: int
    ) -> Seen:
        """Send the first packet of a connection with this random draw; what its rules remember stays."""
        packet = Packet(source, destination, protocol, port, from_node, number=draw)
        return self._travel(packet, from_node=from_node)

    def stray(self, source: Packed, protocol: int, port: int, hook: str) -> str:
        """Run an INVALID packet, sent from this port, through the filter chains of a hook; nat has none of it."""
        packet = Packet(source, bytes(len(source)), protocol, 0, is_source_local=False, number=0)
        packet.source_port, packet.state = port, "invalid"
        try:
            self._hook(hook, packet, kinds=("filter",))
        except End as end:
            return end.kind
        return "accept"

    def _travel(self, packet: Packet, *, from_node: bool) -> Seen:
        try:
            self._hook("output" if from_node else "prerouting", packet)
            self._hook("postrouting", packet)
        except End as end:
            return Seen(end.kind)
        is_moved = packet.is_translated
        return Seen("accept", packet.destination, packet.port, is_moved, packet.is_masqueraded)

    def _hook(self, hook: str, packet: Packet, *, kinds: tuple[str, ...] = ("nat", "route", "filter")) -> None:
        for _, name in sorted(self.hooks.get(hook, [])):
            if self.kinds[name] not in kinds:
                continue
            self.steps = 0
            try:
                self._chain(name, packet)
            except Return:
                continue
            except End as end:
                if end.kind != "accept":
                    raise

    def _chain(self, name: str, packet: Packet) -> None:
        for line in self.chains[name]:
            if _HOOK.fullmatch(line):
                continue
            self.steps += 1
            assert self.steps < _STEPS, f"no end in chain {name}"
            try:
                Rule(self, packet, _TOKEN.findall(line), line).run()
            except Miss:
                continue

    def enter(self, verdict: str, chain: str, packet: Packet) -> None:
        """Carry out a verdict: `goto` and `jump` run a chain; a goto never comes back to this one."""
        if verdict == "jump":
            try:
                self._chain(chain, packet)
            except Return:
                return
        elif verdict == "goto":
            self._chain(chain, packet)
            raise Return
        elif verdict == "return":
            raise Return
        else:
            raise End(verdict)

    def find(self, name: str, parts: list[bytes]) -> Element:
        """Look a key up, in intervals part by part."""
        target, rows = self.sets[name], self.elements.get(name, {})
        assert len(parts) == len(target.key), f"{len(parts)} parts looked up in {target}"
        key = joined(parts)
        if not target.is_interval:
            found = rows.get(key) or rows.get(parts[0] if len(parts) == 1 else key)
            if found is None:
                raise Miss
            return found
        for element in rows.values():
            low, high = split(target, element.key), split(target, element.key_end or element.key)
            if all(a <= part <= b for a, part, b in zip(low, parts, high, strict=True)):
                return element
        raise Miss
