"""The JSONPath of printer columns: fields, indices, wildcards and filters by equality."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

Step = Callable[[list[Any]], list[Any]]

_TOKEN = re.compile(
    r"""\.(?P<name>(?:\\.|[^.\[\\])+)
      | \[(?P<index>-?\d+)\]
      | \[(?P<slice>-?\d*:-?\d*)\]
      | \[(?P<quote>['"])(?P<quoted>.*?)(?P=quote)\]
      | \[\?\(\s*@\.(?P<left>[^=!<>]+?)\s*(?P<operator>==|!=|>=|<=|>|<)\s*(?P<right>.+?)\s*\)\]
      | (?P<all>\[\*\]|\.\*)""",
    re.VERBOSE,
)


class JsonPathError(ValueError):
    """A path that cannot be read, with the part that is wrong."""


def find(obj: Any, path: str) -> list[Any]:
    """Return every value at a path such as `.status.conditions[?(@.type=="Ready")].status`. Raises JsonPathError."""
    values = [obj]
    for step in steps(path):
        values = step(values)
    return values


@lru_cache(1024)
def steps(path: str) -> tuple[Step, ...]:
    """Return a path's steps. Raises JsonPathError."""
    text = path[1:-1] if path.startswith("{") and path.endswith("}") else path
    text = text.removeprefix("$")
    made: list[Step] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise JsonPathError(f"unrecognized character in {path!r} at {text[position:]!r}")
        made.append(_step(match))
        position = match.end()
    return tuple(made)


def _step(match: re.Match[str]) -> Step:
    if match["all"]:
        return _everything
    if match["index"] is not None:
        return _at(int(match["index"]))
    if match["slice"] is not None:
        low, _, high = match["slice"].partition(":")
        return _between(int(low) if low else None, int(high) if high else None)
    if match["left"] is not None:
        return _where(match["left"], match["operator"], _literal(match["right"]))
    name = match["quoted"] if match["quoted"] is not None else re.sub(r"\\(.)", r"\1", match["name"])
    return _named(name)


def _named(name: str) -> Step:
    return lambda values: [each[name] for each in values if isinstance(each, dict) and name in each]


def _at(index: int) -> Step:
    return lambda values: [e[index] for e in values if isinstance(e, list) and -len(e) <= index < len(e)]


def _between(low: int | None, high: int | None) -> Step:
    return lambda values: [item for each in values if isinstance(each, list) for item in each[low:high]]


def _everything(values: list[Any]) -> list[Any]:
    found: list[Any] = []
    for each in values:
        found += list(each.values()) if isinstance(each, dict) else each if isinstance(each, list) else []
    return found


def _where(left: str, operator: str, right: Any) -> Step:
    compare = _OPERATORS[operator]

    def select(values: list[Any]) -> list[Any]:
        found: list[Any] = []
        for item in _everything(values):
            sides = find(item, f".{left}")
            if sides and type(sides[0]) is type(right) and compare(sides[0], right):
                found.append(item)
        return found

    return select


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: bool(a == b),
    "!=": lambda a, b: bool(a != b),
    "<": lambda a, b: bool(a < b),
    ">": lambda a, b: bool(a > b),
    "<=": lambda a, b: bool(a <= b),
    ">=": lambda a, b: bool(a >= b),
}


def _literal(text: str) -> Any:
    if text[:1] in "'\"" and text[-1:] == text[:1]:
        return text[1:-1]
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text)
    except ValueError:
        raise JsonPathError(f"a filter compares with {text!r}, which is no text, number or truth") from None
