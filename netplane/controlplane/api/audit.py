"""Write down who asked for what, and what became of it: audit.k8s.io/v1 Events, one JSON line each.

What is in Secrets and tokens is never written, whatever the level, nor are ConfigMaps' contents; those are the
resources which Kubernetes' own example policy keeps at Metadata.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from netplane.controlplane.api import access, http, options
from netplane.kube import protobuf
from netplane.lib import clock, log

LEVELS = ("None", "Metadata", "Request", "RequestResponse")
_LOG = log.get("audit")
_KEPT_FROM_THE_LOG = frozenset(
    {("", "secrets"), ("", "configmaps"), ("", "serviceaccounts/token"), ("authentication.k8s.io", "tokenreviews"),
     ("certificates.k8s.io", "certificatesigningrequests")}
)  # fmt: skip
_READING = frozenset({"get", "list", "watch"})
_LONGEST_BODY = 1 << 18
_QUIET = ("/healthz", "/livez", "/readyz", "/metrics")
_OF_COLLECTION = {"GET": "list", "HEAD": "list", "POST": "create", "DELETE": "deletecollection"}
_OF_OBJECT = {
    "GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "POST": "create",
}  # fmt: skip
Application = Callable[[http.Scope, http.Receive, http.Send], Awaitable[None]]


class Audit:
    """An audit log in a file. Lines are appended whole; a disk that refuses is told once and the server goes on."""

    def __init__(self, path: Path, level: str, *, clock: clock.Clock) -> None:
        self._level = level
        self._clock = clock
        self._is_failing = False
        self._path = path
        kept = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._file: BinaryIO = open(kept, "ab", buffering=0)  # noqa: SIM115  # held open as long as the server runs

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def note(
        self,
        request: http.Request,
        *,
        verb: str,
        code: int,
        audit_id: str,
        received: str,
        body: bytes = b"",
        answer: bytes = b"",
    ) -> None:
        """Write the event of a request that has been answered."""
        event = self._event(request, verb=verb, code=code, audit_id=audit_id, received=received)
        if request.asker is not None and request.asker is not request.user:
            event["user"], event["impersonatedUser"] = access.info(request.asker), access.info(request.user)
        if self._shows_bodies(request, verb):
            event["level"] = self._level
            if body:
                event["requestObject"] = _object(body)
            if answer and self._level == "RequestResponse" and (told := _object(answer)) is not None:
                event["responseObject"] = told
        self._write(orjson.dumps(event) + b"\n")

    def _event(self, request: http.Request, *, verb: str, code: int, audit_id: str, received: str) -> dict[str, Any]:
        event: dict[str, Any] = {
            "kind": "Event",
            "apiVersion": "audit.k8s.io/v1",
            "level": "Metadata",
            "auditID": audit_id,
            "stage": "ResponseComplete",
            "requestURI": _uri(request),
            "verb": verb,
            "user": access.info(request.user),
            "sourceIPs": [request.client.rpartition(":")[0]] if request.client else [],
            "userAgent": request.headers.get(b"user-agent", b"").decode("latin-1"),
            "responseStatus": {"metadata": {}, "code": code},
            "requestReceivedTimestamp": received,
            "stageTimestamp": clock.rfc3339_micro(self._clock.now()),
        }
        target = request.target
        if target is not None:
            reference = {
                "resource": target.plural,
                "namespace": target.namespace,
                "name": target.name,
                "apiGroup": target.group,
                "apiVersion": target.version,
                "subresource": target.subresource,
            }
            event["objectRef"] = {key: value for key, value in reference.items() if value}
        if request.annotations:
            event["annotations"] = dict(request.annotations)
        return event

    def _shows_bodies(self, request: http.Request, verb: str) -> bool:
        target = request.target
        if self._level not in ("Request", "RequestResponse") or target is None or verb == "watch":
            return False
        whole = f"{target.plural}/{target.subresource}" if target.subresource else target.plural
        hidden = {(target.group, target.plural), (target.group, whole)}
        return not hidden & _KEPT_FROM_THE_LOG and target.subresource != "proxy"

    def _write(self, line: bytes) -> None:
        try:
            self._file.write(line)
            self._is_failing = False
        except OSError as error:
            if not self._is_failing:
                _LOG.error("audit log cannot be written", path=self._path, why=error.strerror)
            self._is_failing = True


class Recorder:
    """An application in front of another that writes down what passes."""

    def __init__(self, inner: Application, audit: Audit, *, clock: clock.Clock, new_id: Callable[[], str]) -> None:
        self._inner = inner
        self._audit = audit
        self._clock = clock
        self._new_id = new_id

    async def __call__(self, scope: http.Scope, receive: http.Receive, send: http.Send) -> None:
        """Serve one connection's request (ASGI 3) and note it when it is answered."""
        if scope["type"] not in ("http", "websocket"):
            await self._inner(scope, receive, send)
            return
        scope[http.KEPT] = None
        received, seen = clock.rfc3339_micro(self._clock.now()), _Seen()
        try:
            await self._inner(scope, seen.receiving(receive), seen.sending(send))
        finally:
            request: http.Request | None = scope.pop(http.KEPT)
            if request is not None and not _is_of_no_interest(request):
                self._audit.note(
                    request,
                    verb=_verb(request),
                    code=seen.code,
                    audit_id=self._new_id(),
                    received=received,
                    body=bytes(seen.body),
                    answer=bytes(seen.answer),
                )


class _Seen:
    """What passed of a request and its answer; bodies up to what the log keeps."""

    def __init__(self) -> None:
        self.code = 0
        self.body = bytearray()
        self.answer = bytearray()

    def receiving(self, receive: http.Receive) -> http.Receive:
        async def received() -> http.Message:
            message = await receive()
            if message["type"] == "http.request" and len(self.body) <= _LONGEST_BODY:
                self.body += message.get("body", b"")
            return message

        return received

    def sending(self, send: http.Send) -> http.Send:
        async def sent(message: http.Message) -> None:
            kind = message["type"]
            if kind in ("http.response.start", "websocket.http.response.start"):
                self.code = message["status"]
            elif kind == "websocket.accept":
                self.code = 101
            elif kind == "http.response.body" and len(self.answer) <= _LONGEST_BODY:
                self.answer += message.get("body", b"")
            await send(message)

        return sent


def _is_of_no_interest(request: http.Request) -> bool:
    return request.target is None and request.path.startswith(_QUIET)


def _verb(request: http.Request) -> str:
    target = request.target
    if target is None:
        return request.method.lower()
    if request.scope["type"] == "websocket":
        return "create"
    verbs = _OF_OBJECT if target.name else _OF_COLLECTION
    verb = verbs.get(request.method, request.method.lower())
    return "watch" if verb in _READING and options.flag(request.query, "watch") else verb


def _uri(request: http.Request) -> str:
    query = request.scope.get("query_string") or b""
    return f"{request.path}?{query.decode('latin-1')}" if query else request.path


def _object(body: bytes) -> Mapping[str, Any] | None:
    """Return a body of JSON or Kubernetes' protobuf as JSON; None when it is something else, or too large to keep."""
    if len(body) > _LONGEST_BODY:
        return None
    try:
        found = protobuf.decode(body) if body.startswith(protobuf.MAGIC) else orjson.loads(body)
    except ValueError:
        return None
    return found if isinstance(found, dict | list) else None  # type: ignore[return-value]  # a JSON patch is a list
