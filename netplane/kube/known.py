"""Parts of objects whose JSON is known: what many objects have alike is encoded once. Who remembers it is elsewhere."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Never

import orjson

from netplane.kube.types import Object


class Known(dict[str, Any]):
    """A part of an object as JSON reads it, with that JSON. It stays as it is, and so must everything within."""

    __slots__ = ("text",)

    def __init__(self, part: Mapping[str, Any], text: bytes) -> None:
        super().__init__(part)
        self.text = text

    def _refuse(self, *_: Any, **__: Any) -> Never:
        raise TypeError("what is known is not changed: take a copy")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __copy__(self) -> Object:
        return dict(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Object:
        return copy.deepcopy(dict(self), memo)


def read(text: bytes) -> Known:
    """Return the object that a text holds, with the text."""
    return Known(orjson.loads(text), text)


def encoded(obj: Object) -> bytes:
    """Return an object as JSON, the known parts of it as they are."""
    return orjson.dumps(obj, default=_text, option=orjson.OPT_PASSTHROUGH_SUBCLASS)


def _text(value: object) -> orjson.Fragment:
    return orjson.Fragment(value.text if isinstance(value, Known) else orjson.dumps(value))
