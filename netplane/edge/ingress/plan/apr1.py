"""Apache's variant of MD5 crypt, which htpasswd writes unless told otherwise (apr_md5_encode)."""

from __future__ import annotations

import hashlib
from typing import Final

_LETTERS: Final = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_MAGIC: Final = b"$apr1$"
_ORDER: Final = ((0, 6, 12), (1, 7, 13), (2, 8, 14), (3, 9, 15), (4, 10, 5))


def crypt(password: str, hashed: str) -> str:
    """Return the hash of a password with the salt of another hash."""
    salt = hashed.split("$")[2][:8].encode()
    return f"$apr1${salt.decode()}${_text(_digest(password.encode(), salt))}"


def _digest(password: bytes, salt: bytes) -> bytes:
    inner = hashlib.md5(password + salt + password).digest()
    first = hashlib.md5(password + _MAGIC + salt)
    for left in range(len(password), 0, -16):
        first.update(inner[: min(16, left)])
    rest = len(password)
    while rest:
        first.update(b"\0" if rest & 1 else password[:1])
        rest >>= 1
    final = first.digest()
    for turn in range(1000):
        one = hashlib.md5(password if turn & 1 else final)
        if turn % 3:
            one.update(salt)
        if turn % 7:
            one.update(password)
        one.update(final if turn & 1 else password)
        final = one.digest()
    return final


def _text(final: bytes) -> str:
    words = [_word(final[high] << 16 | final[middle] << 8 | final[low], 4) for high, middle, low in _ORDER]
    return "".join(words) + _word(final[11], 2)


def _word(value: int, length: int) -> str:
    return "".join(_LETTERS[value >> 6 * at & 63] for at in range(length))
