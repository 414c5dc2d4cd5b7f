"""Collect what lost its owners, and hold back owners that wait for their dependents.

A key here is (apiVersion, plural, namespace, name): every type of object is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from netplane.controlplane.controllers import writes
from netplane.controlplane.controllers.view import Change, View
from netplane.kube import meta
from netplane.kube.types import Object, Resource, key_of

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"
Path = tuple[str, ...]


def path(resource: Resource, obj: Object) -> Path:
    """Return the key of an object of any type."""
    return (resource.api_version, resource.plural, *key_of(obj))


def touched(view: View, change: Change) -> Iterable[Path]:
    """Return the objects whose fate a change may decide: its own, its dependents', its waiting owners'."""
    resource, metadata = change.resource, change.either["metadata"]
    references = metadata.get("ownerReferences") or ()
    if change.new is not None and (references or _waits(change.new)):
        yield path(resource, change.new)
    if change.new is None or (_waits(change.new) and not (change.old and _waits(change.old))):
        for kind, dependent in view.owned(metadata.get("uid", "")):
            yield path(kind, dependent)
    before = (change.old or {}).get("metadata", {}).get("ownerReferences") or ()
    for uid in sorted({reference["uid"] for reference in (*references, *before)}):
        row = view.row_of(uid)
        owner = view.get(*row) if row else None
        if row and owner and _waits(owner):
            yield path(row[0], owner)


def decide(view: View, key: Path, now: datetime) -> Sequence[writes.Write]:
    """Return the finalizer to take off an owner, the references to drop, or the deletion of what nobody owns."""
    api_version, plural, namespace, name = key
    resource = next(
        (found for found in view.resources if (found.api_version, found.plural) == (api_version, plural)), None
    )
    obj = view.get(resource, (namespace, name)) if resource else None
    if resource is None or obj is None:
        return ()
    if meta.is_deleting(obj):
        return _release(view, resource, obj)
    return _collect(view, resource, obj)


def _release(view: View, resource: Resource, owner: Object) -> list[writes.Write]:
    """Return what a deleted owner still has to wait for, or the end of its waiting."""
    finalizers = owner["metadata"].get("finalizers") or ()
    uid = owner["metadata"]["uid"]
    dependents = view.owned(uid)
    if ORPHAN in finalizers:
        freed = [_without(kind, found, {uid}) for kind, found in dependents]
        return list(freed) or [_unfinalized(resource, owner, ORPHAN)]
    if FOREGROUND in finalizers and not any(_blocks(found, uid) for _, found in dependents):
        return [_unfinalized(resource, owner, FOREGROUND)]
    return []


def _collect(view: View, resource: Resource, obj: Object) -> list[writes.Write]:
    solid: list[str] = []
    waiting: list[str] = []
    absent: list[writes.Owner] = []
    unknown = False
    for reference in obj["metadata"].get("ownerReferences") or ():
        row = view.row_of(reference["uid"])
        owner = view.get(*row) if row else None
        if owner is not None:
            waiting_for_us = meta.is_deleting(owner) and FOREGROUND in (owner["metadata"].get("finalizers") or ())
            (waiting if waiting_for_us else solid).append(reference["uid"])
        elif (kind := _kind(view, reference)) is None:
            unknown = True  # a type we do not watch: its absence cannot be known
        else:
            namespace = obj["metadata"].get("namespace", "") if kind.namespaced else ""
            absent.append(writes.Owner(kind, (namespace, reference["name"]), reference["uid"]))
    if unknown or not (waiting or absent):
        return []
    if solid:
        gone = {*waiting, *(found.uid for found in absent)}
        return [_without(resource, obj, gone)]
    finalizers = obj["metadata"].get("finalizers") or ()
    way = (
        "Orphan"
        if ORPHAN in finalizers
        else "Foreground"
        if waiting and view.owned(obj["metadata"]["uid"])
        else "Background"
    )
    uid = obj["metadata"]["uid"]
    return [writes.Delete(resource, key_of(obj), uid, propagation=way, unless=tuple(absent))]


def _kind(view: View, reference: Object) -> Resource | None:
    group = reference["apiVersion"].rpartition("/")[0]
    return next((found for found in view.resources if (found.group, found.kind) == (group, reference["kind"])), None)


def _waits(owner: Object) -> bool:
    finalizers = owner["metadata"].get("finalizers") or ()
    return meta.is_deleting(owner) and (FOREGROUND in finalizers or ORPHAN in finalizers)


def _blocks(dependent: Object, uid: str) -> bool:
    return any(
        found["uid"] == uid and found.get("blockOwnerDeletion") for found in dependent["metadata"]["ownerReferences"]
    )


def _guard(obj: Object) -> Object:
    return {"uid": obj["metadata"]["uid"], "resourceVersion": obj["metadata"]["resourceVersion"]}


def _without(resource: Resource, obj: Object, uids: set[str]) -> writes.Patch:
    kept = [found for found in obj["metadata"]["ownerReferences"] if found["uid"] not in uids]
    return writes.Patch(resource, key_of(obj), {"metadata": {**_guard(obj), "ownerReferences": kept}})


def _unfinalized(resource: Resource, obj: Object, name: str) -> writes.Patch:
    kept = [found for found in obj["metadata"]["finalizers"] if found != name]
    return writes.Patch(resource, key_of(obj), {"metadata": {**_guard(obj), "finalizers": kept}})
