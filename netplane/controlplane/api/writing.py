"""The verbs create and update, and the way that every write takes into the store. Patches are in patching."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from netplane.controlplane.api import (
    admission,
    admitting,
    bodies,
    cluster,
    deletion,
    duplicates,
    http,
    options,
    quotas,
    reading,
    render,
    sameness,
    status,
)  # fmt: skip
from netplane.controlplane.registry import cautions, faults, strategy, types
from netplane.controlplane.registry.pods import parts
from netplane.controlplane.store import history, protocol
from netplane.kube import known
from netplane.kube.types import Object

_NAME_ATTEMPTS = 8
_RACE_ATTEMPTS = 16
_CREATED_BY_PUT = frozenset(
    {
        "leases.coordination.k8s.io",
        "endpoints",
        "endpointslices.discovery.k8s.io",
        "events",
        "services",
        "limitranges",
        "roles.rbac.authorization.k8s.io",
        "rolebindings.rbac.authorization.k8s.io",
        "clusterroles.rbac.authorization.k8s.io",
        "clusterrolebindings.rbac.authorization.k8s.io",
    }
)
"""The types whose strategies say AllowCreateOnUpdate."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a write left behind: the object in the version asked for, and whether it is new."""

    obj: Object
    is_new: bool = False


async def read_body(request: http.Request, of: types.ResourceType, writing: options.Writing) -> Object:
    """Return the object in the body, canonical; raise 400 for what cannot be one, note unknown fields as warnings."""
    body = await request.body()
    begun = strategy.begun(of, body) if request.content_type in bodies.PLAIN else None
    if begun is not None:
        check_kind(begun, of)
        return begun
    obj = bodies.obj(body, request.content_type)
    duplicates.check(request, body, obj, of=strategy.cannot_be(of))
    check_kind(obj, of)
    return read(request, of, obj, writing)


async def read_any(request: http.Request) -> Object:
    """Return the object in the body of a subresource, whatever its kind."""
    return any_object(await request.body(), request.content_type)


def any_object(body: bytes, content_type: str) -> Object:
    """Return the object in a body without its nulls, which say no more than absence; raise 400 or 415."""
    obj: Object = _without_nulls(bodies.obj(body, content_type))
    return obj


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value


def check_kind(obj: Object, of: types.ResourceType) -> None:
    """Raise 400 when a body names another kind or version than the path; fill in what it leaves out."""
    version, kind = obj.setdefault("apiVersion", of.api_version), obj.setdefault("kind", of.kind)
    if version != of.api_version:
        message = f"the API version in the data ({version}) does not match the expected API version ({of.api_version})"
        raise status.bad_request(message)
    if kind != of.kind:
        raise status.bad_request(
            f'{kind} in version "{of.version}" cannot be handled as a {of.kind}: converting ({kind}) to ({of.kind}):'
            " unknown conversion"
        )


def read(request: http.Request, of: types.ResourceType, obj: Object, writing: options.Writing) -> Object:
    """Make an object canonical by its schema, as `fieldValidation` says."""
    outcome = strategy.read(of, obj, validation=writing.field_validation)
    if outcome.error:
        raise status.bad_request(outcome.error)
    request.warnings += outcome.warnings
    return obj


async def create(at: cluster.Cluster, request: http.Request, of: types.ResourceType) -> http.Response:
    """Answer a POST to a collection."""
    assert request.target is not None
    writing = options.writing(request.query, default_manager=request.user_agent, method=request.method)
    obj = await read_body(request, of, writing)
    metadata = obj.setdefault("metadata", {})
    if metadata.get("resourceVersion") not in (None, "", "0"):
        raise status.bad_request("resourceVersion should not be set on objects to be created")
    stored = await create_object(at, request, of, obj, writing)
    return reading.answer(at, request, of, stored, code=201)


async def create_object(
    at: cluster.Cluster,
    request: http.Request,
    of: types.ResourceType,
    obj: Object,
    writing: options.Writing,
    *,
    managed: list[Object] | None = None,
) -> Object:
    """Admit and store a new object; raise 409 when its name is taken. `managed` are an apply's managedFields."""
    assert request.target is not None
    metadata = obj["metadata"]
    namespace = _namespace(of, metadata, request.target.namespace)
    prefix = metadata.get("generateName") or ""
    is_generated = bool(prefix) and not metadata.get("name")
    for attempt in range(_NAME_ATTEMPTS):
        # What is filled in on the way must not stay for another attempt.
        tried = known.copied(obj) if is_generated or of.kind == "Service" else obj
        if is_generated:
            tried["metadata"]["name"] = strategy.generated_name(prefix, cluster.name_suffix())
        try:
            if not (of.namespaced and quotas.any_quota(at)):
                return await _create_once(at, request, of, tried, namespace, writing, managed)
            with quotas.booking(at, namespace):
                return await _create_once(at, request, of, tried, namespace, writing, managed)
        except protocol.Taken as error:
            await at.store.fresh()  # another server gave away what we had chosen: choose again, knowing it
            if attempt == _NAME_ATTEMPTS - 1:
                raise status.unavailable(str(error)) from error
        except protocol.Exists:
            if not is_generated or attempt == _NAME_ATTEMPTS - 1:
                raise status.exists(of, tried["metadata"].get("name", "")) from None
    raise AssertionError("unreachable")


