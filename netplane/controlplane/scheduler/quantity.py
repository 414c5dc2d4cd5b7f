"""Read Kubernetes resource quantities: `250m`, `1.5`, `64Mi`, `1e3`."""

from __future__ import annotations

import re
from fractions import Fraction

_FORM = re.compile(r"^([+-]?(?:\d+\.?\d*|\.\d+))(?:[eE]([+-]?\d+)|([numkKMGTPE]i?))?$")
_SCALE = {
    "": Fraction(1),
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    **{unit: Fraction(1000**power) for power, unit in enumerate("kMGTPE", 1)},
    **{unit + "i": Fraction(1024**power) for power, unit in enumerate("KMGTPE", 1)},
}


def parse(text: str | int | float) -> Fraction:
    """Return the exact amount. Raises ValueError when it is no quantity."""
    found = _FORM.match(str(text).strip())
    if found is None:
        raise ValueError(f"{text!r} is no quantity")
    number, exponent, unit = found.groups()
    scale = Fraction(10) ** int(exponent) if exponent else _SCALE.get(unit or "")
    if scale is None:
        raise ValueError(f"{text!r} is no quantity: unit {unit}")
    return Fraction(number) * scale


def milli(text: str | int | float) -> int:
    """Return thousandths, rounded up: how CPU is counted."""
    return _up(parse(text) * 1000)


def whole(text: str | int | float) -> int:
    """Return units, rounded up: how bytes and pieces are counted."""
    return _up(parse(text))


def _up(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)
