"""Empty a namespace that is being deleted, Pods first, then release it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from netplane.controlplane.controllers import conditions, writes
from netplane.controlplane.controllers.view import View
from netplane.kube import meta
from netplane.kube.types import EVENTS, NAMESPACES, PODS, Key, Object, Resource, key_of

Held = list[tuple[Resource, Object]]


def decide(view: View, key: Key, now: datetime) -> Sequence[writes.Write]:
    """Return the deletions of what is left in a terminating namespace, or its release when nothing is.

    Pods go before all else (KEP-5080): a NetworkPolicy must not vanish while what it guards still runs.
    """
    namespace = view.get(NAMESPACES, key)
    if namespace is None or not meta.is_deleting(namespace):
        return ()
    left = [
        (resource, obj)
        for resource in sorted(set(view.resources))
        if resource.namespaced and resource != EVENTS
        for obj in view.all(resource, key[1])
    ]
    if not left:
        if "kubernetes" not in (namespace["spec"].get("finalizers") or ()):
            return ()
        wanted = tuple(sorted(resource for resource in set(view.resources) if resource.namespaced))
        return [writes.DeleteAll(EVENTS, key[1]), writes.Finalize(namespace, wanted)]
    first = [entry for entry in left if entry[0] == PODS] or left
    todo: list[writes.Write] = [
        writes.Delete(resource, key_of(obj), obj["metadata"]["uid"], propagation="Background")
        for resource, obj in first
        if not meta.is_deleting(obj)
    ]
    return todo or _told(namespace, left, now)


def _told(namespace: Object, left: Held, now: datetime) -> list[writes.Write]:
    """Return the status that says what everybody waits for."""
    before = namespace.get("status") or {}
    counts = Counter(resource.group_resource for resource, _ in left)
    holders = Counter(name for _, obj in left for name in obj["metadata"].get("finalizers") or ())
    remaining = ", ".join(f"{name} has {number} resource instances" for name, number in sorted(counts.items()))
    held = ", ".join(f"{name} in {number} resource instances" for name, number in sorted(holders.items()))
    status = {**before, "phase": "Terminating"}
    for kind, value, reason, message in (
        ("NamespaceDeletionDiscoveryFailure", False, "ResourcesDiscovered", "All resources successfully discovered"),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            False,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            False,
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        ("NamespaceContentRemaining", True, "SomeResourcesRemain", f"Some resources are remaining: {remaining}"),
        (
            "NamespaceFinalizersRemaining",
            bool(held),
            "SomeFinalizersRemain" if held else "ContentHasNoFinalizers",
            f"Some content in the namespace has finalizers remaining: {held}"
            if held
            else "All content-preserving finalizers finished",
        ),
    ):
        status = conditions.ensure(status, kind, str(value), reason, message, now)
    if conditions.same(status, before):
        return []
    return [writes.UpdateStatus(NAMESPACES, writes.with_status(namespace, status))]
