"""Say who controls what: owner references, adoption of orphans that match, release of owned ones that do not."""

from __future__ import annotations

from collections.abc import Callable

from netplane.controlplane.controllers import pods, writes
from netplane.controlplane.controllers.view import View, controller_uid
from netplane.kube import meta, select
from netplane.kube.types import Object, Resource, key_of


def reference(owner: Object, resource: Resource) -> Object:
    """Return the controlling owner reference to put into what `owner` creates."""
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def predicate(selector: Object | None) -> Callable[[Object], bool]:
    """Return the test of an object's labels for a LabelSelector; an empty or absent one matches nothing here."""
    if not selector or not (selector.get("matchLabels") or selector.get("matchExpressions")):
        return lambda _obj: False
    parsed = select.from_object(selector)
    return lambda obj: parsed.matches(obj["metadata"].get("labels"))


def claim(view: View, owner: Object, resource: Resource, children: Resource) -> tuple[list[Object], list[writes.Write]]:
    """Return the children `owner` controls by its selector, and the writes that adopt and release at the edges.

    A child just adopted is not counted until the API has said yes to it, unless the view already shows it.
    """
    metadata = owner["metadata"]
    matches = predicate(owner["spec"].get("selector"))
    mine: list[Object] = []
    todo: list[writes.Write] = []
    for child in view.controlled(children, metadata["uid"]):
        if child["metadata"].get("namespace", "") != metadata.get("namespace", ""):
            continue
        if matches(child):
            mine.append(child)
        elif not meta.is_deleting(owner) and not meta.is_deleting(child):
            todo.append(_set_references(child, children, _without(child, metadata["uid"])))
    if not meta.is_deleting(owner):
        for child in view.uncontrolled(children, metadata.get("namespace", "")):
            if matches(child) and pods.is_active(child):
                refs = [*_without(child, metadata["uid"]), reference(owner, resource)]
                todo.append(_set_references(child, children, refs))
    return mine, todo


def _without(child: Object, uid: str) -> list[Object]:
    return [found for found in child["metadata"].get("ownerReferences") or () if found["uid"] != uid]


def _set_references(child: Object, resource: Resource, references: list[Object]) -> writes.Patch:
    metadata = child["metadata"]
    guard = {"uid": metadata["uid"], "resourceVersion": metadata.get("resourceVersion")}
    return writes.Patch(resource, key_of(child), {"metadata": {**guard, "ownerReferences": references}})


def claimants(view: View, child: Object, owners: Resource) -> list[tuple[str, str]]:
    """Return the keys of the owners whose decision an event of this child may change."""
    namespace = child["metadata"].get("namespace", "")
    if uid := controller_uid(child):
        row = view.row_of(uid)
        return [row[1]] if row is not None and row[0] == owners else []
    found = view.all(owners, namespace)
    return [key_of(owner) for owner in found if predicate(owner["spec"].get("selector"))(child)]
