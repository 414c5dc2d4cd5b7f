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

    __slots__ = ("default", "path")

    def __init__(self, path: tuple[str, ...], default: str) -> None:
        self.path = path
        self.default = default

    def __call__(self, obj: Object) -> str:
        value: object = obj
        for step in self.path:
            if not isinstance(value, dict):
                return self.default
            value = value.get(step)
        if value is None or value == "":
            return self.default
        if value is True or value is False:
            return "true" if value else "false"
        return str(value)
