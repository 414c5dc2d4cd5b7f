"""The few rule expressions that we pack by hand, for rules that change while packets flow; all others are nft text.

Each function returns one expression as nft(8) itself packs it; tests/parity compares. Registers are the kernel's 32-bit
ones, counted from 0 (wire.register); a value of 16 bytes takes four.
"""

from __future__ import annotations

from netplane.kernel.netlink.wire import attribute, nested, text
from netplane.kernel.nft.objects import NFT_GOTO
from netplane.kernel.nft.wire import S32, U32, register

EXPR_NAME, EXPR_DATA = 1, 2
META_PRIORITY, META_L4PROTO = 2, 16
REG_VERDICT = 0
NETWORK_HEADER = 1
NAT_DNAT = 1
NG_RANDOM = 1


def load_meta(key: int, to: int) -> bytes:
    """Load a META_ value."""
    return _expression("meta", _number(2, key), register(1, to))


def store_meta(key: int, source: int) -> bytes:
    """Store into a META_ field."""
    return _expression("meta", _number(2, key), register(3, source))


def mask(at: int, bits: bytes) -> bytes:
    """Keep these bits of a register."""
    size = len(bits)
    parts = register(1, at), register(2, at), _number(3, size), _number(6, 0)
    return _expression("bitwise", *parts, nested(4, attribute(1, bits)), nested(5, attribute(1, bytes(size))))


def random(modulus: int, to: int) -> bytes:
    """Load a random number below the modulus."""
    return _expression("numgen", register(1, to), _number(2, modulus), _number(3, NG_RANDOM), _number(4, 0))


def load_network(offset: int, size: int, to: int) -> bytes:
    """Load bytes of the network header."""
    parts = register(1, to), _number(2, NETWORK_HEADER), _number(3, offset), _number(4, size)
    return _expression("payload", *parts)


def jhash(source: int, size: int, to: int, modulus: int, seed: int) -> bytes:
    """Load the Jenkins hash of registers."""
    parts = register(1, source), register(2, to), _number(3, size), _number(4, modulus), _number(5, seed)
    return _expression("hash", *parts, _number(6, 0), _number(7, 0))


def lookup(name: str, source: int, to: int) -> bytes:
    """Load what a map says of a key; the rule ends when it has no such key."""
    return _expression("lookup", text(1, name), register(2, source), register(3, to))


def dnat(family: int, address: int, port: int) -> bytes:
    """Translate the destination to the address and port in registers."""
    return _expression("nat", _number(1, NAT_DNAT), _number(2, family), register(3, address), register(5, port))


def goto(chain: str) -> bytes:
    """Go on in another chain."""
    verdict = nested(2, attribute(1, S32.pack(NFT_GOTO)), text(2, chain))
    return _expression("immediate", _number(1, REG_VERDICT), nested(2, verdict))


def _expression(name: str, *attributes: bytes) -> bytes:
    return nested(1, text(EXPR_NAME, name), nested(EXPR_DATA, *attributes))


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, U32.pack(value))
