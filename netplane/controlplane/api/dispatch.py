"""Lead a request to its verb: who asks, may they, what do they want. The ASGI application in front of FastAPI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from netplane.controlplane.api import (
    access,
    cluster,
    deleting,
    http,
    metrics,
    options,
    rbac,
    reading,
    route,
    status,
    watching,
    writing,
)  # fmt: skip
from netplane.controlplane.registry import types
from netplane.controlplane.store import protocol
from netplane.lib import log

_LOG = log.get("api")
Application = Callable[[http.Scope, http.Receive, http.Send], Awaitable[None]]
Verb = Callable[[cluster.Cluster, http.Request, types.ResourceType], Awaitable[http.Response]]

_COLLECTION = {"GET": "list", "HEAD": "list", "POST": "create", "DELETE": "deletecollection"}
_OBJECT = {"GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "POST": "create"}
_VERBS: dict[str, Verb] = {
    "get": reading.get,
    "list": reading.list_,
    "create": writing.create,
    "update": writing.update,
    "delete": deleting.delete,
    "deletecollection": deleting.delete_collection,
}


class Api:
    """Serves `/api` and `/apis`; everything else goes to `rest`, the FastAPI application."""

    def __init__(self, at: cluster.Cluster, rest: Application) -> None:
        self._at = at
        self._rest = rest

    async def __call__(self, scope: http.Scope, receive: http.Receive, send: http.Send) -> None:
        """Serve one connection's request (ASGI 3)."""
        if scope["type"] != "http":
            await self._rest(scope, receive, send)
            return
        request = _request(scope, receive, send)
        try:
            request.user = self._authenticate(request)
            if request.target is None:
                await self._rest(scope, receive, send)
                return
            await self._serve(request, request.target)
        except status.ApiStatus as refusal:
            await self._refuse(request, refusal)
        except http.Disconnected:
            return

    async def _serve(self, request: http.Request, target: route.Target) -> None:
        at = self._at
        verb = _verb(request, target)
        scope = "resource" if target.name else "namespace" if target.namespace else "cluster"
        meters = metrics.of(verb.upper(), target.group, target.version, target.plural, target.subresource, scope)
        started, code = at.clock.monotonic(), 200
        meters.inflight.inc()
        try:
            self._authorize(request, target, verb)
            of = at.type_of(target.group, target.version, target.plural)
            if verb == "watch":
                with meters.watchers.track_inprogress():
                    await watching.watch(at, request, of)
                return
            response = await self._answer(request, of, verb)
            code = response.code
            await http.respond(request.send, response, more_headers=http.warning_headers(request.warnings))
        except status.ApiStatus as refusal:
            code = refusal.code
            await self._refuse(request, refusal)
        finally:
            meters.inflight.dec()
            meters.done(code, at.clock.monotonic() - started)

    async def _answer(self, request: http.Request, of: types.ResourceType, verb: str) -> http.Response:
        act = _VERBS.get(verb)
        if act is None or verb not in of.verbs:
            raise status.method_not_allowed(of, verb)
        try:
            return await act(self._at, request, of)
        except protocol.Unavailable as error:
            raise status.unavailable(str(error)) from error
        except (status.ApiStatus, http.Disconnected):
            raise
        except Exception as error:  # one broken object must not end the connection without an answer
            _LOG.exception("request failed", method=request.method, path=request.path)
            raise status.internal(f"{type(error).__name__}: {error}") from error

    def _authenticate(self, request: http.Request) -> access.User:
        header = request.headers.get(b"authorization", b"").decode("latin-1")
        scheme, _, token = header.partition(" ")
        if not header:
            return access.ANONYMOUS
        if scheme.lower() != "bearer":
            raise status.unauthorized()
        try:
            return self._at.keys.authenticate(token.strip(), now=self._at.clock.now(), is_alive=self._is_alive)
        except access.BadToken as error:
            _LOG.info("token refused", client=request.client, why=error)
            raise status.unauthorized() from error

    def _is_alive(self, kind: str, namespace: str, name: str, uid: str) -> bool:
        plural = {"ServiceAccount": "serviceaccounts", "Pod": "pods", "Secret": "secrets", "Node": "nodes"}[kind]
        obj = self._at.get("", "v1", plural, namespace, name)
        return obj is not None and (not uid or obj["metadata"]["uid"] == uid)

    def _authorize(self, request: http.Request, target: route.Target, verb: str) -> None:
        user = request.user
        asked = rbac.Attributes(verb, target.group, target.plural, target.subresource, target.namespace, target.name)
        if self._at.authorizer.why_allowed(user, asked) is not None:
            return
        if user is access.ANONYMOUS:
            raise status.unauthorized()
        raise status.forbidden(
            rbac.forbidden_message(user, asked), group=target.group, plural=target.plural, name=target.name
        )

    async def _refuse(self, request: http.Request, refusal: status.ApiStatus) -> None:
        await http.respond(request.send, http.failure(refusal), more_headers=http.warning_headers(request.warnings))


def _request(scope: http.Scope, receive: http.Receive, send: http.Send) -> http.Request:
    raw = scope.get("raw_path") or scope["path"].encode()
    path = raw.partition(b"?")[0].decode("latin-1")
    client = scope.get("client")
    return http.Request(
        method=scope["method"],
        path=path,
        query=options.query(scope["query_string"]),
        headers=dict(scope["headers"]),
        target=route.parse(path),
        user=access.ANONYMOUS,
        receive=receive,
        send=send,
        client=f"{client[0]}:{client[1]}" if client else "",
        scope=scope,
    )


def _verb(request: http.Request, target: route.Target) -> str:
    verb = (_OBJECT if target.name else _COLLECTION).get(request.method)
    if verb is None:
        raise status.method_not_allowed(None, request.method)
    if verb in ("list", "get") and not target.subresource and options.flag(request.query, "watch"):
        return "watch"
    return verb
