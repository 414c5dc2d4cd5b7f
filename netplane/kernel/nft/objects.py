"""Sets, elements and batches of changes as data, printable as nft text. Their netlink form is wire's."""

from __future__ import annotations

import functools
import ipaddress
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

COMMENT_MAX = 128
"""The longest comment of an element in bytes, as nft takes it (NFTNL_UDATA_COMMENT_MAXLEN)."""

NF_DROP, NF_ACCEPT = 0, 1
NFT_RETURN, NFT_GOTO, NFT_JUMP = -5, -4, -3

IPV4, IPV6 = 2, 10

_VERDICT_NAMES = {NF_DROP: "drop", NF_ACCEPT: "accept", NFT_RETURN: "return", NFT_GOTO: "goto", NFT_JUMP: "jump"}


@dataclass(frozen=True, slots=True)
class Table:
    """A table by its family (IPV4 or IPV6) and name."""

    family: int
    name: str

    def __str__(self) -> str:
        """Print `ip netplane`."""
        return f"{'ip' if self.family == IPV4 else 'ip6'} {self.name}"


class Verdict(NamedTuple):
    """What a verdict map answers: one of the NF_ and NFT_ codes, and the chain for goto and jump."""

    code: int
    chain: str = ""

    def __str__(self) -> str:
        """Print `goto lb3`."""
        return " ".join(filter(None, (_VERDICT_NAMES.get(self.code, str(self.code)), self.chain)))


@dataclass(frozen=True, slots=True)
class Field:
    """One part of a key or of a map's data: nft's `typeof` expression, its width in bytes, and how a value is printed.

    The kernel pads every part to four bytes; `width` is without the padding.
    """

    typeof: str
    width: int
    text: Callable[[bytes], str]

    @property
    def padded(self) -> int:
        """The bytes it takes in a key."""
        return (self.width + 3) & ~3


def _host(value: bytes) -> int:
    return int.from_bytes(value, sys.byteorder)


def ip(typeof: str, family: int) -> Field:
    """Return an address field: `ip("daddr", IPV6)` is `ip6 daddr`."""
    if family == IPV4:
        return Field(f"ip {typeof}", 4, lambda value: str(ipaddress.IPv4Address(value)))
    return Field(f"ip6 {typeof}", 16, lambda value: str(ipaddress.IPv6Address(value)))


PROTOCOL = Field("meta l4proto", 1, lambda value: str(value[0]))
PORT = Field("th dport", 2, lambda value: str(int.from_bytes(value[:2], "big")))
MARK = Field("meta mark", 4, lambda value: f"{_host(value):#010x}")
# A traffic class, printed by nft as major:minor in hexadecimal.
PRIORITY = Field("meta priority", 4, lambda value: f"{_host(value) >> 16:x}:{_host(value) & 0xFFFF:x}")
# nft 1.0.6 keeps the type of a plain number over a listing only in this spelling.
NUMBER = Field("numgen inc mod 2", 4, lambda value: str(_host(value)))
VERDICT = Field("verdict", 0, lambda value: "")


class Element(NamedTuple):
    """A member of a set or a row of a map. `key_end` is the last key (inclusive) in sets of intervals.

    Keys and data are as the kernel holds them: network order for packet fields, host order for marks and numbers, each
    part padded to four bytes. The comment survives in the kernel and names the element for people.
    """

    key: bytes
    data: bytes | Verdict | None = None
    comment: str = ""
    key_end: bytes | None = None


element: Callable[[tuple[Any, ...]], Element] = functools.partial(tuple.__new__, Element)
"""Make an Element of all its fields in order, in half the time: a cold start makes a hundred thousand."""


@dataclass(frozen=True, slots=True, eq=False)
class Set:
    """A set, or a map when `data` is given. `timeout` in seconds marks elements that packets add and time removes.

    Sets compare by identity: they are made once and looked up for every change.
    """

    table: Table
    name: str
    key: tuple[Field, ...]
    data: tuple[Field, ...] = ()
    is_interval: bool = False
    size: int = 0
    timeout: int = 0

    @property
    def is_map(self) -> bool:
        """Whether its elements carry data."""
        return bool(self.data)

    @property
    def is_concatenated(self) -> bool:
        """Whether its key has several parts; intervals have another netlink form then."""
        return len(self.key) > 1

    @property
    def has_verdicts(self) -> bool:
        """Whether its data are verdicts."""
        return self.data == (VERDICT,)

    @property
    def key_width(self) -> int:
        """The bytes of a key."""
        return sum(field.padded for field in self.key)

    @property
    def data_width(self) -> int:
        """The bytes of an element's data, with padding between the parts and none after a single one."""
        return sum(field.padded for field in self.data) if len(self.data) > 1 else sum(f.width for f in self.data)

    @property
    def declaration(self) -> str:
        """Print its nft declaration, for a table's text."""
        flags = ["interval"] * self.is_interval + ["dynamic", "timeout"] * bool(self.timeout)
        parts = [f"typeof {_join(f.typeof for f in self.key)}{_data_type(self.data)}"]
        parts += [f"flags {','.join(flags)}"] * bool(flags)
        parts += [f"timeout {self.timeout}s"] * bool(self.timeout)
        parts += [f"size {self.size}"] * bool(self.size)
        return f"{'map' if self.is_map else 'set'} {self.name} {{ {'; '.join(parts)}; }}"

    def text(self, element: Element) -> str:
        """Print one element of it, as in `elements = { … }`."""
        key = self._key_text(element)
        comment = f" comment {quoted(element.comment)}" if element.comment else ""
        if element.data is None:
            return key + comment
        data = str(element.data) if isinstance(element.data, Verdict) else _value(self.data, element.data)
        return f"{key}{comment} : {data}"

    def _key_text(self, element: Element) -> str:
        if element.key_end is None or element.key_end == element.key:
            return _value(self.key, element.key)
        first, last = list(_parts(self.key, element.key)), list(_parts(self.key, element.key_end))
        return _join(a if a == b else f"{a}-{b}" for a, b in zip(first, last, strict=True))

    def __str__(self) -> str:
        """Print `ip netplane frontends`."""
        return f"{self.table} {self.name}"


