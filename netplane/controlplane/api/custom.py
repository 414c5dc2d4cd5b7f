"""Follow the CustomResourceDefinitions: serve what they define, say so in their status, clean up when they go."""

from __future__ import annotations

import asyncio
import copy

import orjson

from netplane.controlplane.api import access, cluster, deleting, options, status
from netplane.controlplane.registry import types
from netplane.controlplane.registry.crd import naming, resource
from netplane.controlplane.store import history, protocol
from netplane.kube.types import Key, Object
from netplane.lib import log

_LOG = log.get("custom")
_STORAGE = "customresourcedefinitions.apiextensions.k8s.io"
_FINALIZER = "customresourcecleanup.apiextensions.k8s.io"
_ATTEMPTS = 8
_LOOK_AGAIN = 0.5
_SELF = access.User("system:apiserver", (access.MASTERS,))


def load(at: cluster.Cluster) -> None:
    """Serve the definitions that are in the store, before the first request."""
    for record in at.store.cache(_STORAGE).range():
        _serve(at, orjson.loads(record.value))


def _serve(at: cluster.Cluster, crd: Object) -> None:
    """Serve a definition that has got its names, as it is now."""
    if not naming.is_true(crd, "Established"):
        return
    name = crd["metadata"]["name"]
    try:
        at.registry = at.registry.with_crd(crd)
    except (KeyError, TypeError, ValueError) as error:
        _LOG.error("definition cannot be served", name=name, why=f"{type(error).__name__}: {error}")
    at.store.feed(_kept_as(crd)).ring()  # for the watches of what is no longer served so


async def follow(at: cluster.Cluster) -> None:
    """Keep the registry and the definitions' status in step with the store, until cancelled."""
    feed, window = at.store.feed(_STORAGE), at.store.cache(_STORAGE).window
    position, going = window.end, set[Key]()
    for record in list(at.store.cache(_STORAGE).range()):
        crd = orjson.loads(record.value)
        _serve(at, crd)  # another server may have taken it while this one was starting
        _note(going, record.key, crd)
        await _settle(at, record.key)
    while True:
        events = window.since(position, limit=100)
        if not events:
            await asyncio.wait((feed.wait(),), timeout=_LOOK_AGAIN if going else None)
            for key in () if position != window.end else tuple(going):
                await _settle(at, key)  # its objects may be gone by now
            continue
        position += len(events)
        for event in events:
            crd = orjson.loads(event.last.value)
            _note(going, event.key, None if event.new is None else crd)
            await _take(at, event, crd)


def _note(going: set[Key], key: Key, crd: Object | None) -> None:
    """Keep in mind which definitions are going away."""
    if crd is not None and crd["metadata"].get("deletionTimestamp"):
        going.add(key)
    else:
        going.discard(key)


async def _take(at: cluster.Cluster, event: history.Event, crd: Object) -> None:
    if event.new is None:
        at.registry = at.registry.without_crd(event.key[1])
        at.store.feed(_kept_as(crd)).ring()
        _LOG.info("definition gone", name=event.key[1])
        await _settle_waiting(at, crd)
        return
    old = orjson.loads(event.old.value) if event.old is not None else None
    if old is None or _form(old) != _form(crd):
        _serve(at, crd)
    await _settle(at, event.key)
    if old is not None and _names(old) != _names(crd):
        await _settle_waiting(at, crd)


def _form(crd: Object) -> object:
    """What decides how a definition is served."""
    going = bool(crd["metadata"].get("deletionTimestamp"))
    return resource.form(crd), _names(crd), going, naming.is_true(crd, "Established")


def _names(crd: Object) -> object:
    return (crd.get("status") or {}).get("acceptedNames")


def _kept_as(crd: Object) -> str:
    return f"{crd['spec']['names']['plural']}.{crd['spec']['group']}"


async def _settle_waiting(at: cluster.Cluster, crd: Object) -> None:
    """Look again at those of a group that wait for a name which this one may have set free."""
    for other in _group(at, crd):
        if not naming.has_all_names(other):
            await _settle(at, ("", other["metadata"]["name"]))


