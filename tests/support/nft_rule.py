"""One rule of nft text as the kernel would run it on one packet. Chains and hooks are nft_simulator's.

It refuses words that it does not know, so that a rule it cannot judge fails a test instead of passing it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from netplane.kernel.nft import objects
from netplane.kernel.nft.objects import Element, Set
from netplane.model import address
from netplane.model.address import Family, Packed

_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1}


@dataclass(slots=True)
class Packet:
    """A packet under way: `number` is what the next random draw gives, `modulus` what it was drawn from."""

    source: Packed
    destination: Packed
    protocol: int
    port: int
    is_source_local: bool
    number: int
    modulus: int = 1
    priority: int = 0
    mark: int = 0
    original: tuple[Packed, int] = (b"", 0)
    is_translated: bool = False
    is_masqueraded: bool = False
    source_port: int = 0
    state: str = "new"

    def __post_init__(self) -> None:
        self.original = self.destination, self.port


class Miss(Exception):
    """An expression found nothing: the rest of the rule is not run."""


class End(Exception):
    """The packet's fate: accept (this hook is done), drop or reject."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class Return(Exception):
    """Back to the chain that jumped here."""


class Table(Protocol):
    """What a rule needs of the table it stands in."""

    family: Family
    elements: dict[str, dict[bytes, Element]]
    sets: dict[str, Set]

    def enter(self, verdict: str, chain: str, packet: Packet) -> None:
        """Carry out a verdict."""

    def find(self, name: str, parts: list[bytes]) -> Element:
        """Look a key up, part by part; raises Miss."""


