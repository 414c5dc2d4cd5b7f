"""A WireGuard device's key, port and peers as facts. Bytes on the wire are wire's; private keys are never printed."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

KEY_SIZE = 32


class Network(NamedTuple):
    """Addresses that a peer may send from and is sent to."""

    address: bytes
    length: int


class Endpoint(NamedTuple):
    """Where a peer's encrypted packets go."""

    address: bytes
    port: int

    def __str__(self) -> str:
        """Print `172.30.0.12:51820`."""
        found = ipaddress.ip_address(self.address)
        return f"[{found}]:{self.port}" if found.version == 6 else f"{found}:{self.port}"


@dataclass(frozen=True, slots=True)
class Peer:
    """Who holds the private key to the public `key`. A network belongs to one peer of a device only: the last set."""

    key: bytes
    endpoint: Endpoint | None = None
    networks: frozenset[Network] = frozenset()

    def __str__(self) -> str:
        """Print it with the key as wg(8) does."""
        return f"peer {text(self.key)}{f' at {self.endpoint}' if self.endpoint else ''}"


@dataclass(frozen=True, slots=True)
class Device:
    """What the kernel holds. `handshakes` are seconds since the epoch by peer, 0 for none yet."""

    index: int
    public: bytes = b""
    port: int = 0
    peers: Mapping[bytes, Peer] = field(default_factory=dict)
    handshakes: Mapping[bytes, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Identity:
    """The key and the port of this end."""

    private: bytes = field(repr=False)
    port: int


@dataclass(frozen=True, slots=True)
class Change:
    """One thing to do. A peer that is set keeps its session; its networks are replaced and taken from other peers."""

    verb: Literal["set", "remove"]
    peer: Peer

    def __str__(self) -> str:
        """Print `set peer 4f..= at 172.30.0.12:51820`."""
        return f"{self.verb} {self.peer}"


def text(key: bytes) -> str:
    """Print a key as wg(8) does."""
    return base64.b64encode(key).decode()


def parse(written: str) -> bytes:
    """Read a key as wg(8) prints it; ValueError when it is none."""
    key = base64.b64decode(written.encode(), validate=True)
    if len(key) != KEY_SIZE:
        raise ValueError(f"a WireGuard key has {KEY_SIZE} bytes, not {len(key)}")
    return key
