"""Tell cheaply that a JSON text gives no field twice: what was decoded, written down again, then has as many colons."""

from __future__ import annotations

from typing import Any

import orjson


def is_single(text: bytes, decoded: Any) -> bool:
    """Whether a JSON text surely says nothing twice; `decoded` is all that it says.

    Exact, as each field has a colon and texts keep theirs, unless they write them as `\\u003a`.
    """
    if b"\\u" in text:
        return False
    try:
        return text.count(b":") == orjson.dumps(decoded).count(b":")
    except TypeError:  # nested deeper than it writes
        return False
