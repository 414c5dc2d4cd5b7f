"""Read off rules, as the kernel lists them, which bits of the packet mark they look at or write.

It follows registers through one rule: what was loaded, what bitwise operations made of it, where it went. Bits that a
rule takes from elsewhere as a whole (a map, the connection's mark) are not known and count as none.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from netplane.kernel.netlink.wire import attributes
from netplane.kernel.nft import wire

ALL = 0xFFFFFFFF
META_MARK = 3
RULE_TABLE, RULE_CHAIN, RULE_EXPRESSIONS = 1, 2, 4
FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}


class Use(NamedTuple):
    """One rule's use of the mark: bits it looks at and bits it writes."""

    table: str
    chain: str
    looks_at: int
    writes: int
    tool: str = "nft"

    @property
    def bits(self) -> int:
        """All bits it has to do with."""
        return self.looks_at | self.writes

    def __str__(self) -> str:
        """Print `chain PREROUTING of table ip mangle (nft) sets 0x4000`."""
        verb = "sets" if self.writes else "looks at"
        return f"chain {self.chain} of table {self.table} ({self.tool}) {verb} mark bits {self.bits:#x}"


class _Value(NamedTuple):
    """What a register holds: (origin & mask) ^ flip, where origin is the mark, nothing (a constant), or unknown."""

    origin: str
    mask: int
    flip: int

    @property
    def looked_at(self) -> int:
        """The bits of the mark that it shows; 0 when all, for then the values compared with say more."""
        return self.mask if self.origin == "mark" and self.mask != ALL else 0

    @property
    def written(self) -> int:
        """The bits of the mark that change when it becomes the mark."""
        if self.origin == "mark":
            return ~self.mask & ALL | self.flip
        return self.flip | (self.mask if self.mask != ALL else 0)


Attributes = dict[int, bytes]


def use(body: bytes) -> Use | None:
    """Return how a rule (the body of its netlink message) uses the mark; None when it does not."""
    found = _attributes(body, wire.NFGEN.size)
    looks_at = writes = 0
    registers: dict[bytes, _Value] = {}
    for name, data in _expressions(found.get(RULE_EXPRESSIONS, b"")):
        looked, written = _xtables(data) if name in ("match", "target") else _step(name, data, registers)
        looks_at, writes = looks_at | looked, writes | written
    if not looks_at and not writes:
        return None
    table = f"{FAMILIES.get(body[0], str(body[0]))} {_text(found[RULE_TABLE])}"
    return Use(table, _text(found[RULE_CHAIN]), looks_at, writes)


def _step(name: str, data: Attributes, registers: dict[bytes, _Value]) -> tuple[int, int]:
    """Take one expression; return the bits it looks at and writes. Attribute numbers: nf_tables.h."""
    if name == "meta" and 3 in data:
        is_mark = _big(data[2]) == META_MARK
        return 0, registers.get(data[3], _UNKNOWN).written if is_mark else 0
    if name == "meta":
        registers[data[1]] = _Value("mark", ALL, 0) if _big(data[2]) == META_MARK else _UNKNOWN
    elif name == "immediate" and _value(data[2]) is not None:
        registers[data[1]] = _Value("constant", 0, _value(data[2]) or 0)
    elif name == "bitwise" and 4 in data and 5 in data:
        had, mask, flip = registers.get(data[1], _UNKNOWN), _value(data[4]), _value(data[5])
        registers[data[2]] = _UNKNOWN
        if mask is not None and flip is not None:
            registers[data[2]] = _Value(had.origin, had.mask & mask, had.flip & mask ^ flip)
    elif name in ("cmp", "lookup", "range"):
        return _compared(registers.get(data[2 if name == "lookup" else 1], _UNKNOWN), name, data), 0
    elif name == "ct" and 1 in data:
        registers[data[1]] = _UNKNOWN
    return 0, 0


def _compared(value: _Value, name: str, data: Attributes) -> int:
    if value.origin == "mark" and value.mask == ALL and name == "cmp":
        return _value(data[3]) or 0
    return value.looked_at


def _xtables(data: Attributes) -> tuple[int, int]:
    """Read the matches and targets of iptables-nft, which the kernel keeps as xtables' own structures."""
    name, info = _text(data[1]), data.get(3, b"")
    if name not in _STRUCTURES or (len(info) < 16 and name == "CONNMARK") or len(info) < 8:
        return 0, 0
    words = struct.unpack_from("=3I" if name == "CONNMARK" else "=2I", info)
    return _STRUCTURES[name](words)


_STRUCTURES: dict[str, Callable[[tuple[int, ...]], tuple[int, int]]] = {
    # xt_mark_mtinfo1: mark, mask. xt_mark_tginfo2: mark, mask. xt_tproxy_target_info_v1: mask, value.
    "mark": lambda words: (chosen(words[0], words[1]), 0),
    "MARK": lambda words: (0, chosen(words[0], words[1])),
    "TPROXY": lambda words: (0, chosen(words[1], words[0])),
    # xt_connmark_tginfo1: ctmark, ctmask, nfmask.
    "CONNMARK": lambda words: (0, chosen(0, words[2])),
}


def chosen(value: int, mask: int) -> int:
    """Return the bits that value/mask is about: without a mask those of the value alone."""
    return value if mask == ALL else value | mask


_UNKNOWN = _Value("unknown", ALL, 0)


def _expressions(data: bytes) -> Iterator[tuple[str, Attributes]]:
    for _, a, b in attributes(data, 0, len(data)):
        parts = _attributes(data[a:b])
        if 1 in parts:
            yield _text(parts[1]), _attributes(parts.get(2, b""))


def _attributes(data: bytes, start: int = 0) -> Attributes:
    return {kind: data[a:b] for kind, a, b in attributes(data, start, len(data))}


def _value(data: bytes) -> int | None:
    """Return the number of a 4-byte value, in host order as marks are; None for verdicts and other widths."""
    found = _attributes(data).get(wire.DATA_VALUE)
    return int.from_bytes(found, sys.byteorder) if found is not None and len(found) == 4 else None


def _big(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")
