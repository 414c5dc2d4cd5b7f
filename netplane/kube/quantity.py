"""Amounts such as 500m, 1.5Gi or 12e6: their value and their canonical text (k8s.io/apimachinery/pkg/api/resource)."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache

_MATCH = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))([a-zA-Z]{0,2}|[eE][+-]?[0-9]+)").fullmatch
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY_NAMES = ("", *_BINARY)
_DECIMAL_NAMES = {power: name for name, power in _DECIMAL.items()}
_NANO = Decimal("1e-9")
_MOST = Decimal(2**63 - 1)

SYNTAX = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"


def parse(text: str | int | float) -> Decimal:
    """Return the value of a quantity, rounded up to a billionth and never beyond 2^63-1, as the API defines it.

    Raises ValueError with the real API's words.
    """
    return _parsed(str(text))


def milli(text: str | int | float) -> int:
    """Return thousandths, rounded up: how CPU is counted."""
    return ceil(parse(text), Decimal("0.001"))


def whole(text: str | int | float) -> int:
    """Return units, rounded up: how bytes and pieces are counted."""
    return ceil(parse(text))


def ceil(value: Decimal, divisor: Decimal = Decimal(1)) -> int:
    """Return value / divisor, rounded up, as the downward API counts."""
    return int((value / divisor).to_integral_value(rounding=ROUND_CEILING))


@lru_cache(2048)
def _parsed(text: str) -> Decimal:
    match = _MATCH(text)
    if match is None:
        raise ValueError(SYNTAX)
    number, suffix = match.groups()
    if suffix in _BINARY:
        value: Decimal = Decimal(number) * Decimal(1024 ** _BINARY[suffix])
    elif suffix in _DECIMAL:
        value = Decimal(number).scaleb(_DECIMAL[suffix])
    elif suffix[0] in "eE" and len(suffix) > 1 and abs(int(suffix[1:])) < 100:
        value = Decimal(number).scaleb(int(suffix[1:]))
    else:
        raise ValueError("unable to parse quantity's suffix")
    if abs(value) > _MOST:
        return _MOST.copy_sign(value)
    if value % _NANO == 0:
        return value
    return value.quantize(_NANO, rounding=ROUND_CEILING)


@lru_cache(2048)
def canonical(text: str) -> str:
    """Return the shortest text with an integer mantissa, as the real API answers: 0.5 → 500m, 1024Mi → 1Gi."""
    value = parse(text)
    if text[-1:] == "i" and abs(value) >= 1024:
        return _binary(value)
    if text[-1:].isdigit() and ("e" in text or "E" in text):
        return _in_powers(value, lambda power: f"e{power}" if power else "")
    return _in_powers(value, lambda power: _DECIMAL_NAMES[power])


def _binary(value: Decimal) -> str:
    number = int(value.to_integral_value(rounding=ROUND_CEILING))
    power = 0
    while number % 1024 == 0 and power < len(_BINARY_NAMES) - 1:
        number //= 1024
        power += 1
    # Without a suffix the text would be read as a decimal amount next time: write it as one now.
    return f"{number}{_BINARY_NAMES[power]}" if power else canonical(str(number))


def _in_powers(value: Decimal, suffix: Callable[[int], str]) -> str:
    if value == 0:
        return "0"
    power = 18
    while power > -9 and value.scaleb(-power) % 1 != 0:
        power -= 3
    return f"{int(value.scaleb(-power))}{suffix(power)}"
