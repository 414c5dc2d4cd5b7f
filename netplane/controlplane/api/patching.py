"""The verb patch: JSON patch, merge patch, strategic merge patch, server-side apply. How they merge is kube's."""

from __future__ import annotations

import copy
from typing import Any

from netplane.controlplane.api import admission, bodies, cluster, duplicates, http, options, reading, status, writing
from netplane.controlplane.registry import faults, schema, types
from netplane.kube import apply
from netplane.kube import patch as patches
from netplane.kube.shape import Shape
from netplane.kube.types import Object

JSON_PATCH = "application/json-patch+json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
_ACCEPTED = (JSON_PATCH, MERGE, STRATEGIC, APPLY)


async def patch(at: cluster.Cluster, request: http.Request, of: types.ResourceType) -> http.Response:
    """Answer a PATCH of an object or of its status."""
    wanted = options.writing(request.query, default_manager=request.user_agent, method=request.method)
    if request.content_type == APPLY:
        return await _apply(at, request, of, wanted)
    if "force" in request.query:
        told = faults.forbidden("force", "may not be specified for non-apply patch")
        raise status.invalid_options("PatchOptions", told)
    change = await read_patch(request, None if of.crd is not None else schema.shape_of(of))

    def changed(current: Object) -> Object:
        new = change(current)
        writing.check_kind(new, of)
        new = writing.read(request, of, new, wanted)
        _check_place(request, new, current)
        return new

    return reading.answer(at, request, of, await writing.modify(at, request, of, changed, wanted))


def _check_place(request: http.Request, new: Object, current: Object) -> None:
    """Raise 400 when a patch would give an object another name or namespace."""
    metadata, before = new.get("metadata") or {}, current["metadata"]
    name, namespace = metadata.get("name") or before["name"], metadata.get("namespace") or before.get("namespace")
    if name != before["name"]:
        raise status.bad_request(
            f"the name of the object ({name}) does not match the name on the URL ({before['name']})"
        )
    if namespace != before.get("namespace"):
        raise status.bad_request(
            f"the namespace of the object ({namespace}) does not match the namespace on the URL"
            f" ({before.get('namespace', '')})"
        )


async def _apply(
    at: cluster.Cluster, request: http.Request, of: types.ResourceType, wanted: options.Writing
) -> http.Response:
    assert request.target is not None
    target = request.target
    config = await _configuration(request, of, wanted)

    def applied(live: Object | None) -> Object:
        ignored = admission.not_written(of, config, target.subresource)
        try:
            return apply.apply(
                live,
                copy.deepcopy(config),
                shape=schema.shape_of(of),
                manager=wanted.field_manager,
                force=wanted.force,
                now=at.now(),
                subresource=target.subresource,
                ignored=ignored,
            )
        except apply.ConflictError as error:
            causes = [each.cause() for each in error.conflicts]
            raise status.ApiStatus(409, "Conflict", str(error), details={"causes": causes}) from error

    if at.store.latest(cluster.storage(of), (target.namespace, target.name)) is None:
        if target.subresource:
            raise status.not_found(of, target.name)
        if uid := config["metadata"].get("uid"):
            why = f"uid mismatch: the provided object specified uid {uid}, and no existing object was found"
            raise status.conflict(of, target.name, why)
        made = applied(None)
        managed = made["metadata"].pop("managedFields", [])
        stored = await writing.create_object(at, request, of, made, wanted, managed=managed)
        return reading.answer(at, request, of, stored, code=201)
    stored = await writing.modify(at, request, of, applied, wanted, is_apply=True)
    return reading.answer(at, request, of, stored)


async def _configuration(request: http.Request, of: types.ResourceType, wanted: options.Writing) -> Object:
    """Return the configuration in the body of an apply; raise 400 for what no apply may hold."""
    assert request.target is not None
    if not options.text(request.query, "fieldManager"):
        told = faults.required("fieldManager", "is required for apply patch")
        raise status.invalid_options("PatchOptions", told)
    body = await request.body()
    config = bodies.from_yaml(body)
    duplicates.check(request, body, config, of="error decoding YAML: ")
    if not isinstance(config, dict):
        raise status.bad_request("the applied configuration is not an object")
    if not config.get("apiVersion") or not config.get("kind"):
        found = f"{config.get('apiVersion') or '/'}, Kind={config.get('kind') or ''}"
        raise status.bad_request(
            f"Incorrect version specified in apply patch. Specified patch version: {found}, expected: {of.api_version}"
        )
    writing.check_kind(config, of)
    metadata = config.setdefault("metadata", {})
    if metadata.get("managedFields"):
        raise status.bad_request("metadata.managedFields must be nil")
    name = request.target.name
    if metadata.setdefault("name", name) != name:
        raise status.bad_request(
            f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})"
        )
    if of.namespaced and metadata.setdefault("namespace", request.target.namespace) != request.target.namespace:
        raise status.bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    return writing.read(request, of, config, wanted)


async def read_patch(request: http.Request, shape: Shape | None) -> writing.Change:
    """Return what the body's patch does to an object; raise 400 for a malformed one, 415 for another kind.

    Without a shape (custom resources) there is no strategic merge, as in Kubernetes.
    """
    kind = request.content_type
    if kind not in _ACCEPTED or (kind == STRATEGIC and shape is None):
        raise status.unsupported_media_type(kind, _ACCEPTED if shape is not None else (JSON_PATCH, MERGE, APPLY))
    raw = await request.body()
    body = bodies.json(raw)
    duplicates.check(request, raw, body, of="error decoding patch: ")

    def change(current: Object) -> Object:
        try:
            new = _patched(kind, current, body, shape)
        except patches.PatchError as error:
            raise _refused(error) from error
        if not isinstance(new, dict):
            raise status.bad_request("the patched document is not an object")
        return new

    return change


def _patched(kind: str, current: Object, body: Any, shape: Shape | None) -> Any:
    if kind == JSON_PATCH:
        if not isinstance(body, list):
            raise patches.PatchError("a JSON patch is a list of operations", is_malformed=True)
        return patches.json(current, body)
    if not isinstance(body, dict):
        raise patches.PatchError("a merge patch is an object", is_malformed=True)
    if kind == MERGE or shape is None:
        return patches.merge(current, body)
    return patches.strategic(current, body, shape)


def _refused(error: patches.PatchError) -> status.ApiStatus:
    if error.is_malformed:
        return status.bad_request(str(error))
    return status.ApiStatus(422, "Invalid", f"the server rejected our request due to an error in our request: {error}")
