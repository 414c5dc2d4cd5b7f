"""The verbs get and list. What is chosen is listing's, the bytes are render's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import orjson

from netplane.controlplane.api import cluster, http, listing, negotiate, options, render, status
from netplane.controlplane.registry import tables, types
from netplane.controlplane.store import history
from netplane.kube.types import Key, Object

_FRESH_SECONDS = 3.0
_SHAPES = {"table": b"application/json;as=Table;v=v1;g=meta.k8s.io"}
YAML = b"application/yaml"


def include(request: http.Request) -> tables.IncludeObject:
    """Return how much of the object a Table's rows carry."""
    wanted = options.text(request.query, "includeObject") or "Metadata"
    if wanted not in ("None", "Metadata", "Object"):
        raise status.bad_request(f'includeObject: Unsupported value: "{wanted}"')
    return cast(tables.IncludeObject, wanted)


def newest(at: cluster.Cluster, of: types.ResourceType, key: Key) -> history.Record:
    """Return the newest record of an object, one that is about to be committed included; raise 404."""
    record = at.store.latest(cluster.storage(of), key)
    if record is None:
        raise status.not_found(of, key[1])
    return record


async def get(at: cluster.Cluster, request: http.Request, of: types.ResourceType) -> http.Response:
    """Answer one object."""
    assert request.target is not None
    how = negotiate.parse(request.accept)
    revision = options.revision(request.query)
    if revision:
        await fresh(at, revision)
    record = at.record(of, (request.target.namespace, request.target.name))
    if record is None:
        raise status.not_found(of, request.target.name)
    record = await at.converter.record(of, record)
    if how.shape == "object" and not how.is_yaml:
        return http.Response(200, render.served(of, record))
    return answer(at, request, of, render.decoded(of, record))


def answer(
    at: cluster.Cluster, request: http.Request, of: types.ResourceType, obj: Object, *, code: int = 200
) -> http.Response:
    """Return one object as the response the client asked for."""
    how = negotiate.parse(request.accept)
    if how.shape == "object" and not how.is_yaml:
        if request.kept is not None and request.kept[0] is obj:
            return http.Response(code, request.kept[1])
        return http.Response(code, orjson.dumps(obj))
    made = render.shaped(of, obj, how, at.clock.now(), include=include(request))
    return http.Response(code, render.encoded(made, how), YAML if how.is_yaml else http.JSON)


async def list_(at: cluster.Cluster, request: http.Request, of: types.ResourceType) -> http.Response:
    """Answer a list, or one page of it, from the cache; large ones go out in chunks."""
    assert request.target is not None
    how = negotiate.parse(request.accept)
    chosen = listing.choice(of, request.query, namespace=request.target.namespace)
    wanted = listing.asked(request.query)
    if wanted.at_least > at.store.revision:
        await fresh(at, wanted.at_least)
    page = await selected(at, of, chosen, wanted)
    metadata = render.list_metadata(page.revision, token=page.token, remaining=page.remaining)
    records = page.records if chosen.matches is not None else await at.converter.records(of, page.records)
    chunks = render.many(of, records, metadata, how, at.clock.now(), include=include(request))
    if how.is_yaml:
        return http.Response(200, render.as_yaml(chunks), YAML)
    if len(page.records) <= 100:
        return http.Response(200, b"".join(chunks))
    return http.Response(200, chunks=chunks)


async def selected(
    at: cluster.Cluster, of: types.ResourceType, chosen: listing.Choice, wanted: listing.Asked
) -> listing.Page:
    """Return a page of objects; those that selectors chose are in the version asked for, which they look at."""
    current = at.store.revision
    records: Sequence[history.Record]
    records, left = listing.candidates(at.store.cache(cluster.storage(of)), chosen, wanted)
    if chosen.matches is not None:
        records = await at.converter.records(of, records)
    return listing.page(records, left, chosen, wanted, current=current)


async def fresh(at: cluster.Cluster, revision: int) -> None:
    """Wait a little until a revision is reached; raise 504 as the API does when it is not."""
    deadline = at.clock.monotonic() + _FRESH_SECONDS
    while at.store.revision < revision:
        if at.clock.monotonic() >= deadline:
            raise status.too_large_revision(revision, at.store.revision)
        await asyncio.sleep(0.05)
