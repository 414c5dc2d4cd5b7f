"""Know what an API server does to objects, as far as `fake` needs it: patches, replacement, selection, grace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import orjson

from netplane.kube import errors, meta, select
from netplane.kube import patch as patching
from netplane.kube.api import Patch, PatchKind
from netplane.kube.shape import ANY, Shape
from netplane.kube.types import PODS, EventType, Object, Resource

Filter = Callable[[Object], bool]

_SERVER_SIDE = frozenset(
    {"uid", "creationTimestamp", "generation", "resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds"}
)

_CONDITIONS = Shape(kind="list", items=ANY, merge_key="type", strategies=frozenset({"merge"}))
_STATUS = Shape(
    kind="object",
    is_open=True,
    fields={"status": Shape(kind="object", is_open=True, fields={"conditions": _CONDITIONS})},
)


@dataclass(frozen=True, slots=True)
class Past:
    """What happened at one revision: the object before and after, None where it was not."""

    revision: int
    resource: Resource
    old: Object | None
    new: Object | None


def patched(obj: Object, patch: Patch, kind: PatchKind) -> Object:
    """Return the object changed by a patch. Of strategic merges only conditions merge by key."""
    try:
        if isinstance(patch, list):
            patched: Object = patching.json(obj, patch)
            return patched
        if kind == "strategic":
            return patching.strategic(obj, copy(patch), _STATUS)
        merged: Object = patching.merge(obj, copy(patch))
        return merged
    except patching.PatchError as error:
        kind_of_error = errors.BadRequest if error.is_malformed else errors.Invalid
        raise kind_of_error(400 if error.is_malformed else 422, kind_of_error.__name__, str(error)) from error


def replaced(old: Object, new: Object, *, is_status: bool) -> Object:
    """Return what becomes of `old` when `new` is written to it, or to its status: the other half stays."""
    before = old["metadata"]
    if is_status:
        new = {**copy(old), "status": new.get("status") or {}}
    else:
        new = {key: value for key, value in new.items() if key != "status"}
        if "status" in old:
            new["status"] = copy(old["status"])
    kept = {name: before[name] for name in _SERVER_SIDE if name in before}
    new = {"apiVersion": old["apiVersion"], "kind": old["kind"], **new, "metadata": {**new["metadata"], **kept}}
    if new.get("spec") != old.get("spec"):
        new["metadata"]["generation"] = before.get("generation", 1) + 1
    return new


def copy(obj: Object) -> Object:
    """Return a copy that shares nothing; what is no JSON fails here as it would on the wire."""
    copied: Object = orjson.loads(orjson.dumps(obj))
    return copied


def selection(namespace: str, label_selector: str, field_selector: str) -> Filter:
    """Return the question whether an object is selected. Raises SelectorError."""
    by_labels, by_fields = select.parse(label_selector), select.parse_fields(field_selector)

    def chosen(obj: Object) -> bool:
        is_inside = not namespace or obj["metadata"].get("namespace", "") == namespace
        return is_inside and by_labels.matches(meta.labels(obj)) and by_fields.matches(obj)

    return chosen


def told(past: Past, chosen: Filter) -> tuple[EventType, Object] | None:
    """Return what a watcher with this filter is told: leaving the selection looks like deletion."""
    was = past.old is not None and chosen(past.old)
    if past.new is not None and chosen(past.new):
        return ("MODIFIED" if was else "ADDED"), copy(past.new)
    if was and past.old is not None:
        last = copy(past.new or past.old)
        last["metadata"]["resourceVersion"] = str(past.revision)
        return "DELETED", last
    return None


def grace(resource: Resource, obj: Object, asked: int | None) -> int:
    """Return how long the object lives on after deletion: only pods on a node do, until their agent lets go."""
    spec = obj.get("spec") or {}
    if resource != PODS or not spec.get("nodeName"):
        return 0
    if asked is not None:
        return asked
    grace: int = spec.get("terminationGracePeriodSeconds", 30)
    return grace
