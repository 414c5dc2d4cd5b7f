"""Answer the questions of authorization.k8s.io and authentication.k8s.io: may I, who am I. Nothing is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from netplane.controlplane.api import access, cluster, http, options, rbac, status, writing
from netplane.controlplane.registry import types
from netplane.kube.types import Object

Answer = Callable[[cluster.Cluster, http.Request, Object], Object]


async def create(at: cluster.Cluster, request: http.Request, of: types.ResourceType) -> http.Response:
    """Answer a POST of a review: the object again, with its status."""
    answer = _ANSWERS.get(of.kind)
    if answer is None:
        raise status.method_not_allowed(of, "create")
    wanted = options.writing(request.query, default_manager=request.user_agent, method=request.method)
    obj = await writing.read_body(request, of, wanted)
    obj.setdefault("metadata", {})
    obj["status"] = answer(at, request, obj)
    return http.json(201, obj)


def attributes(spec: Mapping[str, Any]) -> rbac.Attributes:
    """Return what a SubjectAccessReview asks about; raise 422 when it asks about nothing."""
    resource, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if (resource is None) == (path is None):
        raise status.ApiStatus(
            422, "Invalid", "spec: exactly one of resourceAttributes and nonResourceAttributes must be specified"
        )
    if path is not None:
        return rbac.Attributes(verb=path.get("verb", ""), path=path.get("path", ""))
    assert resource is not None
    return rbac.Attributes(
        resource.get("verb", ""),
        resource.get("group", ""),
        resource.get("resource", ""),
        resource.get("subresource", ""),
        resource.get("namespace", ""),
        resource.get("name", ""),
        fields=tuple(_fields(resource.get("fieldSelector") or {})),
    )


def _fields(selector: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for each in selector.get("requirements") or ():
        if each.get("operator") == "In" and len(each.get("values") or ()) == 1:
            yield str(each.get("key", "")), str(each["values"][0])


def _verdict(at: cluster.Cluster, user: access.User, spec: Mapping[str, Any]) -> Object:
    asked = attributes(spec)
    why = at.authorizer.why_allowed(user, asked)
    if why is not None:
        return {"allowed": True, "reason": why}
    # No reason, as the real one: kubectl prints a bare "no", which scripts compare with.
    return {"allowed": False}


def _self_access(at: cluster.Cluster, request: http.Request, obj: Object) -> Object:
    return _verdict(at, request.user, obj.get("spec") or {})


def _access(at: cluster.Cluster, request: http.Request, obj: Object) -> Object:
    spec = obj.get("spec") or {}
    if not spec.get("user") and not spec.get("groups"):
        raise status.ApiStatus(422, "Invalid", "spec.user: at least one of user or group must be specified")
    user = access.User(spec.get("user", ""), tuple(spec.get("groups") or ()), spec.get("uid", ""))
    return _verdict(at, user, spec)


def _self_rules(at: cluster.Cluster, request: http.Request, obj: Object) -> Object:
    namespace = (obj.get("spec") or {}).get("namespace") or ""
    if not namespace:
        raise status.bad_request("no namespace on request")
    resources, paths = [], []
    for rule in at.authorizer.rules_in(request.user, namespace):
        verbs = sorted(rule.verbs)
        if rule.paths:
            paths.append({"verbs": verbs, "nonResourceURLs": list(rule.paths)})
        if rule.resources:
            found: Object = {"verbs": verbs, "apiGroups": sorted(rule.groups), "resources": sorted(rule.resources)}
            if rule.names:
                found["resourceNames"] = sorted(rule.names)
            resources.append(found)
    return {"resourceRules": resources, "nonResourceRules": paths, "incomplete": bool(request.user.node)}


def _self_subject(at: cluster.Cluster, request: http.Request, obj: Object) -> Object:
    return {"userInfo": access.info(request.user)}


def _token(at: cluster.Cluster, request: http.Request, obj: Object) -> Object:
    spec = obj.get("spec") or {}
    try:
        user, audiences = at.keys.review(
            spec.get("token") or "", spec.get("audiences") or (), now=at.clock.now(), is_alive=at.is_alive
        )
    except access.BadToken as error:
        return {"authenticated": False, "error": str(error)}
    return {"authenticated": True, "user": access.info(user), "audiences": audiences}


_ANSWERS: dict[str, Answer] = {
    "SelfSubjectAccessReview": _self_access,
    "SubjectAccessReview": _access,
    "LocalSubjectAccessReview": _access,
    "SelfSubjectRulesReview": _self_rules,
    "SelfSubjectReview": _self_subject,
    "TokenReview": _token,
}
