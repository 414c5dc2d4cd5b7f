"""Resource quantities."""

from __future__ import annotations

import pytest

from netplane.kube import quantity


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("250m", 250),
        ("1", 1000),
        ("1.5", 1500),
        ("0.1", 100),
        (2, 2000),
        ("1e3", 1_000_000),
        ("100u", 1),
        (".5", 500),
    ],
)
def test_cpu_is_read_in_thousandths(text: str | int, amount: int) -> None:
    assert quantity.milli(text) == amount


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("64Mi", 64 << 20),
        ("1Gi", 1 << 30),
        ("1G", 10**9),
        ("128974848", 128974848),
        ("129e6", 129_000_000),
        ("1k", 1000),
        ("1Ki", 1024),
        ("1500m", 2),
    ],
)
def test_memory_is_read_in_bytes(text: str, amount: int) -> None:
    assert quantity.whole(text) == amount


@pytest.mark.parametrize("text", ["", "a", "1.2.3", "1Zi", "1mi", "--1"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="quantit"):
        quantity.parse(text)


@pytest.mark.parametrize("text", ["1e50", "-1e50", "99E", "9" * 60, "1e99", "9" * 60 + "Ki"])
def test_what_is_beyond_63_bits_counts_as_the_most_there_is(text: str) -> None:
    assert abs(quantity.parse(text)) == 2**63 - 1
    assert quantity.canonical(quantity.canonical(text)) == quantity.canonical(text)


@pytest.mark.parametrize("text", ["1e-50", "0." + "1" * 90, "9223372036854775806.9999999999999"])
def test_what_is_finer_than_a_billionth_is_rounded_up(text: str) -> None:
    assert quantity.parse(text) * 10**9 % 1 == 0
