"""Write texts so that they are one word of a map, whatever they hold. door.lua reads them back.

Fields are joined by `&`, a field is `name=part=part`, lists of fields are joined by `|`.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote


def part(text: str) -> str:
    """Percent-encode everything but letters, digits and `-._~`."""
    return quote(text, safe="")


def field_text(name: str, *parts: str) -> str:
    """Return one field."""
    return "=".join([name, *map(part, parts)])


def list_text(rows: Iterable[str]) -> str:
    """Return several texts of fields as one."""
    return "|".join(rows)
