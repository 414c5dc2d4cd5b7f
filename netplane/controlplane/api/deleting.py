"""The verbs delete and deletecollection. What a deletion does to an object is deletion's."""

from __future__ import annotations

from collections.abc import Callable

import orjson

from netplane.controlplane.api import (
    access,
    admission,
    admitting,
    bodies,
    cluster,
    deletion,
    http,
    listing,
    options,
    reading,
    render,
    status,
    webhooks,
    writing,
)  # fmt: skip
from netplane.controlplane.registry import types
from netplane.controlplane.store import protocol
from netplane.kube.types import Key, Object

_RACE_ATTEMPTS = 16


async def read_options(request: http.Request) -> options.Deleting:
    """Return the DeleteOptions of a request, from its body or its query."""
    body = await request.body()
    given = bodies.obj(body, request.content_type) if body.strip() else None
    return options.deleting(request.query, given)


async def delete(at: cluster.Cluster, request: http.Request, of: types.ResourceType) -> http.Response:
    """Answer a DELETE of one object: its last state while it waits for something, a Status when it is gone."""
    assert request.target is not None
    wanted = await read_options(request)
    _warn(request, of, wanted)
    told = webhooks.Told(request.warnings, request.annotations)
    key = (request.target.namespace, request.target.name)
    obj, is_gone = await remove(at, request.user, of, key, wanted, told=told)
    if is_gone and not wanted.is_dry_run:
        return http.json(200, status.success(of, obj["metadata"]["name"], obj["metadata"]["uid"]))
    return reading.answer(at, request, of, await at.converter.shown(of, obj))


def _warn(request: http.Request, of: types.ResourceType, wanted: options.Deleting) -> None:
    if of.kind == "Job" and not wanted.propagation and deletion.leaves_dependents(of.api_version, of.kind):
        request.warnings.append(
            "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them"
            " or set propagationPolicy=Orphan to suppress this warning"
        )


async def remove(
    at: cluster.Cluster,
    user: access.User,
    of: types.ResourceType,
    key: Key,
    wanted: options.Deleting,
    *,
    told: webhooks.Told | None = None,
    mark: Callable[[Object], None] | None = None,
) -> tuple[Object, bool]:
    """Delete an object or mark it as being deleted; return it as it is kept and whether it is gone. Raises 404 and 409.

    Webhooks are asked where `told` is there to hold what they say. `mark` writes into the object why it goes.
    """
    storage = cluster.storage(of)
    for _ in range(_RACE_ATTEMPTS):
        record = reading.newest(at, of, key)
        obj: Object = orjson.loads(record.value)
        check_preconditions(of, obj, wanted)
        admission.before_delete(user, of, obj)
        if told is not None and admitting.is_asked(at):
            shown = render.decoded(of, await at.converter.record(of, record))
            await admitting.check_deletion(at, of, user, shown, wanted, told)
        if mark is not None:
            mark(obj)
        decision = deletion.decide(of.kind, obj, wanted, now=at.clock.now())
        if wanted.is_dry_run or not decision.is_change:
            return decision.obj, decision.is_removal
        act = at.store.delete if decision.is_removal else at.store.update
        try:
            await writing.keep(act(storage, decision.obj, expected=record.revision))
        except (protocol.Conflict, protocol.Missing):
            continue
        return decision.obj, decision.is_removal
    raise status.conflict(of, key[1])


def check_preconditions(of: types.ResourceType, obj: Object, wanted: options.Deleting) -> None:
    """Raise 409 when the object is not the one, or not in the state, that the deletion is meant for."""
    metadata = obj["metadata"]
    if wanted.uid and wanted.uid != metadata["uid"]:
        why = f"Precondition failed: UID in precondition: {wanted.uid}, UID in object meta: {metadata['uid']}"
        raise status.conflict(of, metadata["name"], why)
    found = metadata["resourceVersion"]
    if wanted.resource_version and wanted.resource_version != found:
        why = (
            f"Precondition failed: ResourceVersion in precondition: {wanted.resource_version},"
            f" ResourceVersion in object meta: {found}"
        )
        raise status.conflict(of, metadata["name"], why)


async def delete_collection(at: cluster.Cluster, request: http.Request, of: types.ResourceType) -> http.Response:
    """Answer a DELETE of a collection: every object the selectors choose, each as a DELETE of its own would."""
    assert request.target is not None
    wanted = await read_options(request)
    _warn(request, of, wanted)
    chosen = listing.choice(of, request.query, namespace=request.target.namespace)
    page = await reading.selected(at, of, chosen, listing.asked(request.query))
    items = []
    told = webhooks.Told(request.warnings, request.annotations)
    for record in page.records:
        try:
            obj, _ = await remove(at, request.user, of, record.key, wanted, told=told)
        except status.ApiStatus as refusal:
            if refusal.code == 404:
                continue
            raise
        items.append(await at.converter.shown(of, obj))
    metadata = render.list_metadata(at.store.revision, token=page.token, remaining=page.remaining)
    return http.json(200, {"kind": of.list_kind, "apiVersion": of.api_version, "metadata": metadata, "items": items})