class Rule:
    """One line, read from left to right."""

    def __init__(self, table: Table, packet: Packet, tokens: list[str], line: str) -> None:
        self.table = table
        self.packet = packet
        self.tokens = tokens
        self.line = line

    def run(self) -> None:
        """Run its matches and statements until one fails or ends the packet's way."""
        while self.tokens:
            word = self.tokens[0]
            if word in ("goto", "jump"):
                self._take(word)
                self.table.enter(word, self._take(), self.packet)
            elif word in ("return", "drop", "accept"):
                self.table.enter(self._take(), "", self.packet)
            elif word == "reject":
                raise End("reject")
            elif word == "masquerade":
                self.packet.is_masqueraded = True
                raise End("accept")
            elif word == "dnat":
                self._dnat()
            elif word == "update":
                self._update()
            elif self.tokens[:1] == ["meta"] and self.tokens[2:3] == ["set"]:
                self._set()
            elif self.tokens[1:3] in (["saddr", "set"], ["daddr", "set"]):
                self._rewrite()
            elif word == "counter":
                self._take()
            else:
                self._match()

    def _match(self) -> None:
        parts = self._concatenation()
        word = self._peek()
        if word == "vmap":
            self._take("vmap")
            self._vmap(parts)
            return
        is_wanted = word != "!="
        if word in ("==", "!="):
            self._take()
        if self._is_in(parts) != is_wanted:
            raise Miss

    def _is_in(self, parts: list[bytes]) -> bool:
        word = self._take()
        if word.startswith("@"):
            try:
                self.table.find(word[1:], parts)
            except Miss:
                return False
            return True
        if word == "{":
            choices = []
            while (choice := self._take()) != "}":
                if choice != ",":
                    choices.append(self._constant(choice, parts[0]))
            return parts[0] in choices
        return parts[0] == self._constant(word, parts[0])

    def _vmap(self, parts: list[bytes]) -> None:
        word = self._take()
        if word.startswith("@"):
            verdict = self.table.find(word[1:], parts).data
            assert isinstance(verdict, objects.Verdict), self.line
            words = str(verdict).split()
            self.table.enter(words[0], words[-1], self.packet)
            return
        assert word == "{", self.line
        rows: dict[bytes, list[str]] = {}
        while self._peek() != "}":
            key = self._constant(self._take(), parts[0])
            self._take(":")
            verdict_words = []
            while self._peek() not in (",", "}"):
                verdict_words.append(self._take())
            rows[key] = verdict_words
            if self._peek() == ",":
                self._take(",")
        self._take("}")
        if parts[0] in rows:
            found = rows[parts[0]]
            self.table.enter(found[0], found[-1], self.packet)

    def _set(self) -> None:
        self._take("meta")
        name = self._take()
        self._take("set")
        if self._peek() == "none":
            self._take()
            value = 0
        else:
            parts = self._concatenation()
            if self._peek() == "map":
                parts = self._mapped(parts)
            value = objects.number(parts[0])
        assert name in ("priority", "mark"), self.line
        setattr(self.packet, name, value)

    def _rewrite(self) -> None:
        """Write an address into the packet itself, whatever connection tracking thinks of it."""
        self._take("ip" if self.table.family is Family.V4 else "ip6")
        name = {"saddr": "source", "daddr": "destination"}[self._take()]
        self._take("set")
        setattr(self.packet, name, address.parse(self._take()))

    def _dnat(self) -> None:
        self._take("dnat")
        self._take("ip" if self.table.family is Family.V4 else "ip6")
        self._take("to")
        found = self._mapped(self._concatenation())
        if self._peek() == ":":
            self._take(":")
            found += self._mapped(self._concatenation())
        destination, port = found
        self.packet.destination, self.packet.port = destination, int.from_bytes(port[:2], "big")
        self.packet.is_translated = True
        raise End("accept")

    def _mapped(self, parts: list[bytes]) -> list[bytes]:
        self._take("map")
        name = self._take()[1:]
        element, target = self.table.find(name, parts), self.table.sets[name]
        assert isinstance(element.data, bytes), self.line
        found, at = [], 0
        for one in target.data:
            found.append(element.data[at : at + one.width])
            at += one.padded
        return found

    def _update(self) -> None:
        self._take("update")
        name = self._take()[1:]
        self._take("{")
        key = joined(self._concatenation())
        if self._peek() == "timeout":
            self._take()
            self._take()
        self._take(":")
        data = self._concatenation()
        self._take("}")
        value = data[0] if len(data) == 1 else joined(data)
        self.table.elements.setdefault(name, {})[key] = Element(key, value)

    def _concatenation(self) -> list[bytes]:
        parts = [self._masked()]
        while self._peek() == ".":
            self._take(".")
            parts.append(self._masked())
        return parts

    def _masked(self) -> bytes:
        value = self._selector()
        while (operator := self._peek()) in ("&", "|", "^"):
            self._take()
            a, b = objects.number(value), int(self._take(), 0)
            value = objects.u32({"&": a & b, "|": a | b, "^": a ^ b}[operator])
        return value

    def _selector(self) -> bytes:
        first = self._take()
        if first == "meta":
            return self._meta(self._take())
        if first in ("ip", "ip6"):
            assert first == ("ip" if self.table.family is Family.V4 else "ip6"), self.line
            return {"saddr": self.packet.source, "daddr": self.packet.destination}[self._take()]
        if first == "th":
            number = {"dport": self.packet.port, "sport": self.packet.source_port}[self._take()]
            return number.to_bytes(2, "big")
        if first == "ct":
            return self._ct(self._take())
        if first == "fib":
            self._take("saddr")
            self._take("type")
            return b"local" if self.packet.is_source_local else b"unicast"
        if first == "numgen":
            self._take("random")
            self._take("mod")
            self.packet.modulus = int(self._take())
            return objects.u32(self.packet.number % self.packet.modulus)
        if first == "jhash":
            hashed = self._selector()
            for word in ("mod", None, "seed", None):
                self._take(word)
            return objects.u32(int.from_bytes(hashed[-4:], "big"))
        raise AssertionError(f"the simulator does not know {first!r} in {self.line!r}")

    def _meta(self, name: str) -> bytes:
        if name == "l4proto":
            return bytes([self.packet.protocol])
        value: int = {"priority": self.packet.priority, "mark": self.packet.mark}[name]
        return objects.u32(value)

    def _ct(self, name: str) -> bytes:
        if name == "status":
            return b"dnat" if self.packet.is_translated else b""
        if name == "state":
            return self.packet.state.encode()
        assert name == "original", self.line
        word = self._take()
        if word == "proto-dst":
            return self.packet.original[1].to_bytes(2, "big")
        self._take("daddr")
        return self.packet.original[0]

    def _constant(self, word: str, like: bytes) -> bytes:
        """Read a constant in the form of what it is compared with."""
        if word in _PROTOCOLS:
            return bytes([_PROTOCOLS[word]])
        if len(like) in (4, 16) and ("." in word or ":" in word):
            return address.parse(word)
        if word[0].isdigit():
            return objects.u32(int(word, 0)) if len(like) == 4 else bytes([int(word, 0)])
        return word.encode()

    def _peek(self) -> str:
        return self.tokens[0] if self.tokens else ""

    def _take(self, expected: str | None = None) -> str:
        assert self.tokens, f"{self.line!r} ends too early"
        word = self.tokens.pop(0)
        assert expected in (None, word), f"{expected!r} expected, not {word!r}, in {self.line!r}"
        return word


def joined(parts: list[bytes]) -> bytes:
    """Return a key as the kernel keeps it: every part padded."""
    return b"".join(part + b"\0" * (-len(part) % 4) for part in parts)


def split(target: Set, key: bytes) -> list[bytes]:
    """Return a key's parts."""
    found, at = [], 0
    for one in target.key:
        found.append(key[at : at + one.width])
        at += one.padded
    return found
