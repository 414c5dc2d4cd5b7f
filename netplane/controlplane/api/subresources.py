"""The subresources that write: binding, token, finalize. Eviction, scaling and streaming have their own modules."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import orjson

from netplane.controlplane.api import (
    access,
    admitting,
    cluster,
    http,
    options,
    restriction,
    status,
    writing,
)  # fmt: skip
from netplane.controlplane.registry import faults, types
from netplane.kube.types import Object
from netplane.lib import timestamp


async def bind(at: cluster.Cluster, request: http.Request, of: types.ResourceType) -> http.Response:
    """Answer a POST of a Binding: the pod gets its node, once."""
    return await _assigned(at, request, of, await writing.read_any(request))


async def bind_named(at: cluster.Cluster, request: http.Request, of: types.ResourceType) -> http.Response:
    """Answer a POST of a Binding to a namespace's `bindings`: the pod it names gets its node, as above."""
    assert request.target is not None
    body = await writing.read_any(request)
    name = (body.get("metadata") or {}).get("name") or ""
    if not name:
        raise status.bad_request("metadata.name: Required value: a Binding names its pod")
    target = replace(request.target, plural="pods", name=name, subresource="binding")
    return await _assigned(at, replace(request, target=target), at.type_of("", "v1", "pods"), body)


async def _assigned(at: cluster.Cluster, request: http.Request, of: types.ResourceType, body: Object) -> http.Response:
    assert request.target is not None
    if ((body.get("metadata") or {}).get("name") or request.target.name) != request.target.name:
        raise status.bad_request("name in URL does not match name in Binding object")
    target = body.get("target") or {}
    node = target.get("name") or ""
    if not node or target.get("kind") not in (None, "", "Node"):
        raise status.bad_request("target.name: Required value: a Binding names the Node of the pod")
    wanted = options.writing(request.query, default_manager=request.user_agent, method=request.method)

    def bound(pod: Object) -> Object:
        if pod["metadata"].get("deletionTimestamp"):
            name = pod["metadata"]["name"]
            raise status.conflict(of, name, f"pod {name} is being deleted, cannot be assigned to a host")
        if pod["spec"].get("nodeName"):
            raise status.conflict(
                of, pod["metadata"]["name"], f'pod {pod["metadata"]["name"]} is already assigned to node "{node}"'
            )
        pod["spec"]["nodeName"] = node
        annotations = (body.get("metadata") or {}).get("annotations")
        if annotations:
            pod["metadata"].setdefault("annotations", {}).update(annotations)
        _scheduled(pod, at.now())
        return pod

    uid = (body.get("metadata") or {}).get("uid")
    _check_uid(at, of, request, uid)
    body.setdefault("kind", "Binding")
    await admitting.check_part(at, request, of, body, is_dry_run=wanted.is_dry_run)
    await writing.modify(at, request, of, bound, wanted, judge=writing.unjudged, seen=lambda _: None)
    return http.json(201, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})


def _check_uid(at: cluster.Cluster, of: types.ResourceType, request: http.Request, uid: str | None) -> None:
    assert request.target is not None
    record = at.store.latest(cluster.storage(of), (request.target.namespace, request.target.name))
    if uid and record is not None and orjson.loads(record.value)["metadata"]["uid"] != uid:
        raise status.conflict(of, request.target.name, "the pod of the binding is gone, another has its name")


def _scheduled(pod: Object, now: str) -> None:
    conditions = pod.setdefault("status", {}).setdefault("conditions", [])
    conditions[:] = [each for each in conditions if each.get("type") != "PodScheduled"]
    conditions.append({"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": now})


