"""Read what users write in annotations. Each raises ValueError with what was expected; nothing is passed on unread."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from typing import Final, Literal, TypeVar
from urllib.parse import urlsplit

from netplane.model import address
from netplane.model.routing import Redirect

T = TypeVar("T")

_SIZE: Final = re.compile(r"(\d{1,12})([kKmMgG]?)")
_TIME: Final = re.compile(r"(\d{1,9})(ms|s|m|h|)")
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_HOST: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_PATH: Final = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/-]{0,1023}")
_ENCODED: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED: Final = frozenset(f"{string.ascii_letters}{string.digits}-._~/")
_ORIGIN: Final = re.compile(r"https?://(\*\.)?[A-Za-z0-9.-]{1,253}(:\d{1,5})?")
_URL: Final = re.compile(r"https?://[A-Za-z0-9._~!&'()*+,;=:@%/?#\[\]-]{1,2040}")
_PRINTABLE: Final = re.compile(r"[\x20-\x7e]{0,1024}")
_SCALE: Final = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
_MILLISECONDS: Final = {"ms": 1, "s": 1000, "": 1000, "m": 60_000, "h": 3_600_000}


def flag(text: str) -> bool:
    """Read `true` or `false`, also `on` and `off`."""
    if text in ("true", "on"):
        return True
    if text in ("false", "off"):
        return False
    raise ValueError(f"{_shown(text)} is neither true nor false")


def number(least: int, most: int) -> Callable[[str], int]:
    """Return a reader of whole numbers within bounds."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text[:20]) <= most):
            raise ValueError(f"{_shown(text)} is no number from {least} to {most}")
        return int(text)

    return read


def size(text: str) -> int:
    """Read `8m` as bytes; 0 is no limit."""
    found = _SIZE.fullmatch(text)
    if not found:
        raise ValueError(f"{_shown(text)} is no size; write it as 512k, 8m or 1g")
    return int(found[1]) * _SCALE[found[2].lower()]


def duration(text: str) -> int:
    """Read `30s`, or `30` for seconds, as milliseconds; at most a day."""
    found = _TIME.fullmatch(text)
    value = int(found[1]) * _MILLISECONDS[found[2]] if found else 0
    if not 1 <= value <= 86_400_000:
        raise ValueError(f"{_shown(text)} is no time from 1ms to 24h; write it as 500ms, 30s or 5m")
    return value


def networks(text: str) -> tuple[str, ...]:
    """Read networks and addresses, by commas."""
    found = tuple(str(address.prefix(one.strip())) for one in text.split(",") if one.strip())
    if not found:
        raise ValueError("it names no network; write it as 10.0.0.0/8,192.0.2.1")
    if len(",".join(found)) > 6000:
        raise ValueError("it names too many networks: more than 6000 characters")
    return found


def token(text: str) -> str:
    """Read a name of a header or cookie (RFC 9110, token)."""
    if not _TOKEN.fullmatch(text):
        raise ValueError(f"{_shown(text)} is no name of a header or cookie")
    return text


def tokens(text: str) -> tuple[str, ...]:
    """Read names by commas; `*` is one."""
    if len(text) > 2048:
        raise ValueError("it is longer than 2048 characters")
    return tuple(token(one.strip()) for one in text.split(",") if one.strip())


def host(text: str) -> str:
    """Read a DNS name."""
    if not _HOST.fullmatch(text) or len(text) > 253:
        raise ValueError(f"{_shown(text)} is no DNS name")
    return text


def path(text: str) -> str:
    """Read an absolute path of characters that a URL may hold."""
    if not _PATH.fullmatch(text):
        raise ValueError(f"{_shown(text)} is no absolute path of a URL")
    return text


def looked_up(path: str) -> str:
    """Return a path as it is looked for: what says the same in other words, as `//` and `/%61`, is written in one way.

    door.lua does the same to the paths of requests; what is sent on stays as it came.
    """
    decoded = _ENCODED.sub(lambda found: one if (one := chr(int(found[1], 16))) in _UNRESERVED else found[0], path)
    return re.sub("//+", "/", decoded)


def plain_path(text: str) -> str:
    """Read a path that is used as it is: `$1` of other controllers' regular expressions has no meaning here."""
    if "$" in text:
        raise ValueError(f"{_shown(text)} uses groups of a regular expression, which are not supported")
    return path(text)


def origins(text: str) -> tuple[str, ...]:
    """Read origins by commas: `*`, `https://a.example`, `https://*.example`."""
    if len(text) > 2048:
        raise ValueError("it is longer than 2048 characters")
    found = tuple(one.strip() for one in text.split(",") if one.strip())
    for one in found:
        if one != "*" and not _ORIGIN.fullmatch(one):
            raise ValueError(f"{_shown(one)} is no origin like https://a.example")
    return found or ("*",)


def printable(text: str) -> str:
    """Read text of one line in ASCII."""
    if not _PRINTABLE.fullmatch(text):
        raise ValueError(f"{_shown(text)} is not one line of printable ASCII")
    return text


def choice(*words: str) -> Callable[[str], str]:
    """Return a reader of one of these words."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"{_shown(text)} is none of {', '.join(words)}")
        return text

    return read


def redirect_status(text: str) -> int:
    """Read the status of a redirect."""
    return int(choice("301", "302", "303", "307", "308")(text))


def url(text: str) -> Redirect:
    """Read an absolute http(s) URL as where a redirect leads: the answer's Location is this text as it stands."""
    try:
        parts = urlsplit(text)
        host(parts.hostname or "")
        is_wrong = parts.port == 0 or parts.username is not None
    except ValueError as error:
        raise ValueError(f"{_shown(text)} is no URL like https://host/path") from error
    if is_wrong or parts.scheme not in ("http", "https") or not _URL.fullmatch(text):
        raise ValueError(f"{_shown(text)} is no URL like https://host/path, without variables")
    return Redirect(location=text)


Verify = Literal["", "on", "optional"]


def _shown(text: str) -> str:
    return repr(text if len(text) <= 64 else text[:61] + "...")
