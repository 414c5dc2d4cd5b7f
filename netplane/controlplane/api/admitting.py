"""Put a write before those who may change or forbid it: webhooks and policies. What the server itself demands is
admission's. Where nobody is to be asked, nothing is done: each function's first line says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from netplane.controlplane.api import access, cluster, hooks, http, options, webhooks
from netplane.controlplane.registry import types
from netplane.kube.types import Object

_CONNECTIONS = {
    ("pods", "exec"): "PodExecOptions",
    ("pods", "attach"): "PodAttachOptions",
    ("pods", "portforward"): "PodPortForwardOptions",
    ("pods", "proxy"): "PodProxyOptions",
    ("services", "proxy"): "ServiceProxyOptions",
    ("nodes", "proxy"): "NodeProxyOptions",
}
_LISTS = frozenset({"command", "ports"})
_FLAGS = frozenset({"stdin", "stdout", "stderr", "tty"})


def is_judged(at: cluster.Cluster) -> bool:
    """Whether anybody is to be asked about a write before it is stored."""
    return at.webhooks.any_validating() or at.policies.any()


def is_asked(at: cluster.Cluster) -> bool:
    """Whether anybody is to be asked about a deletion."""
    return at.webhooks.any_mutating() or is_judged(at)


async def changed(
    at: cluster.Cluster,
    request: http.Request,
    of: types.ResourceType,
    obj: Object,
    old: Object | None,
    wanted: options.Writing,
) -> Object:
    """Return a new object, or one that replaces `old`, as the mutating webhooks want it; raise what forbids it."""
    if not at.webhooks.any_mutating():
        return obj
    of.default(obj)
    call = _write(request, of, obj, old, wanted)
    new = await at.webhooks.mutate(call, _told(request))
    return obj if new is None else new


async def check(
    at: cluster.Cluster,
    request: http.Request,
    of: types.ResourceType,
    obj: Object,
    old: Object | None,
    wanted: options.Writing,
) -> None:
    """Ask the validating webhooks about an object that is to be stored as it stands; raise what forbids it."""
    if not is_judged(at):
        return
    await _validate(at, request, _write(request, of, obj, old, wanted))


async def check_part(
    at: cluster.Cluster,
    request: http.Request,
    of: types.ResourceType,
    body: Object,
    old: Object | None = None,
    *,
    is_dry_run: bool = False,
) -> None:
    """The same for what is sent to a subresource and is no such object itself: a Binding, an Eviction, a Scale."""
    if not is_judged(at):
        return
    assert request.target is not None
    target = request.target
    operation = "CREATE" if old is None else "UPDATE"
    group, _, version = str(body.get("apiVersion") or of.api_version).rpartition("/")
    kind = (group, version, str(body.get("kind") or of.kind))
    call = hooks.Call(
        operation, of, request.user, target.namespace, target.name, body, old, target.subresource, is_dry_run, kind
    )
    await _validate(at, request, call)


async def check_deletion(
    at: cluster.Cluster,
    of: types.ResourceType,
    user: access.User,
    old: Object,
    wanted: options.Deleting,
    told: webhooks.Told,
) -> None:
    """Ask about the deletion of an object; raise what forbids it."""
    metadata = old["metadata"]
    namespace = metadata.get("namespace", metadata["name"] if of.kind == "Namespace" and not of.group else "")
    call = hooks.Call(
        "DELETE", of, user, namespace, metadata["name"], None, old, is_dry_run=wanted.is_dry_run,
        options=_deleting(wanted),
    )  # fmt: skip
    await at.webhooks.mutate(call, told)
    await at.policies.check(call, at.registry, told)
    await at.webhooks.validate(call, told)


async def check_connection(at: cluster.Cluster, request: http.Request, of: types.ResourceType) -> None:
    """Ask about an exec, attach, port-forward or proxy before it begins; raise what forbids it."""
    if request.target is None or not is_judged(at):
        return
    target = request.target
    kind = _CONNECTIONS.get((target.plural, target.subresource))
    if kind is None:
        return
    given: Object = {}
    for name, values in request.query.items():
        given[name] = (
            list(values) if name in _LISTS else options.flag(request.query, name) if name in _FLAGS else values[0]
        )
    obj = {"apiVersion": "v1", "kind": kind, **given}
    call = hooks.Call(
        "CONNECT", of, request.user, target.namespace, target.name, obj, None, target.subresource,
        kind=("", "v1", kind),
    )  # fmt: skip
    await _validate(at, request, call)


async def _validate(at: cluster.Cluster, request: http.Request, call: hooks.Call) -> None:
    told = _told(request)
    await at.policies.check(call, at.registry, told)
    await at.webhooks.validate(call, told)


def _told(request: http.Request) -> webhooks.Told:
    return webhooks.Told(request.warnings, request.annotations)


def _write(
    request: http.Request, of: types.ResourceType, obj: Object, old: Object | None, wanted: options.Writing
) -> hooks.Call:
    metadata = obj["metadata"]
    namespace = metadata.get("namespace", "") if of.namespaced else ""
    if of.kind == "Namespace" and not of.group:
        namespace = metadata.get("name", "")
    subresource = request.target.subresource if request.target is not None else ""
    return hooks.Call(
        "CREATE" if old is None else "UPDATE",
        of,
        request.user,
        namespace,
        metadata.get("name", ""),
        obj,
        old,
        subresource,
        wanted.is_dry_run,
        options=_writing(wanted),
    )


def _writing(wanted: options.Writing) -> Mapping[str, Any]:
    told: Object = {"fieldManager": wanted.field_manager, "fieldValidation": wanted.field_validation}
    return told | ({"dryRun": ["All"]} if wanted.is_dry_run else {})


def _deleting(wanted: options.Deleting) -> Mapping[str, Any]:
    told: Object = {"dryRun": ["All"]} if wanted.is_dry_run else {}
    if wanted.grace_seconds is not None:
        told["gracePeriodSeconds"] = wanted.grace_seconds
    if wanted.propagation:
        told["propagationPolicy"] = wanted.propagation
    return told
