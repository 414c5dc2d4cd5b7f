"""Follow the CustomResourceDefinitions: serve what they define, say so in their status, clean up when they go."""

from __future__ import annotations

import orjson

from netplane.controlplane.api import access, cluster, deleting, options, status
from netplane.controlplane.registry import types
from netplane.controlplane.store import history, protocol
from netplane.kube.types import Object
from netplane.lib import log

_LOG = log.get("custom")
_STORAGE = "customresourcedefinitions.apiextensions.k8s.io"
_FINALIZER = "customresourcecleanup.apiextensions.k8s.io"
_ATTEMPTS = 8
_SELF = access.User("system:apiserver", (access.MASTERS,))


def load(at: cluster.Cluster) -> None:
    """Serve the definitions that are in the store, before the first request."""
    for record in at.store.cache(_STORAGE).range():
        _serve(at, record)


def _serve(at: cluster.Cluster, record: history.Record) -> None:
    name = record.key[1]
    try:
        at.registry = at.registry.with_crd(orjson.loads(record.value))
    except (KeyError, TypeError, ValueError) as error:
        _LOG.error("definition cannot be served", name=name, why=f"{type(error).__name__}: {error}")


async def follow(at: cluster.Cluster) -> None:
    """Keep the registry and the definitions' status in step with the store, until cancelled."""
    feed, window = at.store.feed(_STORAGE), at.store.cache(_STORAGE).window
    position = window.end
    for record in list(at.store.cache(_STORAGE).range()):
        _serve(at, record)  # another server may have taken it while this one was starting
        await _settle(at, record)
    while True:
        events = window.since(position, limit=100)
        if not events:
            await feed.wait()
            continue
        position += len(events)
        for event in events:
            await _take(at, event)


async def _take(at: cluster.Cluster, event: history.Event) -> None:
    if event.new is None:
        at.registry = at.registry.without_crd(event.key[1])
        _LOG.info("definition gone", name=event.key[1])
        return
    if event.old is None or _served(event.old) != _served(event.new):
        _serve(at, event.new)
        _LOG.info("definition served", name=event.key[1])
    await _settle(at, event.new)


def _served(record: history.Record) -> object:
    """What decides how a definition is served: its spec, and the versions in which objects may be kept."""
    crd = orjson.loads(record.value)
    return crd.get("spec"), (crd.get("status") or {}).get("storedVersions")


async def _settle(at: cluster.Cluster, record: history.Record) -> None:
    """Bring a definition's status and finalizer to where they belong."""
    for _ in range(_ATTEMPTS):
        latest = at.store.latest(_STORAGE, record.key)
        if latest is None:
            return
        crd: Object = orjson.loads(latest.value)
        before = orjson.dumps(crd)
        if crd["metadata"].get("deletionTimestamp"):
            await _clean_up(at, crd)
            crd["metadata"]["finalizers"] = [f for f in crd["metadata"].get("finalizers") or () if f != _FINALIZER]
        else:
            _establish(crd, at.now())
        try:
            if crd["metadata"].get("deletionTimestamp") and not crd["metadata"]["finalizers"]:
                await at.store.delete(_STORAGE, crd, expected=latest.revision)
            elif orjson.dumps(crd) != before:
                await at.store.update(_STORAGE, crd, expected=latest.revision)
            return
        except protocol.Conflict:
            continue
        except protocol.Missing:
            return


def _establish(crd: Object, now: str) -> None:
    finalizers = crd["metadata"].setdefault("finalizers", [])
    if _FINALIZER not in finalizers:
        finalizers.append(_FINALIZER)
    shown, spec = crd.setdefault("status", {}), crd["spec"]
    shown["acceptedNames"] = dict(spec["names"])
    stored = next((version["name"] for version in spec["versions"] if version.get("storage")), "")
    versions = shown.setdefault("storedVersions", [])
    if stored and stored not in versions:
        versions.append(stored)
    conditions = shown.setdefault("conditions", [])
    wanted = (
        ("NamesAccepted", "NoConflicts", "no conflicts found"),
        ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
    )
    for kind, reason, message in wanted:
        if not any(each.get("type") == kind and each.get("status") == "True" for each in conditions):
            conditions[:] = [each for each in conditions if each.get("type") != kind]
            made = {"type": kind, "status": "True", "reason": reason, "message": message}
            conditions.append(made | {"lastTransitionTime": now})


async def _clean_up(at: cluster.Cluster, crd: Object) -> None:
    """Delete every object of a definition that is going away."""
    of = _served_type(at, crd)
    if of is None:
        return
    for record in list(at.store.cache(cluster.storage(of)).range()):
        try:
            await deleting.remove(at, _SELF, of, record.key, options.Deleting())
        except status.ApiStatus as refusal:
            if refusal.code != 404:
                _LOG.warning("object of a deleted definition stays", key=record.key, why=refusal.message)


def _served_type(at: cluster.Cluster, crd: Object) -> types.ResourceType | None:
    spec = crd["spec"]
    for version in spec["versions"]:
        found = at.registry.find(spec["group"], version["name"], spec["names"]["plural"])
        if found is not None:
            return found
    return None