async def _create_once(
    at: cluster.Cluster,
    request: http.Request,
    of: types.ResourceType,
    obj: Object,
    namespace: str,
    writing: options.Writing,
    managed: list[Object] | None,
) -> Object:
    name = obj["metadata"].get("name", "")
    obj = await _admitted(at, request, of, obj, namespace, writing)
    # Nothing waits from here on: what is looked up now must hold when the write is staged.
    if at.store.latest(cluster.storage(of), (namespace, name)) is not None:
        raise protocol.Exists(name)
    admission.allocate(at, of, obj, None)
    if managed is None:
        admission.track(of, obj, None, writing, now=obj["metadata"]["creationTimestamp"], part="")
    else:
        obj["metadata"]["managedFields"] = managed
    if writing.is_dry_run:
        return obj
    if of.conversion is None:
        request.kept = obj, (await at.store.create(of.storage, obj)).value
        return obj
    kept = await at.converter.stored(of, obj)
    admission.check_namespace(at, of, obj, namespace)
    record = await keep(at.store.create(cluster.storage(of), kept))
    return render.decoded(of, await at.converter.record(of, record))


async def _admitted(
    at: cluster.Cluster,
    request: http.Request,
    of: types.ResourceType,
    obj: Object,
    namespace: str,
    writing: options.Writing,
) -> Object:
    """Return a new object as all who have a say want it, filled in; raise the first one's objection."""
    admission.before_create(at, request.user, of, obj, namespace)
    if at.webhooks.any_mutating():
        known.thaw(obj, "spec")
        obj = await admitting.changed(at, request, of, _placed(of, obj, namespace), None, writing)
        admission.before_create(at, request.user, of, obj, namespace)
    found = strategy.create(of, obj, namespace=namespace, now=at.now(), uid=cluster.new_uid())
    metadata = obj["metadata"]
    if found:
        raise status.invalid(of, metadata.get("name") or metadata.get("generateName", ""), found)
    request.warnings += cautions.of_object(obj, is_new=True)
    quotas.check_ranges(at, of, obj, namespace)
    is_counted = of.namespaced and quotas.any_quota(at)
    if is_counted or admitting.is_judged(at):
        await admitting.check(at, request, of, obj, None, writing)
        if at.store.latest(cluster.storage(of), (namespace, metadata["name"])) is None and is_counted:
            await quotas.charge(at, of, obj, None, is_dry_run=writing.is_dry_run)
        admission.check_namespace(at, of, obj, namespace)
    return obj


def _placed(of: types.ResourceType, obj: Object, namespace: str) -> Object:
    if of.namespaced:
        obj["metadata"]["namespace"] = namespace
    return obj


def _namespace(of: types.ResourceType, metadata: Object, namespace: str) -> str:
    if not of.namespaced:
        metadata.pop("namespace", None)
        return ""
    given = metadata.get("namespace")
    if given and namespace and given != namespace:
        raise status.bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    if not namespace:
        raise status.bad_request("namespace is required: create namespaced objects under /namespaces/NAMESPACE/")
    return namespace


async def update(at: cluster.Cluster, request: http.Request, of: types.ResourceType) -> http.Response:
    """Answer a PUT of an object or of its status."""
    assert request.target is not None
    target = request.target
    writing = options.writing(request.query, default_manager=request.user_agent, method=request.method)
    body = await read_body(request, of, writing)
    metadata = body.setdefault("metadata", {})
    if metadata.setdefault("name", target.name) != target.name:
        raise status.bad_request(
            f"the name of the object ({metadata['name']}) does not match the name on the URL ({target.name})"
        )
    _namespace(of, metadata, target.namespace)
    if at.store.latest(cluster.storage(of), (target.namespace, target.name)) is None:
        if target.subresource or cluster.storage(of) not in _CREATED_BY_PUT or metadata.get("uid"):
            raise status.not_found(of, target.name)
        metadata.pop("resourceVersion", None)
        return reading.answer(at, request, of, await create_object(at, request, of, body, writing), code=201)
    stored = await modify(at, request, of, lambda _: copy.deepcopy(body), writing)
    return reading.answer(at, request, of, stored)


Change = Callable[[Object], Object]
"""The current object to the one that shall replace it; the argument may be changed and returned."""