def _group(at: cluster.Cluster, crd: Object) -> list[Object]:
    """Return the other definitions of a group; a definition's name ends with its group's."""
    end, own = f".{crd['spec']['group']}", crd["metadata"]["name"]
    records = at.store.cache(_STORAGE).range()
    found: list[Object] = [
        orjson.loads(each.value) for each in records if each.key[1].endswith(end) and each.key[1] != own
    ]
    return [each for each in found if each["spec"]["group"] == crd["spec"]["group"]]


async def _settle(at: cluster.Cluster, key: Key) -> None:
    """Bring a definition's status and finalizer to where they belong."""
    for _ in range(_ATTEMPTS):
        latest = at.store.latest(_STORAGE, key)
        if latest is None:
            return
        crd: Object = orjson.loads(latest.value)
        before = copy.deepcopy(crd)
        if crd["metadata"].get("deletionTimestamp"):
            if not await _clean_up(at, crd):
                crd = before
        else:
            _establish(at, crd)
        try:
            if crd["metadata"].get("deletionTimestamp") and not crd["metadata"].get("finalizers"):
                await at.store.delete(_STORAGE, crd, expected=latest.revision)
            elif crd != before:
                await at.store.update(_STORAGE, crd, expected=latest.revision)
            return
        except protocol.Conflict:
            continue
        except protocol.Missing:
            return


def _establish(at: cluster.Cluster, crd: Object) -> None:
    finalizers = crd["metadata"].setdefault("finalizers", [])
    if _FINALIZER not in finalizers:
        finalizers.append(_FINALIZER)
    shown, was = crd.setdefault("status", {}), naming.is_true(crd, "Established")
    others = [] if naming.has_all_names(crd) else _group(at, crd)
    shown["acceptedNames"], names_accepted = naming.accepted(crd, others)
    stored = next((version["name"] for version in crd["spec"]["versions"] if version.get("storage")), "")
    versions = shown.setdefault("storedVersions", [])
    if stored and stored not in versions:
        versions.append(stored)
    naming.put(crd, naming.conditions(crd, names_accepted), at.now())
    if not was and naming.is_true(crd, "Established"):
        _serve(at, crd)  # before anybody reads that it is
        _LOG.info("definition served", name=crd["metadata"]["name"])


async def _clean_up(at: cluster.Cluster, crd: Object) -> bool:
    """Delete every object of a definition that is going away; return whether its status has changed."""
    if _FINALIZER not in (crd["metadata"].get("finalizers") or ()):
        return False
    if not naming.is_true(crd, "Established"):
        _ended(at, crd, "NeverEstablished", "resource was never established")
        return True
    if not naming.is_true(crd, "Terminating"):
        message = "CustomResource deletion is in progress"
        going = naming.condition("Terminating", holds=True, reason="InstanceDeletionInProgress", message=message)
        naming.put(crd, (going,), at.now())
        return True
    of = _type_of(at, crd)
    if of is None:
        _ended(at, crd, "OverlappingBuiltInResource", "instances overlap with built-in resources in storage")
        return True
    cache = at.store.cache(cluster.storage(of))
    for record in list(cache.range()):
        if b'"deletionTimestamp"' in record.value and orjson.loads(record.value)["metadata"].get("deletionTimestamp"):
            continue
        try:
            await deleting.remove(at, _SELF, of, record.key, options.Deleting())
        except status.ApiStatus as refusal:
            if refusal.code != 404:
                _LOG.warning("object of a deleted definition stays", key=record.key, why=refusal.message)
    if cache.records:
        return False
    _ended(at, crd, "InstanceDeletionCompleted", "removed all instances")
    return True


def _ended(at: cluster.Cluster, crd: Object, reason: str, message: str) -> None:
    naming.put(crd, (naming.condition("Terminating", holds=False, reason=reason, message=message),), at.now())
    crd["metadata"]["finalizers"] = [each for each in crd["metadata"]["finalizers"] if each != _FINALIZER]


def _type_of(at: cluster.Cluster, crd: Object) -> types.ResourceType | None:
    """Return the type by which a definition's objects are kept, None when they are those of a built-in one."""
    of = resource.stored_type(crd)
    built_in = any(each.crd is None and each.storage == of.storage for each in at.registry.all())
    return None if built_in else of
