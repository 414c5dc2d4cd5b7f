"""Subresources and readers that several API groups share."""

from __future__ import annotations

from netplane.controlplane.registry.types import Subresource
from netplane.kube.types import Object

STATUS = Subresource("status", ("get", "patch", "update"))
SCALE = Subresource("scale", ("get", "patch", "update"), kind="Scale", group="autoscaling", version="v1")
ALL = ("all",)


def read(*path: str, default: str = "") -> FieldReader:
    """Return a reader of the text at a path, for field selectors."""
    return FieldReader(path, default)


class FieldReader:
    """Reads one field as the text which a field selector compares."""

    __slots__ = ("_first", "_second", "default", "path")

    def __init__(self, path: tuple[str, ...], default: str) -> None:
        self.path = path
        self.default = default
        self._first, self._second = path if len(path) == 2 else ("", "")

    def __call__(self, obj: Object) -> str:
        value: object
        if self._second:
            part = obj.get(self._first)
            value = part.get(self._second) if isinstance(part, dict) else None
        else:
            value = self._walk(obj)
        if value is None or value == "":
            return self.default
        if value.__class__ is str:
            return value
        if value is True or value is False:
            return "true" if value else "false"
        return str(value)

    def _walk(self, obj: Object) -> object:
        value: object = obj
        for step in self.path:
            if not isinstance(value, dict):
                return None
            value = value.get(step)
        return value
