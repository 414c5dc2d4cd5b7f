"""Protobuf's wire format, by the examples of its documentation."""

from __future__ import annotations

import pytest

from netplane.lib import protobuf


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "00"),
        (1, "01"),
        (127, "7f"),
        (128, "8001"),
        (150, "9601"),
        (-1, "ffffffffffffffffff01"),
        (-2, "feffffffffffffffff01"),
    ],
)
def test_numbers_are_written_seven_bits_a_byte(value: int, written: str) -> None:
    assert protobuf.varint(value).hex() == written


def test_fields_say_their_number_and_length() -> None:
    assert protobuf.field(2, b"testing").hex() == "120774657374696e67"
    assert (protobuf.key(1, protobuf.VARINT) + protobuf.varint(150)).hex() == "089601"
    assert protobuf.field(3, protobuf.field(16, b"")).hex() == "1a03820100"
