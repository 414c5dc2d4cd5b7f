"""Answer metrics.k8s.io: what nodes and pods use. The samples are sampling's; nothing is stored."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import orjson

from netplane.controlplane.api import cluster, http, listing, negotiate, reading, render, status, usage
from netplane.controlplane.registry import types
from netplane.controlplane.store import history
from netplane.kube.types import Object

Verb = Callable[[cluster.Cluster, http.Request, types.ResourceType], Awaitable[http.Response]]


async def get(at: cluster.Cluster, request: http.Request, of: types.ResourceType) -> http.Response:
    """Answer the usage of one node or pod; raise 404 while nothing is known of it."""
    assert request.target is not None
    key = (request.target.namespace, request.target.name)
    record = at.store.cache(of.plural).records.get(key)
    found = await _objects(at, of, [record] if record is not None else [])
    if not found:
        raise status.not_found(of, request.target.name)
    return reading.answer(at, request, of, found[0])


async def list_(at: cluster.Cluster, request: http.Request, of: types.ResourceType) -> http.Response:
    """Answer the usage of the nodes or pods that are chosen, in one page."""
    assert request.target is not None
    how = negotiate.parse(request.accept)
    chosen = listing.choice(of, request.query, namespace=request.target.namespace)
    records = at.store.cache(of.plural).snapshot(revision=None, namespace=chosen.namespace, after=None)
    found = await _objects(at, of, [record for record in records if chosen.includes(record)])
    rows = [history.Record(_key(obj), 0, orjson.dumps(obj), history.Index({}, {})) for obj in found]
    chunks = render.many(of, rows, {}, how, at.clock.now(), include=reading.include(request))
    if how.is_yaml:
        return http.Response(200, render.as_yaml(chunks), reading.YAML)
    return http.Response(200, b"".join(chunks))


async def _objects(at: cluster.Cluster, of: types.ResourceType, records: list[history.Record]) -> list[Object]:
    """Return the metrics of nodes or pods in the order of their records."""
    at.meter.forget(name for _, name in at.store.cache("nodes").records)
    is_node = of.kind == "NodeMetrics"
    places = {record.key: record.key[1] if is_node else record.index.fields["spec.nodeName"] for record in records}
    measured = await at.meter.measure(place for place in places.values() if place)
    made = []
    for record in records:
        found = measured.get(places[record.key])
        own = _of_node(found) if is_node else _of_pod(found, record)
        if found is not None and own is not None:
            made.append(_metrics(of, record, found, at.now(), own))
    return made


def _of_node(found: usage.Measured | None) -> Object | None:
    return {"usage": found.total.resources()} if found is not None else None


def _of_pod(found: usage.Measured | None, record: history.Record) -> Object | None:
    containers: Mapping[str, usage.Usage] | None = found.pods.get(record.key) if found is not None else None
    if not containers:
        return None
    return {"containers": [{"name": name, "usage": each.resources()} for name, each in sorted(containers.items())]}


def _metrics(of: types.ResourceType, record: history.Record, found: usage.Measured, now: str, own: Object) -> Object:
    namespace, name = record.key
    metadata: Object = {"name": name, **({"namespace": namespace} if namespace else {}), "creationTimestamp": now}
    if record.index.labels:
        metadata["labels"] = dict(record.index.labels)
    told = {"metadata": metadata, "timestamp": now, "window": f"{found.window:.3f}s"}
    return {"kind": of.kind, "apiVersion": of.api_version, **told, **own}


def _key(obj: Object) -> tuple[str, str]:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


VERBS: dict[str, Verb] = {"get": get, "list": list_}