Judge = Callable[[types.ResourceType, Object, Object], list[faults.Fault]]
"""(type, new, old) to every reason against the change; fills in the new one."""


_JUDGES: dict[str, Judge] = {
    "status": strategy.update_status,
    "approval": strategy.update_status,
    "ephemeralcontainers": parts.ephemeral_containers,
    "resize": parts.resize,
}
"""By subresource; a whole object is judged as an update."""


def unjudged(of: types.ResourceType, new: Object, old: Object) -> list[faults.Fault]:
    """Judge nothing: for changes that the server itself makes."""
    return []


async def modify(
    at: cluster.Cluster,
    request: http.Request,
    of: types.ResourceType,
    change: Change,
    writing: options.Writing,
    *,
    part: str | None = None,
    judge: Judge | None = None,
    seen: Callable[[Object], Object | None] | None = None,
    is_apply: bool = False,
) -> Object:
    """Replace the object of the request by what `change` makes of it, guarded by its revision.

    A change that carries a resourceVersion must meet that very revision (409); one without is tried again
    when somebody else was faster. `seen` shows webhooks another object than the stored one (None: they were asked).
    """
    assert request.target is not None
    target = request.target
    part = target.subresource if part is None else part
    judged = _Judged(judge or _JUDGES.get(part, strategy.update), part, writing, seen)
    key = (target.namespace, target.name)
    for _ in range(_RACE_ATTEMPTS):
        record = reading.newest(at, of, key)
        current = await at.converter.record(of, record)
        old = render.decoded(of, current)
        new = await _allowed(at, request, of, change(render.decoded(of, current)), old, judged)
        with quotas.booking(at, target.namespace):
            if of.namespaced and quotas.any_quota(at):
                await quotas.charge(at, of, new, old, is_dry_run=writing.is_dry_run)
            admission.allocate(at, of, new, old)
            if not is_apply:
                admission.track(of, new, old, writing, now=at.now(), part=part)
            try:
                return await _replace(at, of, new, old, record, writing)
            except protocol.Taken:
                await at.store.fresh()
            except (protocol.Conflict, protocol.Missing):
                continue
    raise status.conflict(of, target.name)


@dataclass(frozen=True, slots=True)
class _Judged:
    """By whom a change is judged, and as what."""

    judge: Judge
    part: str
    writing: options.Writing
    seen: Callable[[Object], Object | None] | None


async def _allowed(
    at: cluster.Cluster, request: http.Request, of: types.ResourceType, new: Object, old: Object, by: _Judged
) -> Object:
    """Return what shall replace the old object, as all who have a say want it; raise the first one's objection."""
    _guard(of, new, old)
    if by.seen is None:
        new = await admitting.changed(at, request, of, new, old, by.writing)
    found = by.judge(of, new, old)
    if found:
        raise status.invalid(of, old["metadata"]["name"], found)
    if not by.part and new.get("spec") != old.get("spec"):
        request.warnings += cautions.of_object(new, is_new=False)
    admission.before_update(at, request.user, of, new, old, by.part)
    if by.seen is None:
        await admitting.check(at, request, of, new, old, by.writing)
    elif (shown := by.seen(new)) is not None:
        await admitting.check_part(at, request, of, shown, by.seen(old), is_dry_run=by.writing.is_dry_run)
    return new


def _guard(of: types.ResourceType, new: Object, old: Object) -> None:
    metadata, before = new.setdefault("metadata", {}), old["metadata"]
    asked = metadata.get("resourceVersion")
    if asked and asked != "0" and asked != before["resourceVersion"]:
        raise status.conflict(of, before["name"])
    uid = metadata.get("uid")
    if uid and uid != before["uid"]:
        why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {before['uid']}"
        raise status.conflict(of, before["name"], why)


async def _replace(
    at: cluster.Cluster,
    of: types.ResourceType,
    new: Object,
    old: Object,
    record: history.Record,
    writing: options.Writing,
) -> Object:
    new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
    if sameness.same(new, old) and at.converter.is_current(of, record):
        # Nothing but perhaps the times in managedFields differs: the API writes nothing then, and no watcher stirs.
        return old
    if writing.is_dry_run:
        return new
    kept = await at.converter.stored(of, new)
    name = cluster.storage(of)
    if deletion.is_over(of.kind, kept):
        final = await keep(at.store.delete(name, kept, expected=record.revision))
    else:
        final = await keep(at.store.update(name, kept, expected=record.revision))
    return render.decoded(of, await at.converter.record(of, final)) if of.conversion is not None else kept


async def keep(write: protocol.Write) -> history.Record:
    """Await a write; raise 503 when the disk refused it."""
    try:
        return await write
    except protocol.Unavailable as error:
        raise status.unavailable(str(error)) from error
