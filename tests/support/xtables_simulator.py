"""Run packets through iptables rules as the kernel would: an interpreter of the few matches and targets we use.

It knows nothing of Services, and refuses words it does not know, so that a rule it cannot judge fails a test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from netplane.model import address
from netplane.model.address import Packed
from netplane.model.service import Protocol
from netplane_proxy.plan import oracle
from netplane_proxy.plan.forwarding import Backend

Tables = Mapping[str, Mapping[str, tuple[str, ...]]]
_DRAWS = 1 << 31
_STEPS = 2000


@dataclass(slots=True)
class _Packet:
    source: Packed
    destination: Packed
    protocol: int
    port: int
    from_node: bool
    mark: int = 0
    is_translated: bool = False
    is_masqueraded: bool = False


@dataclass(frozen=True, slots=True)
class Way:
    """One way a packet may leave, with its share of all draws."""

    share: float
    end: str
    destination: Packed
    port: int
    is_translated: bool
    is_masqueraded: bool


class _End(Exception):
    """The packet's fate in a table."""


class _Return(Exception):
    """Back to the chain that jumped here."""


@dataclass(slots=True)
class Simulator:
    """The tables of one family. `recent` is what clients chose: by list, the clients in it."""

    tables: Tables
    recent: dict[str, set[Packed]] = field(default_factory=dict)
    _choices: list[int] = field(default_factory=list)
    _at: int = 0
    _share: float = 1.0
    _pending: list[list[int]] = field(default_factory=list)
    _steps: int = 0

    def ways(self, packet: oracle.Packet) -> list[Way]:
        """Return every way the packet may leave: each draw is taken both ways. Nothing is remembered."""
        kept = {name: set(clients) for name, clients in self.recent.items()}
        found: list[Way] = []
        self._pending = [[]]
        while self._pending:
            found.append(self._travel(packet, self._pending.pop()))
            self.recent = {name: set(clients) for name, clients in kept.items()}
        return found

    def connect(self, packet: oracle.Packet, choices: list[int]) -> Way:
        """Send one packet with these draws, and none after them; what the rules remember stays."""
        self._pending = []
        return self._travel(packet, choices)

    def _travel(self, packet: oracle.Packet, choices: list[int]) -> Way:
        self._choices, self._at, self._share, self._steps = list(choices), 0, 1.0, 0
        one = _Packet(packet.source, packet.destination, packet.protocol, packet.port, packet.from_node)
        self._hook("nat", "OUTPUT" if one.from_node else "PREROUTING", one)
        end = self._hook("filter", "OUTPUT" if one.from_node else "FORWARD", one)
        if end == "ACCEPT":
            self._hook("nat", "POSTROUTING", one)
        return Way(self._share, end, one.destination, one.port, one.is_translated, one.is_masqueraded)

    def _hook(self, table: str, chain: str, packet: _Packet) -> str:
        try:
            self._chain(table, chain, packet)
        except _End as end:
            return str(end)
        except _Return:
            pass
        return "ACCEPT"

    def _chain(self, table: str, name: str, packet: _Packet) -> None:
        for rule in (
            self.tables[table].get(name, ()) if name.isupper() and "-" not in name else self.tables[table][name]
        ):
            self._steps += 1
            assert self._steps < _STEPS, f"no end in chain {name}"
            words = rule.split()
            if self._matches(words, packet):
                self._act(table, words, packet)

    def _matches(self, words: list[str], packet: _Packet) -> bool:
        """Take the matches off the front of a rule's words, and tell whether all of them hold."""
        while words and words[0] != "-j":
            is_negated = words[0] == "!"
            if is_negated:
                words.pop(0)
            if self._match(words, packet) == is_negated:
                return False
        return True

    def _match(self, words: list[str], packet: _Packet) -> bool:
        word, value = words.pop(0), words.pop(0)
        if word in ("-s", "-d"):
            return (packet.source if word == "-s" else packet.destination) in address.prefix(value)
        if word == "-p":
            return packet.protocol == Protocol[value.upper()]
        assert word == "-m", word
        if value in ("tcp", "udp", "sctp"):
            assert words.pop(0) == "--dport"
            first, _, last = words.pop(0).partition(":")
            return int(first) <= packet.port <= int(last or first)
        if value == "conntrack":
            assert words.pop(0) == "--ctstate"
            return {"NEW": True, "INVALID": False, "DNAT": packet.is_translated}[words.pop(0)]
        if value == "addrtype":
            assert [words.pop(0), words.pop(0)] == ["--src-type", "LOCAL"]
            return packet.from_node
        if value == "mark":
            is_wanted = words.pop(0) == "--mark" if words[0] != "!" else bool(words.pop(0) and not words.pop(0))
            bits, mask = (int(part, 16) for part in words.pop(0).split("/"))
            return (packet.mark & mask == bits) == is_wanted
        return self._stateful(value, words, packet)

    def _stateful(self, value: str, words: list[str], packet: _Packet) -> bool:
        if value == "statistic":
            assert [words.pop(0) for _ in range(3)] == ["--mode", "random", "--probability"]
            return self._draw(round(float(words.pop(0)) * _DRAWS) / _DRAWS)
        assert value == "recent", value
        verb = words.pop(0)
        if verb == "--update":
            assert [words.pop(0), int(words.pop(0)) > 0, words.pop(0)] == ["--seconds", True, "--reap"]
        assert words.pop(0) == "--name"
        clients = self.recent.setdefault(words.pop(0), set())
        assert [words.pop(0), bool(words.pop(0)), words.pop(0)] == ["--mask", True, "--rsource"]
        if verb == "--set":
            clients.add(packet.source)
            return True
        return packet.source in clients

    def _draw(self, share: float) -> bool:
        if self._at == len(self._choices):
            self._pending.append([*self._choices, 0])
            self._choices.append(1)
        is_hit = bool(self._choices[self._at])
        self._at += 1
        self._share *= share if is_hit else 1 - share
        return is_hit

    def _act(self, table: str, words: list[str], packet: _Packet) -> None:
        assert words.pop(0) == "-j"
        target = words.pop(0)
        if target == "RETURN":
            raise _Return
        if target in ("ACCEPT", "DROP", "REJECT"):
            raise _End(target)
        if target == "MARK":
            assert words.pop(0) == "--set-xmark"
            bits, mask = (int(part, 16) for part in words.pop(0).split("/"))
            packet.mark = (packet.mark & ~mask) ^ bits
        elif target == "MASQUERADE":
            packet.is_masqueraded = True
            raise _End("ACCEPT")
        elif target == "DNAT":
            host, _, port = words[1].rpartition(":")
            packet.destination, packet.port = address.parse(host.strip("[]")), int(port)
            packet.is_translated = True
            raise _End("ACCEPT")
        else:
            try:
                self._chain(table, target, packet)
            except _Return:
                return


def judge(simulator: Simulator, packet: oracle.Packet) -> oracle.Verdict:
    """Return the verdict that the rules come to, in the oracle's terms, and check that the odds are equal."""
    seen = simulator.ways(packet)
    ends = {(way.end, way.is_translated) for way in seen}
    assert len(ends) == 1, f"{packet} ends in several ways: {seen}"
    ((end, is_translated),) = ends
    if end != "ACCEPT":
        assert not is_translated, f"{packet} is translated and then refused"
        return oracle.Verdict(oracle.Action.REJECT if end == "REJECT" else oracle.Action.DROP)
    if not is_translated:
        assert not seen[0].is_masqueraded, f"{packet} is masqueraded without being translated"
        return oracle.Verdict(oracle.Action.UNTOUCHED)
    assert all(abs(way.share * len(seen) - 1) < 1e-8 for way in seen), f"{packet}: unequal odds {seen}"
    outcomes = [oracle.Outcome(Backend(way.destination, way.port), way.is_masqueraded) for way in seen]
    return oracle.Verdict(oracle.Action.DNAT, tuple(sorted(outcomes)))
