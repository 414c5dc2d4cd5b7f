"""The functions that Kubernetes adds to CEL: lists, texts, patterns, URLs, addresses, quantities.

Source: k8s.io/apiserver/pkg/cel/library and cel-go's ext/strings. A function raises ValueError for what it cannot do.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

from netplane.kube import quantity

_LONGEST = 1 << 20
_REGEX_STEPS = 10_000_000
Function = Callable[..., Any]


def _limited(text: str) -> str:
    if len(text) > _LONGEST:
        raise ValueError(f"the text has more than {_LONGEST} characters")
    return text


def _is_sorted(items: Sequence[Any]) -> bool:
    return all(a <= b for a, b in itertools.pairwise(items))


def _index_of(value: Any, wanted: Any, start: int = 0) -> int:
    if isinstance(value, str):
        return value.find(wanted, start)
    return next((index for index, each in enumerate(value) if each == wanted), -1)


def _last_index_of(value: Any, wanted: Any) -> int:
    if isinstance(value, str):
        return value.rfind(wanted)
    return next((index for index in range(len(value) - 1, -1, -1) if value[index] == wanted), -1)


def _sum(items: Sequence[Any]) -> Any:
    return sum(items[1:], items[0]) if items else 0


def _replace(text: str, old: str, new: str, limit: int = -1) -> str:
    count = text.count(old) if limit < 0 else min(limit, text.count(old))
    if len(text) + count * len(new) > _LONGEST:
        raise ValueError(f"the text has more than {_LONGEST} characters")
    return text.replace(old, new, limit)


def _split(text: str, by: str, limit: int = -1) -> list[str]:
    if limit == 0:
        return []
    if not by:
        return list(text) if limit < 0 else [*text[: limit - 1], text[limit - 1 :]]
    return text.split(by, limit - 1 if limit > 0 else -1)


def _substring(text: str, start: int, end: int | None = None) -> str:
    stop = len(text) if end is None else end
    if not 0 <= start <= stop <= len(text):
        raise ValueError(f"substring({start}, {stop}) of a text of {len(text)} characters")
    return text[start:stop]


def _char_at(text: str, index: int) -> str:
    if not 0 <= index <= len(text):
        raise ValueError(f"charAt({index}) of a text of {len(text)} characters")
    return text[index : index + 1]


def _format(text: str, values: Sequence[Any]) -> str:
    left = list(values)

    def one(match: re.Match[str]) -> str:
        kind = match.group(2)
        if kind == "%":
            return "%"
        if not left:
            raise ValueError("format: too few arguments")
        value = left.pop(0)
        if kind == "s":
            return _shown(value)
        digits = int(match.group(1) or 6)
        if kind in "fe":
            return f"{float(value):.{min(digits, 100)}{kind}}"
        return {"d": "{:d}", "b": "{:b}", "o": "{:o}", "x": "{:x}", "X": "{:X}"}[kind].format(int(value))

    return _limited(re.sub(r"%(?:\.(\d+))?([sdfeboxX%])", one, text))


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_shown(k)}: {_shown(value[k])}" for k in sorted(value)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_shown, value)) + "]"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _pattern(text: str, subject: str) -> re.Pattern[str]:
    """Compile a pattern that cannot take long: Python goes back and tries again, where RE2 never does."""
    repetitions = len(re.findall(r"[+*}?]", text))
    if len(text) > 1000 or re.search(r"\)\s*[+*{]|\\[1-9]|\(\?[=!<]", text):
        raise ValueError("patterns with repeated groups, back references or look-around are not accepted")
    if len(subject) ** min(max(repetitions, 1), 12) > _REGEX_STEPS:
        raise ValueError("the pattern would take too long on this text")
    return re.compile(text)


def _find(text: str, pattern: str) -> str:
    found = _pattern(pattern, text).search(text)
    return found.group() if found else ""


def _find_all(text: str, pattern: str, limit: int = -1) -> list[str]:
    found = [match.group() for match in _pattern(pattern, text).finditer(text)]
    return found if limit < 0 else found[:limit]


def _url(text: str) -> SplitResult:
    found = urlsplit(text)
    if not (found.scheme and (found.netloc or found.path.startswith("/"))) and not text.startswith("/"):
        raise ValueError(f"{text!r} is no URL")
    found.port  # noqa: B018  # raises ValueError for a bad one
    return found


def _holds(make: Function) -> Function:
    def ask(*values: Any) -> bool:
        try:
            make(*values)
        except (ValueError, TypeError):
            return False
        return True

    return ask


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    found = ipaddress.ip_address(text)
    if "%" in text or (isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped):
        raise ValueError(f"{text!r}: zones and IPv4-mapped addresses are not accepted")
    return found


def _cidr(text: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    if "/" not in text:
        raise ValueError(f"{text!r} has no prefix length")
    return ipaddress.ip_interface(text)


def _quantity(text: str) -> Decimal:
    return Decimal(str(quantity.parse(text)))


def _kept_quantity(text: str) -> dict[str, str]:
    return _as_quantity(_quantity(text))


def of(value: Any, kind: str) -> Any:
    """Return what an opaque value holds: the library hands values of ours on only as maps."""
    if not isinstance(value, Mapping) or kind not in value:
        raise TypeError(f"no such overload: a {kind} is wanted")
    return value[kind]


def _opaque(kind: str, make: Function, **known: Function) -> dict[str, Function]:
    """Return the constructor, the test and the methods of a kind of value, which is kept as `{kind: text}`."""
    out: dict[str, Function] = {
        name: lambda value, *more, act=act: act(make(of(value, kind)), *more) for name, act in known.items()
    }

    def constructed(text: Any) -> dict[str, str]:
        if isinstance(text, Mapping):
            return dict(text)
        made = make(text)
        return {kind: text if kind == "url" else str(made)}

    return out | {kind: constructed}


def _amount(value: Any) -> Decimal:
    return _quantity(of(value, "quantity"))


def _as_quantity(value: Decimal) -> dict[str, str]:
    return {"quantity": format(value.normalize(), "f")}


def _other(value: Any) -> Decimal:
    return Decimal(value) if isinstance(value, int) else _amount(value)


def _contained(cidr: Any, other: Any) -> bool:
    text = next(iter(other.values())) if isinstance(other, Mapping) else other
    network = cidr.network
    inner = ipaddress.ip_network(text, strict=False)
    return inner.version == network.version and inner.subnet_of(network)


_URL = _opaque(
    "url",
    _url,
    getScheme=lambda u: u.scheme,
    getHost=lambda u: u.netloc.rpartition("@")[2],
    getHostname=lambda u: u.hostname or "",
    getPort=lambda u: str(u.port or ""),
    getEscapedPath=lambda u: u.path,
    getQuery=lambda u: parse_qs(u.query, keep_blank_values=True),
)
_CIDR = _opaque(
    "cidr",
    _cidr,
    containsIP=_contained,
    containsCIDR=_contained,
    prefixLength=lambda c: c.network.prefixlen,
    masked=lambda c: {"cidr": str(c.network)},
)
_IP = _opaque(
    "ip",
    _ip,
    isUnspecified=lambda a: a.is_unspecified,
    isLoopback=lambda a: a.is_loopback,
    isLinkLocalMulticast=lambda a: a.is_multicast and str(a).startswith(("224.0.0.", "ff02:")),
    isLinkLocalUnicast=lambda a: a.is_link_local,
    isGlobalUnicast=lambda a: not (a.is_unspecified or a.is_loopback or a.is_multicast or a.is_link_local),
)


def _family(value: Any) -> int:
    if isinstance(value, Mapping) and "cidr" in value:
        return _cidr(value["cidr"]).version
    return _ip(of(value, "ip")).version


def _ip_of(value: Any) -> dict[str, str]:
    """`ip("…")`, and `cidr("…").ip()`."""
    if isinstance(value, Mapping) and "cidr" in value:
        return {"ip": str(_cidr(value["cidr"]).ip)}
    made: dict[str, str] = _IP["ip"](value)
    return made


FUNCTIONS: Mapping[str, Function] = {
    "isSorted": _is_sorted,
    "sum": _sum,
    "min": min,
    "max": max,
    "indexOf": _index_of,
    "lastIndexOf": _last_index_of,
    "distinct": lambda items: [each for index, each in enumerate(items) if each not in items[:index]],
    "reverse": lambda value: value[::-1],
    "slice": lambda items, start, end: items[start:end],
    "flatten": lambda items: [inner for each in items for inner in (each if isinstance(each, list) else [each])],
    "sort": sorted,
    "join": lambda items, by="": _limited(by.join(items)),
    "charAt": _char_at,
    "lowerAscii": lambda text: "".join(c.lower() if c.isascii() else c for c in text),
    "upperAscii": lambda text: "".join(c.upper() if c.isascii() else c for c in text),
    "replace": _replace,
    "split": _split,
    "substring": _substring,
    "trim": lambda text: text.strip(),
    "format": _format,
    "find": _find,
    "findAll": _find_all,
    "isURL": _holds(_url),
    **_URL,
    **_CIDR,
    **_IP,
    "isCIDR": _holds(_cidr),
    "isIP": _holds(_ip),
    "ip": _ip_of,
    "family": _family,
    "ip_isCanonical": lambda text: str(_ip(text)) == text,
    "isQuantity": _holds(_quantity),
    "quantity": _kept_quantity,
    "sign": lambda value: (_amount(value) > 0) - (_amount(value) < 0),
    "isInteger": lambda value: _amount(value) == _amount(value).to_integral_value(),
    "asInteger": lambda value: int(_amount(value)),
    "asApproximateFloat": lambda value: float(_amount(value)),
    "isGreaterThan": lambda value, other: _amount(value) > _amount(other),
    "isLessThan": lambda value, other: _amount(value) < _amount(other),
    "compareTo": lambda value, other: (_amount(value) > _amount(other)) - (_amount(value) < _amount(other)),
    "add": lambda value, other: _as_quantity(_amount(value) + _other(other)),
    "sub": lambda value, other: _as_quantity(_amount(value) - _other(other)),
    "sets_contains": lambda items, other: all(each in items for each in other),
    "sets_intersects": lambda items, other: any(each in items for each in other),
    "sets_equivalent": lambda items, other: all(e in items for e in other) and all(e in other for e in items),
    "math_greatest": lambda *values: max(values[0] if len(values) == 1 and isinstance(values[0], list) else values),
    "math_least": lambda *values: min(values[0] if len(values) == 1 and isinstance(values[0], list) else values),
}
"""By name; a function of a package (`sets.contains`) has an underscore in place of its dot."""
