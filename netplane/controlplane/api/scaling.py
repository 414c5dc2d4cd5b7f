"""The subresource scale: how many replicas an object wants, whatever its type."""

from __future__ import annotations

from typing import Any

from netplane.controlplane.api import cluster, http, options, patching, reading, render, status, writing
from netplane.controlplane.registry import faults, schema, types
from netplane.controlplane.registry.workloads import columns
from netplane.kube import select
from netplane.kube.types import Object, Resource

_DEFINITION = "io.k8s.api.autoscaling.v1.Scale"
_AS_TABLE = types.ResourceType(
    resource=Resource("autoscaling", "v1", "scales", "Scale"),
    singular="scale",
    definition=_DEFINITION,
    columns=columns.SCALE,
    cells=columns.scale,
)
"""A Scale is no type of its own: it is only shown as one."""


def scale_of(paths: types.ScalePaths, obj: Object) -> Object:
    """Return an object's Scale."""
    metadata = obj["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    replicas = _at(obj, paths.replicas)
    shown: Object = {"replicas": _at(obj, paths.status_replicas) or 0}
    selector = _selector_text(_at(obj, paths.selector)) if paths.selector else ""
    if selector:
        shown["selector"] = selector
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {name: metadata[name] for name in kept if name in metadata},
        "spec": {"replicas": replicas} if replicas else {},
        "status": shown,
    }


def _selector_text(selector: Any) -> str:
    if isinstance(selector, str):
        return selector
    if not isinstance(selector, dict):
        return ""
    if "matchLabels" in selector or "matchExpressions" in selector:
        return str(select.from_object(selector))
    return str(select.from_map(selector))


def _at(obj: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        obj = obj.get(step) if isinstance(obj, dict) else None
    return obj


def _paths(of: types.ResourceType) -> types.ScalePaths:
    if of.scale is None:
        raise status.no_such_path()
    return of.scale


async def get(at: cluster.Cluster, request: http.Request, of: types.ResourceType) -> http.Response:
    """Answer the Scale of an object."""
    assert request.target is not None
    record = at.record(of, (request.target.namespace, request.target.name))
    if record is None:
        raise status.not_found(of, request.target.name)
    scale = scale_of(_paths(of), render.decoded(of, await at.converter.record(of, record)))
    return reading.answer(at, request, _AS_TABLE, scale)


async def update(at: cluster.Cluster, request: http.Request, of: types.ResourceType) -> http.Response:
    """Answer a PUT of a Scale."""
    body = await writing.read_any(request)
    return await _change(at, request, of, lambda _: body)


async def patch(at: cluster.Cluster, request: http.Request, of: types.ResourceType) -> http.Response:
    """Answer a PATCH of a Scale."""
    change = await patching.read_patch(request, schema.shapes().of(_DEFINITION))
    return await _change(at, request, of, change)


async def _change(
    at: cluster.Cluster, request: http.Request, of: types.ResourceType, change: writing.Change
) -> http.Response:
    paths = _paths(of)
    wanted = options.writing(request.query, default_manager=request.user_agent, method=request.method)

    def changed(current: Object) -> Object:
        scale = change(scale_of(paths, current))
        metadata = scale.get("metadata") or {}
        replicas = (scale.get("spec") or {}).get("replicas", 0)
        if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 0:
            detail = "must be greater than or equal to 0"
            found = faults.invalid("spec.replicas", replicas, detail)
            raise status.invalid(of, current["metadata"]["name"], [found])
        if metadata.get("resourceVersion"):
            current["metadata"]["resourceVersion"] = metadata["resourceVersion"]
        _set(current, paths.replicas, replicas)
        return current

    stored = await writing.modify(at, request, of, changed, wanted, part="", seen=lambda obj: scale_of(paths, obj))
    return http.json(200, scale_of(paths, stored))


def _set(obj: Object, path: tuple[str, ...], value: Any) -> None:
    for step in path[:-1]:
        obj = obj.setdefault(step, {})
    obj[path[-1]] = value
