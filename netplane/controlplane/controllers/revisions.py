"""Keep a workload's history as ControllerRevisions: which one is current, the next number, which to forget."""

from __future__ import annotations

from netplane.controlplane.controllers import owners, templates, writes
from netplane.controlplane.controllers.view import View
from netplane.kube import meta
from netplane.kube.types import CONTROLLERREVISIONS, Object, Resource, key_of

HASH = "controller-revision-hash"


def history(view: View, owner: Object) -> list[Object]:
    """Return the revisions of a workload, oldest first."""
    held = view.controlled(CONTROLLERREVISIONS, owner["metadata"]["uid"])
    return sorted((found for found in held if not meta.is_deleting(found)), key=lambda found: int(found["revision"]))


def digest(owner: Object) -> str:
    """Return the hash that Pods of the current template carry."""
    status = owner.get("status") or {}
    return templates.digest(owner["spec"]["template"], status.get("collisionCount"))


def sync(owner: Object, resource: Resource, held: list[Object]) -> list[writes.Write]:
    """Return the write that makes the current template the newest revision, if it is not."""
    name = f"{owner['metadata']['name']}-{digest(owner)}"
    current = next((found for found in held if found["metadata"]["name"] == name), None)
    newest = int(held[-1]["revision"]) if held else 0
    if current is None:
        return [writes.Create(CONTROLLERREVISIONS, _revision(owner, resource, name, newest + 1))]
    if int(current["revision"]) < newest:
        return [writes.Update(CONTROLLERREVISIONS, {**current, "revision": newest + 1})]
    return []


def forget(owner: Object, held: list[Object], in_use: set[str]) -> list[writes.Write]:
    """Return the deletions of revisions beyond revisionHistoryLimit that no Pod is of."""
    limit = owner["spec"].get("revisionHistoryLimit")
    keep = {*in_use, digest(owner)}
    idle = [found for found in held if meta.labels(found).get(HASH) not in keep]
    return [
        writes.Delete(CONTROLLERREVISIONS, key_of(found), found["metadata"]["uid"])
        for found in idle[: max(0, len(idle) - (10 if limit is None else int(limit)))]
    ]


def _revision(owner: Object, resource: Resource, name: str, number: int) -> Object:
    template = owner["spec"]["template"]
    metadata = owner["metadata"]
    annotations = {
        key: value
        for key, value in (metadata.get("annotations") or {}).items()
        if key != "kubectl.kubernetes.io/last-applied-configuration"
    }
    labels = {**((template.get("metadata") or {}).get("labels") or {}), HASH: digest(owner)}
    return {
        "apiVersion": CONTROLLERREVISIONS.api_version,
        "kind": CONTROLLERREVISIONS.kind,
        "metadata": {
            "name": name,
            "namespace": metadata["namespace"],
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [owners.reference(owner, resource)],
        },
        "data": {"spec": {"template": {**template, "$patch": "replace"}}},
        "revision": number,
    }