class Among(NamedTuple):
    """A match of a register against an unnamed set: its values, their nft data type number and width."""

    register: int
    type: int
    width: int
    values: tuple[bytes, ...]


class Rule(NamedTuple):
    """A rule: as nft text for people, and as packed expressions (nft/expressions) for the kernel."""

    text: str
    expressions: tuple[bytes | Among, ...]


class Chain(NamedTuple):
    """A chain without a hook, and its rules."""

    table: Table
    name: str
    rules: tuple[Rule, ...]

    def __str__(self) -> str:
        """Print `ip netplane lb3`."""
        return f"{self.table} {self.name}"


Verb = Literal["add", "remove"]


class Batch:
    """Chains, then changes of elements in order, of any tables: all happen in one transaction, or none."""

    __slots__ = ("chains", "runs")

    def __init__(self) -> None:
        """Start with nothing."""
        self.chains: list[Chain] = []
        self.runs: list[tuple[Verb, Set, list[Element]]] = []

    def replace_chain(self, chain: Chain) -> None:
        """Give a chain exactly these rules; it is added when it is not there."""
        self.chains.append(chain)

    def add(self, target: Set, elements: Iterable[Element]) -> None:
        """Add elements. One that is there with the same data stays as it is; with other data the batch fails."""
        self._append("add", target, elements)

    def remove(self, target: Set, elements: Iterable[Element]) -> None:
        """Remove elements by key. The batch fails (ENOENT) when one is missing."""
        self._append("remove", target, elements)

    def _append(self, verb: Verb, target: Set, elements: Iterable[Element]) -> None:
        found = list(elements)
        if not found:
            return
        if self.runs and self.runs[-1][0] == verb and self.runs[-1][1] is target:
            self.runs[-1][2].extend(found)
        else:
            self.runs.append((verb, target, found))

    def __len__(self) -> int:
        return len(self.chains) + sum(len(elements) for _, _, elements in self.runs)

    def __str__(self) -> str:
        """Print it as nft commands, one element a line."""
        return "\n".join(self.lines())

    def lines(self) -> Iterator[str]:
        """Print each change as one nft command."""
        for chain in self.chains:
            yield f"add chain {chain}"
            yield f"flush chain {chain}"
            yield from (f"add rule {chain} {rule.text}" for rule in chain.rules)
        for verb, target, elements in self.runs:
            for element in elements:
                yield command(verb, target, element)


def command(verb: Verb, target: Set, element: Element) -> str:
    """Print one change: `add element ip netplane lists { 0:1 : 10:1 }`."""
    word = "add" if verb == "add" else "delete"
    shown = element if verb == "add" else element._replace(comment="")
    return f"{word} element {target} {{ {target.text(shown)} }}"


def comment(text: str) -> str:
    """Make any text a comment that the kernel takes: printable ASCII without quotes, at most COMMENT_MAX - 1 long."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return text[: COMMENT_MAX - 1]
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else "_" for c in text)
    return plain[: COMMENT_MAX - 1]


def quoted(text: str) -> str:
    """Quote a comment for nft text, which knows no escapes inside quotes."""
    if text != comment(text):
        raise ValueError(f"{text!r} cannot be an nft comment")
    return f'"{text}"'


def u32(number: int) -> bytes:
    """Return a number as the kernel keeps marks, priorities and indexes: four bytes in host order."""
    return number.to_bytes(4, sys.byteorder)


def number(value: bytes) -> int:
    """Read what `u32` made."""
    return _host(value)


def _join(parts: Iterable[str]) -> str:
    return " . ".join(parts)


def _data_type(data: tuple[Field, ...]) -> str:
    return f" : {_join(field.typeof for field in data)}" if data else ""


def _value(fields: tuple[Field, ...], value: bytes) -> str:
    return _join(_parts(fields, value))


def _parts(fields: tuple[Field, ...], value: bytes) -> Iterator[str]:
    for start, field in zip(_offsets(fields), fields, strict=True):
        yield field.text(value[start : start + field.width])


@functools.cache
def _offsets(fields: tuple[Field, ...]) -> tuple[int, ...]:
    offsets, at = [], 0
    for field in fields:
        offsets.append(at)
        at += field.padded
    return tuple(offsets)
