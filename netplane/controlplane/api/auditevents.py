"""Tell a request as an Event of audit.k8s.io/v1. Pure; which requests are told, and how fully, is auditrules'.

What is in Secrets and tokens is never told, whatever the policy says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from netplane.controlplane.api import access, auditrules, http, options, route
from netplane.kube import protobuf

LONGEST_BODY = 1 << 18
_NEVER_SHOWN = frozenset(
    {("", "secrets"), ("", "serviceaccounts/token"), ("authentication.k8s.io", "tokenreviews")}
)  # fmt: skip
_READING = frozenset({"get", "list", "watch"})
_ENDLESS = frozenset({"attach", "exec", "proxy", "log", "portforward"})
_OF_COLLECTION = {"GET": "list", "HEAD": "list", "POST": "create", "DELETE": "deletecollection"}
_OF_OBJECT = {
    "GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "POST": "create",
}  # fmt: skip
_LONGEST_AGENT = 1024
_OF_A_STATUS = ("status", "message", "reason", "details")


def verb(request: http.Request) -> str:
    """Return what a request does, as policies name it."""
    target = request.target
    if target is None:
        return request.method.lower()
    if request.scope["type"] == "websocket":
        return "create"
    verbs = _OF_OBJECT if target.name else _OF_COLLECTION
    found = verbs.get(request.method, request.method.lower())
    return "watch" if found in _READING and options.flag(request.query, "watch") else found


def is_long_running(request: http.Request) -> bool:
    """Whether the answer may go on for as long as the client likes."""
    target = request.target
    return target is not None and (target.subresource in _ENDLESS or verb(request) == "watch")


def level(request: http.Request, wanted: str) -> str:
    """Return how fully a request may be told where so much is wanted."""
    if wanted in ("None", "Metadata") or request.target is None:
        return wanted
    return "Metadata" if _is_never_shown(request.target) else wanted


def _is_never_shown(target: route.Target) -> bool:
    whole = f"{target.plural}/{target.subresource}" if target.subresource else target.plural
    return not {(target.group, target.plural), (target.group, whole)}.isdisjoint(_NEVER_SHOWN)


def event(request: http.Request, *, stage: str, level: str, audit_id: str, received: str, now: str) -> dict[str, Any]:
    """Return what is known of a request at any stage."""
    told: dict[str, Any] = {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": level,
        "auditID": audit_id,
        "stage": stage,
        "requestURI": _uri(request),
        "verb": verb(request),
        "user": access.info(request.asker) if request.asker is not None else {},
        "sourceIPs": [request.client.rpartition(":")[0]] if request.client else [],
        "userAgent": request.headers.get(b"user-agent", b"").decode("latin-1")[:_LONGEST_AGENT],
        "requestReceivedTimestamp": received,
        "stageTimestamp": now,
    }
    if request.asker is not None and request.asker is not request.user:
        told["impersonatedUser"] = access.info(request.user)
    target = request.target
    if target is not None:
        reference = {
            "resource": target.plural,
            "namespace": auditrules.namespace_of(target),
            "name": target.name,
            "apiGroup": target.group,
            "apiVersion": target.version,
            "subresource": target.subresource,
        }
        told["objectRef"] = {key: value for key, value in reference.items() if value}
    return told


def remarks(request: http.Request) -> dict[str, str]:
    """Return who let the request pass, and what admission noted."""
    found = dict(request.annotations)
    if request.decision is not None:
        found["authorization.k8s.io/decision"], found["authorization.k8s.io/reason"] = request.decision
    return found


def add_bodies(told: dict[str, Any], request: http.Request, body: bytes, answer: bytes, *, omits_managed: bool) -> None:
    """Write into an event what the request and its answer say, as fully as the event's level has it."""
    target, shown = request.target, told["level"]
    if target is None or target.subresource == "proxy" or told["verb"] == "watch":
        return
    sent = _object(body)
    if told["verb"] in ("create", "update") and isinstance(sent, dict):
        _complete(told["objectRef"], sent.get("metadata"))
    if shown in ("Request", "RequestResponse") and sent is not None:
        told["requestObject"] = _without_managed(sent) if omits_managed else sent
    if shown == "RequestResponse" and (found := _object(answer)) is not None:
        told["responseObject"] = _without_managed(found) if omits_managed else found


def outcome(request: http.Request, code: int, answer: bytes) -> dict[str, Any]:
    """Return an answer's code, and what a Status says in it."""
    if not code:
        return {"metadata": {}, "status": "Success", "message": "Connection closed early", "code": 200}
    told: dict[str, Any] = {"metadata": {}, "code": code}
    if code >= 400 or b'"Status"' in answer[:64]:
        found = _object(answer)
        if isinstance(found, dict) and found.get("kind") == "Status":
            is_quiet = request.target is not None and _is_never_shown(request.target)
            names = ("status", "reason") if is_quiet else _OF_A_STATUS  # a refusal may quote what it refuses
            told |= {name: found[name] for name in names if name in found}
    return told


def _complete(reference: dict[str, Any], metadata: object) -> None:
    """Name the object as its own metadata does, where the path did not: that of a create names none."""
    if isinstance(metadata, dict):
        for name in ("namespace", "name", "uid", "resourceVersion"):
            if isinstance(value := metadata.get(name), str) and value:
                reference.setdefault(name, value)


def _uri(request: http.Request) -> str:
    query = request.scope.get("query_string") or b""
    return f"{request.path}?{query.decode('latin-1')}" if query else request.path


def _object(body: bytes) -> Any:
    """Return a body of JSON or Kubernetes' protobuf as JSON; None when it is something else, or too large to keep."""
    if not body or len(body) > LONGEST_BODY:
        return None
    try:
        found = protobuf.decode(body) if body.startswith(protobuf.MAGIC) else orjson.loads(body)
    except ValueError:
        return None
    return found if isinstance(found, dict | list) else None  # a JSON patch is a list


def _without_managed(found: Any) -> Any:
    if not isinstance(found, dict):
        return found
    made = dict(found)
    if isinstance(metadata := found.get("metadata"), Mapping):
        made["metadata"] = {name: value for name, value in metadata.items() if name != "managedFields"}
    if isinstance(items := found.get("items"), list):
        made["items"] = [_without_managed(each) for each in items]
    return made