async def finalize(at: cluster.Cluster, request: http.Request, of: types.ResourceType) -> http.Response:
    """Answer a PUT of a namespace's finalizers: the last one gone, a marked namespace ends."""
    body = await writing.read_any(request)
    wanted = options.writing(request.query, default_manager=request.user_agent, method=request.method)
    asked = (body.get("metadata") or {}).get("resourceVersion")

    def finalized(namespace: Object) -> Object:
        namespace.setdefault("spec", {})["finalizers"] = list((body.get("spec") or {}).get("finalizers") or ())
        if asked:
            namespace["metadata"]["resourceVersion"] = asked
        return namespace

    return http.json(200, await writing.modify(at, request, of, finalized, wanted, judge=writing.unjudged))


async def token(at: cluster.Cluster, request: http.Request, of: types.ResourceType) -> http.Response:
    """Answer a POST of a TokenRequest: a signed token for the ServiceAccount, bound to what it names."""
    assert request.target is not None
    body = await writing.read_any(request)
    target = request.target
    account = at.get("", "v1", "serviceaccounts", target.namespace, target.name)
    if account is None:
        raise status.not_found(of, target.name)
    spec = body.setdefault("spec", {})
    seconds = spec.setdefault("expirationSeconds", 3600)
    if not isinstance(seconds, int) or not 600 <= seconds <= 1 << 32:
        is_long = isinstance(seconds, int) and seconds > 600
        why = "more than 2^32 seconds" if is_long else "less than 10 minutes"
        fault = faults.invalid("spec.expirationSeconds", seconds, f"may not specify a duration {why}")
        details = {"group": "authentication.k8s.io", "kind": "TokenRequest", "causes": [fault.cause()]}
        told = f'TokenRequest.authentication.k8s.io "" is invalid: {fault}'
        raise status.ApiStatus(422, "Invalid", told, details=details)
    pod = _pod_of(at, target.namespace, spec.get("boundObjectRef"))
    restriction.token(request.user, target.name, spec, pod)
    _check_account(target.name, pod)
    audiences = spec.setdefault("audiences", [access.ISSUER]) or [access.ISSUER]
    now = at.clock.now()
    claims = access.service_account_claims(
        account,
        audiences=audiences,
        now=now,
        seconds=seconds,
        bound=_bound(at, target.namespace, spec.get("boundObjectRef")),
        token_id=cluster.new_uid(),
    )
    body.update(apiVersion="authentication.k8s.io/v1", kind="TokenRequest")
    body["metadata"] = {"name": target.name, "namespace": target.namespace}
    until = timestamp.rfc3339(now + timedelta(seconds=seconds))
    body["status"] = {"token": at.keys.sign(claims), "expirationTimestamp": until}
    return http.json(201, body)


def _pod_of(at: cluster.Cluster, namespace: str, ref: Object | None) -> Object | None:
    if not ref or ref.get("kind") != "Pod":
        return None
    return at.get("", "v1", "pods", namespace, ref.get("name", ""))


def _check_account(name: str, pod: Object | None) -> None:
    own = pod["spec"].get("serviceAccountName", "") if pod is not None else name
    if own != name:
        why = f'cannot bind token for serviceaccount "{name}" to pod running with different serviceaccount name.'
        raise status.bad_request(why)


def _bound(at: cluster.Cluster, namespace: str, ref: Object | None) -> Object:
    if not ref:
        return {}
    plural = {"Pod": "pods", "Secret": "secrets", "Node": "nodes"}.get(ref.get("kind", ""))
    if plural is None:
        raise status.bad_request(f"cannot bind token for serviceaccount to object type {ref.get('kind')}")
    of = at.type_of("", "v1", plural)
    obj = at.get("", "v1", plural, namespace if of.namespaced else "", ref.get("name", ""))
    if obj is None:
        raise status.not_found(of, ref.get("name", ""))
    found = obj["metadata"]["uid"]
    if ref.get("uid") and ref["uid"] != found:
        why = f"the UID in the bound object reference ({ref['uid']}) does not match the UID in record ({found})"
        raise status.conflict(of, ref["name"], why)
    return {ref["kind"].lower(): {"name": ref["name"], "uid": found}}
