"""Read Kubernetes quantities: "500m", "64Mi", "1e3" (k8s.io/apimachinery, resource.Quantity)."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

_SUFFIXES = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1),
    "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12), "P": Decimal(10**15),
    "E": Decimal(10**18), "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40),
    "Pi": Decimal(2**50), "Ei": Decimal(2**60),
}  # fmt: skip


def parse(text: str | int | float) -> Decimal:
    """Return the number that a quantity stands for. Raises ValueError."""
    word = str(text).strip()
    number = word.rstrip("numkKMGTPEi")
    suffix = word[len(number) :]
    try:
        return Decimal(number) * _SUFFIXES[suffix]
    except (InvalidOperation, KeyError) as error:
        raise ValueError(f"{word!r} is not a quantity") from error


def ceil(value: Decimal, divisor: Decimal = Decimal(1)) -> int:
    """Return value / divisor, rounded up, as the downward API counts."""
    return int((value / divisor).to_integral_value(rounding="ROUND_CEILING"))
