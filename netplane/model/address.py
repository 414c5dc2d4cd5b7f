"""Hold IP addresses and prefixes as packed bytes, and read and print them. Which address means what is for others.

Packed bytes (4 or 16) hash, compare, sort and enter kernel messages without conversion; `text` is for people.
"""

from __future__ import annotations

import enum
import ipaddress
from typing import NamedTuple

Packed = bytes
"""An address in network byte order: 4 bytes for IPv4, 16 for IPv6."""


class Family(enum.IntEnum):
    """An IP family, by its version number."""

    V4 = 4
    V6 = 6

    __hash__ = int.__hash__  # Enum's own is Python, and keys of what changes are hashed again and again.

    @property
    def bits(self) -> int:
        """The length of an address in bits."""
        return 32 if self is Family.V4 else 128

    def __str__(self) -> str:
        """Name the family as Kubernetes does."""
        return "IPv4" if self is Family.V4 else "IPv6"


class Prefix(NamedTuple):
    """A network: its first address, and how many leading bits belong to it."""

    network: Packed
    length: int

    @property
    def family(self) -> Family:
        """The family of its addresses."""
        return family(self.network)

    def __contains__(self, address: object) -> bool:
        """Tell whether a packed address of either family lies in it."""
        if not isinstance(address, bytes) or len(address) != len(self.network):
            return False
        shift = len(address) * 8 - self.length
        return int.from_bytes(address, "big") >> shift == int.from_bytes(self.network, "big") >> shift

    @property
    def last(self) -> Packed:
        """Its highest address."""
        width = len(self.network)
        rest = (1 << (width * 8 - self.length)) - 1
        return (int.from_bytes(self.network, "big") | rest).to_bytes(width, "big")

    def overlaps(self, other: Prefix) -> bool:
        """Tell whether one of the two holds the other."""
        return self.network in other or other.network in self

    def wider(self, length: int) -> Prefix:
        """Return the network around it that has so many leading bits, at most its own."""
        width = len(self.network)
        shift = width * 8 - length
        return Prefix((int.from_bytes(self.network, "big") >> shift << shift).to_bytes(width, "big"), length)

    def __str__(self) -> str:
        """Print it as `10.0.0.0/8`."""
        return f"{text(self.network)}/{self.length}"


_OCTETS = {str(octet): octet for octet in range(256)}


def parse(value: str) -> Packed:
    """Read one address. ValueError when it is none.

    Leading zeros in IPv4 are read as decimal, for the API server still stores such old addresses (Go's ParseIPSloppy),
    and an IPv4-mapped IPv6 address is the IPv4 address, as it is for Go.
    """
    parts = value.split(".")
    if len(parts) == 4:
        try:
            return bytes([_OCTETS[part] for part in parts])
        except KeyError:
            pass  # Written otherwise, or no address.
    if len(parts) == 4 and value.isascii() and value.replace(".", "").isdigit():
        try:
            return bytes(map(int, parts))
        except ValueError as error:
            raise ValueError(f"{value!r} is not an IP address") from error
    if "%" in value:
        raise ValueError(f"{value!r} is not an IP address without a zone")
    try:
        six = ipaddress.IPv6Address(value)
    except ValueError as error:
        raise ValueError(f"{value!r} is not an IP address") from error
    return six.ipv4_mapped.packed if six.ipv4_mapped else six.packed


def is_address(value: str) -> bool:
    """Tell whether a text is an address, and written without leading zeros, which `parse` allows."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def prefix(value: str) -> Prefix:
    """Read `10.0.0.0/8`; host bits are cleared, and a bare address is its own network. ValueError when it is none."""
    address, slash, bits = value.strip().partition("/")
    packed = parse(address)
    width = len(packed) * 8
    if not slash:
        return Prefix(packed, width)
    if not (bits.isascii() and bits.isdigit()) or int(bits) > width:
        raise ValueError(f"{value!r} is not a network: its prefix length is 0 to {width}")
    return Prefix(packed, width).wider(int(bits))


def family(packed: Packed) -> Family:
    """Return the family of a packed address."""
    return Family.V4 if len(packed) == 4 else Family.V6


def text(packed: Packed) -> str:
    """Print a packed address in its canonical form (RFC 5952 for IPv6)."""
    if len(packed) == 4:
        return ".".join(map(str, packed))
    return str(ipaddress.IPv6Address(packed))


def with_port(packed: Packed, port: int) -> str:
    """Print `10.0.0.1:80` or `[fd00::1]:80`."""
    return f"{text(packed)}:{port}" if len(packed) == 4 else f"[{text(packed)}]:{port}"


def any_contains(prefixes: tuple[Prefix, ...], address: Packed) -> bool:
    """Tell whether one of the networks holds the address."""
    return any(address in prefix for prefix in prefixes)
