"""Write programs of the kernel's virtual machine, one method per instruction (RFC 9669). Loading them is run's.

Registers are numbers: 0 what a call returns and the program answers, 1 to 5 arguments, which a call spoils, 6 to 9
kept, 10 the end of the stack. Jumps go to labels.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Size = Literal[1, 2, 4, 8]
Test = Literal["==", "!=", ">", ">=", "<", "<=", "&"]

STACK = 10
_INSTRUCTION = struct.Struct("=BBhi")
_SIZES: dict[Size, int] = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}
_TESTS: dict[Test, int] = {"==": 0x10, "!=": 0x50, ">": 0x20, ">=": 0x30, "<": 0xA0, "<=": 0xB0, "&": 0x40}
_SUMS = {"+": 0x00, "-": 0x10, "|": 0x40, "&": 0x50, "<<": 0x60, ">>": 0x70, "^": 0xA0}
_NUMBER, _REGISTER = 0x00, 0x08
_MAP_BY_FILE = 1


def network(value: int, size: Literal[2, 4] = 2) -> int:
    """Return the number as which this machine reads one that is in network order."""
    return int.from_bytes(value.to_bytes(size, "big"), sys.byteorder)


@dataclass(slots=True)
class Assembly:
    """A program being written."""

    _code: list[tuple[int, int, int, int]] = field(default_factory=list)
    _labels: dict[str, int] = field(default_factory=dict)
    _jumps: list[tuple[int, str]] = field(default_factory=list)

    def set(self, to: int, number: int) -> None:
        """Put a number into a register."""
        self._add(0xB7, to, 0, 0, number)

    def copy(self, to: int, source: int) -> None:
        """Copy a register."""
        self._add(0xBF, to, source)

    def load(self, size: Size, to: int, base: int, offset: int) -> None:
        """Read from memory: `to` = [`base` + offset]."""
        self._add(0x61 | _SIZES[size], to, base, offset)

    def store(self, size: Size, base: int, offset: int, source: int) -> None:
        """Write a register to memory: [`base` + offset] = `source`."""
        self._add(0x63 | _SIZES[size], base, source, offset)

    def reckon(self, to: int, sign: Literal["+", "-", "|", "&", "<<", ">>", "^"], number: int) -> None:
        """Reckon with a register and a number, in 64 bits."""
        self._add(0x07 | _SUMS[sign] | _NUMBER, to, 0, 0, number)

    def combine(self, to: int, sign: Literal["+", "-", "|", "&", "^"], source: int) -> None:
        """Reckon with two registers, in 64 bits."""
        self._add(0x07 | _SUMS[sign] | _REGISTER, to, source)

    def jump(self, label: str) -> None:
        """Go on at the label."""
        self._jumps.append((len(self._code), label))
        self._add(0x05)

    def jump_if(self, register: int, test: Test, number: int, label: str) -> None:
        """Go on at the label if so."""
        self._jumps.append((len(self._code), label))
        self._add(0x05 | _TESTS[test] | _NUMBER, register, 0, 0, number)

    def jump_if_both(self, register: int, test: Test, other: int, label: str) -> None:
        """Go on at the label if so of two registers."""
        self._jumps.append((len(self._code), label))
        self._add(0x05 | _TESTS[test] | _REGISTER, register, other)

    def label(self, name: str) -> None:
        """Name the place that comes next."""
        self._labels[name] = len(self._code)

    def load_map(self, to: int, file: int) -> None:
        """Put a map, an open file, into a register."""
        self._add(0x18, to, _MAP_BY_FILE, 0, file)
        self._add(0)

    def call(self, helper: int) -> None:
        """Call one of the kernel's functions."""
        self._add(0x85, 0, 0, 0, helper)

    def end(self) -> None:
        """Answer what is in register 0."""
        self._add(0x95)

    def code(self) -> bytes:
        """Return the program as the kernel takes it."""
        rows: list[Sequence[int]] = list(self._code)
        for at, label in self._jumps:
            operation, registers, _, number = self._code[at]
            rows[at] = operation, registers, self._labels[label] - at - 1, number
        return b"".join(_INSTRUCTION.pack(*row) for row in rows)

    def _add(self, operation: int, to: int = 0, source: int = 0, offset: int = 0, number: int = 0) -> None:
        registers = to | source << 4 if sys.byteorder == "little" else to << 4 | source
        self._code.append((operation, registers, offset, number))
