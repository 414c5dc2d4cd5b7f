"""Parts of objects whose JSON is known: what many objects have alike is encoded once. Who remembers it is elsewhere."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Never

import orjson

from netplane.kube.types import Object


def _refuse(self: object, *_: Any, **__: Any) -> Never:
    raise TypeError("what is known is not changed: take a copy")


class _Fixed(dict[str, Any]):
    """A dict that stays as it is."""

    __slots__ = ()
    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __copy__(self) -> Object:
        return dict(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Object:
        return {name: copy.deepcopy(part, memo) for name, part in self.items()}


class _FixedList(list[Any]):
    """A list that stays as it is."""

    __slots__ = ()
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = clear = extend = insert = pop = remove = reverse = sort = _refuse

    def __copy__(self) -> list[Any]:
        return list(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> list[Any]:
        return [copy.deepcopy(part, memo) for part in self]


class Known(_Fixed):
    """A part of an object as JSON reads it, with that JSON. It stays as it is, and so must everything within."""

    __slots__ = ("text",)

    def __init__(self, part: Mapping[str, Any], text: bytes) -> None:
        super().__init__(part)
        self.text = text


def read(text: bytes) -> Known:
    """Return the object that a text holds, with the text."""
    return Known(orjson.loads(text), text)


def shared(text: bytes) -> Known:
    """Return what `read` does, for many objects to have in common: nothing within can be changed either."""
    return Known({name: _fixed(part) for name, part in orjson.loads(text).items()}, text)


def _fixed(part: Any) -> Any:
    if isinstance(part, dict):
        return _Fixed({name: _fixed(each) for name, each in part.items()})
    return _FixedList(map(_fixed, part)) if isinstance(part, list) else part


def copied(obj: Object) -> Object:
    """Return a copy of an object that may be changed, but for its known parts: those are the same ones."""
    return {name: part if part.__class__ is Known else copy.deepcopy(part) for name, part in obj.items()}


def thaw(obj: Object, name: str) -> None:
    """Make a known part of an object one that may be changed."""
    part = obj.get(name)
    if part.__class__ is Known:
        obj[name] = orjson.loads(part.text)


def encoded(obj: Object) -> bytes:
    """Return an object as JSON, the known parts of it as they are."""
    return orjson.dumps(obj, default=_text, option=orjson.OPT_PASSTHROUGH_SUBCLASS)


def _text(value: object) -> orjson.Fragment:
    return orjson.Fragment(value.text if isinstance(value, Known) else orjson.dumps(value))
