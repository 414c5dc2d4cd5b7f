"""Packed addresses read, print and contain as people expect."""

import pytest

from netplane.model import address


@pytest.mark.parametrize("text", ["10.0.0.1", "255.255.255.255", "fd00::1", "::", "2001:db8::8:800:200c:417a"])
def test_an_address_prints_as_it_was_read(text: str) -> None:
    assert address.text(address.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "10.0.0", "10.0.0.256", "10.0.0.+1", "10.0.0.1_0", "fe80::1%eth0", "x", "1.2.3.4.5"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an IP address"):
        address.parse(text)


def test_leading_zeros_are_decimal() -> None:
    assert address.text(address.parse("010.000.0.08")) == "10.0.0.8"


def test_a_mapped_address_is_the_ipv4_address() -> None:
    assert address.parse("::ffff:10.0.0.1") == address.parse("10.0.0.1")


def test_a_prefix_forgets_host_bits() -> None:
    assert str(address.prefix("10.1.2.3/8")) == "10.0.0.0/8"


def test_a_bare_address_is_a_prefix_of_its_own() -> None:
    assert str(address.prefix(" fd00::1 ")) == "fd00::1/128"


@pytest.mark.parametrize("text", ["10.0.0.0/33", "10.0.0.0/-1", "fd00::/129", "10.0.0.0/x", "10.0.0.0/"])
def test_a_prefix_length_beyond_the_family_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="prefix length"):
        address.prefix(text)


@pytest.mark.parametrize(
    ("prefix", "inside", "outside"),
    [
        ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
        ("0.0.0.0/0", "192.0.2.1", "fd00::1"),
        ("fd00:244::/48", "fd00:244:0:ffff::1", "fd00:245::"),
        ("10.0.0.1/32", "10.0.0.1", "10.0.0.2"),
    ],
)
def test_a_prefix_holds_its_own_family_alone(prefix: str, inside: str, outside: str) -> None:
    network = address.prefix(prefix)
    assert address.parse(inside) in network
    assert address.parse(outside) not in network


def test_the_last_address_of_a_prefix() -> None:
    assert address.text(address.prefix("10.96.0.0/15").last) == "10.97.255.255"


def test_overlap_is_mutual() -> None:
    wide, narrow, other = map(address.prefix, ("10.0.0.0/8", "10.1.0.0/16", "11.0.0.0/8"))
    assert wide.overlaps(narrow)
    assert narrow.overlaps(wide)
    assert not wide.overlaps(other)


@pytest.mark.parametrize(
    "length, network", [(22, "10.97.252.0/22"), (16, "10.97.0.0/16"), (15, "10.96.0.0/15"), (0, "0.0.0.0/0")]
)
def test_a_wider_network_holds_the_one_it_is_around(length: int, network: str) -> None:
    inside = address.prefix("10.97.255.0/24")
    assert str(inside.wider(length)) == network
    assert inside.last in inside.wider(length)
    assert inside.wider(24) == inside


def test_names_and_sloppy_numbers_are_no_addresses() -> None:
    assert [t for t in ("10.0.0.1", "fd00::1", "10.0.0.01", "10.0.0", "a.example") if address.is_address(t)] == [
        "10.0.0.1",
        "fd00::1",
    ]
