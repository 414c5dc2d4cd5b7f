"""Lead a request to its verb: who asks, may they, what do they want. The ASGI application in front of FastAPI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from netplane.controlplane.api import (
    access,
    admitting,
    asked,
    cluster,
    deleting,
    discovery,
    eviction,
    http,
    impersonation,
    inflight,
    metering,
    metrics,
    options,
    patching,
    rbac,
    reading,
    reviews,
    route,
    scaling,
    status,
    streaming,
    subresources,
    tokens,
    transport,
    watching,
    writing,
)  # fmt: skip
from netplane.controlplane.registry import catalog, types
from netplane.controlplane.store import protocol
from netplane.kube import select
from netplane.lib import log

_LOG = log.get("api")
Application = Callable[[http.Scope, http.Receive, http.Send], Awaitable[None]]
Verb = Callable[[cluster.Cluster, http.Request, types.ResourceType], Awaitable[http.Response]]

Stream = Callable[[cluster.Cluster, http.Request, types.ResourceType], Awaitable[None]]

_COLLECTION = {"GET": "list", "HEAD": "list", "POST": "create", "DELETE": "deletecollection"}
_OBJECT = {"GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "POST": "create"}
_LIMITED = frozenset({"list", "watch", "deletecollection"})
_READING = frozenset({"get", "list", "watch"})
_TOLD = {"create": "POST", "update": "PUT"}
"""How metrics name verbs, where they are not the verb in capitals."""
_CONNECTED = frozenset({"exec", "attach", "portforward", "proxy"})
_VERBS: dict[str, Verb] = {
    "get": reading.get,
    "list": reading.list_,
    "create": writing.create,
    "update": writing.update,
    "patch": patching.patch,
    "delete": deleting.delete,
    "deletecollection": deleting.delete_collection,
}
_SUBRESOURCES: dict[tuple[str, str], Verb] = {
    ("status", "get"): reading.get,
    ("status", "update"): writing.update,
    ("status", "patch"): patching.patch,
    ("scale", "get"): scaling.get,
    ("scale", "update"): scaling.update,
    ("scale", "patch"): scaling.patch,
    ("binding", "create"): subresources.bind,
    ("eviction", "create"): eviction.evict,
    ("token", "create"): subresources.token,
    ("ephemeralcontainers", "get"): reading.get,
    ("ephemeralcontainers", "update"): writing.update,
    ("ephemeralcontainers", "patch"): patching.patch,
    ("resize", "get"): reading.get,
    ("resize", "update"): writing.update,
    ("resize", "patch"): patching.patch,
    ("approval", "get"): reading.get,
    ("approval", "update"): writing.update,
    ("approval", "patch"): patching.patch,
    ("finalize", "update"): subresources.finalize,
}
_STREAMS: dict[str, Stream] = {
    "log": streaming.log,
    "proxy": streaming.proxy,
    "exec": streaming.plain,
    "attach": streaming.plain,
    "portforward": streaming.plain,
}


_ALLOWED, _FORBIDDEN = ("allow", ""), ("forbid", "")


class _Plan(NamedTuple):
    """What a head that is answered at once leads to, as long as the registry is the same."""

    registry: catalog.Registry
    verb: str
    meters: metrics.Meters
    of: types.ResourceType
    act: Verb


class Api:
    """Serves `/api` and `/apis`; everything else goes to `rest`, the FastAPI application."""

    def __init__(self, at: cluster.Cluster, rest: Application) -> None:
        self._at = at
        self._rest = rest
        self._discovery = discovery.Discovery(at)
        self._inflight = inflight.Inflight(at.settings.max_inflight, at.settings.max_mutating_inflight)

    async def __call__(self, scope: http.Scope, receive: http.Receive, send: http.Send) -> None:
        """Serve one connection's request (ASGI 3)."""
        if scope["type"] == "websocket":
            await self._serve_websocket(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._rest(scope, receive, send)
            return
        request = _request(scope, receive, send)
        try:
            request.user = self._user(request)
            if request.target is None:
                await self._serve_path(request)
                return
            await self._serve(request, request.target)
        except status.ApiStatus as refusal:
            if request.target is not None:  # refused before anything was begun, which counts what it begins
                verbs = _OBJECT if request.target.name else _COLLECTION
                _meters(request, request.target, verbs.get(request.method, "other")).done(refusal.code, 0.0)
            await self._refuse(request, refusal)
        except http.Disconnected:
            return

    async def _serve_path(self, request: http.Request) -> None:
        """Serve a path that is no resource: discovery, health, metrics, netplane's own."""
        asked = rbac.Attributes(verb=request.method.lower(), path=request.path)
        self._decide(request, asked)
        response = await self._discovery.answer(request)
        if response is not None:
            await http.respond(request.send, response)
            return
        if request.path.startswith(("/api/", "/apis/", "/openapi/")):
            raise status.no_such_path()
        request.scope["netplane.user"] = request.user
        await self._rest(request.scope, request.receive, request.send)

    async def _serve_websocket(self, scope: http.Scope, receive: http.Receive, send: http.Send) -> None:
        request = _request({**scope, "method": "GET"}, receive, send)
        target = request.target
        if target is None or target.subresource not in streaming.STREAMS:
            await http.refuse_websocket(receive, send, status.no_such_path())
            return
        meters, started, code = _meters(request, target, "connect"), self._at.clock.monotonic(), 101
        try:
            with meters.watchers.track_inprogress():
                await self._stream(request, target)
        except status.ApiStatus as refusal:
            code = refusal.code
            await http.refuse_websocket(receive, send, refusal)
        finally:
            meters.done(code, self._at.clock.monotonic() - started)

    async def _stream(self, request: http.Request, target: route.Target) -> None:
        request.user = self._user(request)
        self._authorize(request, target, "create")
        of = self._at.type_of(target.group, target.version, target.plural)
        if of.subresource(target.subresource) is None:
            raise status.no_such_path()
        await admitting.check_connection(self._at, request, of)
        await streaming.stream(self._at, request, of)

    async def _serve(self, request: http.Request, target: route.Target) -> None:
        at = self._at
        plan = _known_plan(request, at.registry)
        verb = plan.verb if plan is not None else _verb(request, target)
        meters = plan.meters if plan is not None else _meters(request, target, verb)
        started, code = at.clock.monotonic(), 200
        meters.inflight.inc()
        try:
            self._authorize(request, target, verb)
            of = plan.of if plan is not None else at.type_of(target.group, target.version, target.plural)
            if of.deprecation:
                request.warnings.append(of.deprecation)
                request.annotations["k8s.io/deprecated"] = "true"
            if plan is None:
                if await self._streamed(request, of, verb, meters):
                    return
                plan = _planned(request, at.registry, verb, meters, of)
            self._inflight.enter(request.user, verb)
            try:
                response = await self._answer(request, plan)
            finally:
                self._inflight.leave(verb)
            code = response.code
            if request.warnings or not http.answered(request.send, response):
                await http.respond(request.send, response, more_headers=http.warning_headers(request.warnings))
        except status.ApiStatus as refusal:
            code = refusal.code
            await self._refuse(request, refusal)
        finally:
            meters.inflight.dec()
            meters.done(code, at.clock.monotonic() - started)

    async def _streamed(self, request: http.Request, of: types.ResourceType, verb: str, meters: metrics.Meters) -> bool:
        """Serve a watch or another stream, whose end nobody knows; return False for what is no such request."""
        at = self._at
        stream = _stream(of, request.target.subresource if request.target is not None else "")
        if verb == "watch" and "watch" in of.verbs:
            await _catch_up(at, request, verb)
            with meters.watchers.track_inprogress():
                await watching.watch(at, request, of)
            return True
        if stream is None:
            return False
        await _catch_up(at, request, verb)
        await admitting.check_connection(at, request, of)
        await stream(at, request, of)
        return True

    async def _answer(self, request: http.Request, plan: _Plan) -> http.Response:
        try:
            if not _is_content(self._at, request, plan.verb):
                await self._at.store.fresh()
            return await plan.act(self._at, request, plan.of)
        except protocol.Unavailable as error:
            raise status.unavailable(str(error)) from error
        except protocol.TooLarge as error:
            raise status.ApiStatus(413, "RequestEntityTooLarge", f"Request entity is too large: {error}") from error
        except (status.ApiStatus, http.Disconnected):
            raise
        except Exception as error:  # one broken object must not end the connection without an answer
            _LOG.exception("request failed", method=request.method, path=request.path)
            raise status.internal(f"{type(error).__name__}: {error}") from error

    def _user(self, request: http.Request) -> access.User:
        request.asker = request.user = self._authenticate(request)
        if request.onlooker is not None:
            request.onlooker.known()
        if not request.asked.impersonates:
            return request.user
        return impersonation.effective(
            request.user, request.scope["headers"], lambda asked: self._allow(request, asked)
        )

    def _authenticate(self, request: http.Request) -> access.User:
        by_certificate = transport.user_of(request.scope, self._at.clock)
        if by_certificate is not None:
            return by_certificate
        if request.asked.credentials is None:
            return access.ANONYMOUS
        scheme, token = request.asked.credentials
        if scheme != "bearer":
            raise status.unauthorized()
        try:
            now = self._at.clock.now()
            by_token = tokens.authenticate(self._at.store, token, now=now)
            return by_token or self._at.keys.authenticate(token, now=now, is_alive=self._at.is_alive)
        except access.BadToken as error:
            _LOG.info("token refused", client=request.client, why=error)
            raise status.unauthorized() from error

    def _authorize(self, request: http.Request, target: route.Target, verb: str) -> None:
        if access.MASTERS in request.user.groups:
            request.decision = _ALLOWED
            return
        namespace = target.namespace
        if target.plural == "namespaces" and not target.group:
            namespace = target.name
        fields = _limits(request) if verb in _LIMITED else ()
        name = target.name or next((value for path, value in fields if path == "metadata.name"), "")
        asked = rbac.Attributes(verb, target.group, target.plural, target.subresource, namespace, name, fields=fields)
        self._decide(request, asked)

    def _decide(self, request: http.Request, asked: rbac.Attributes) -> None:
        request.decision = _FORBIDDEN
        request.decision = ("allow", self._allow(request, asked))

    def _allow(self, request: http.Request, asked: rbac.Attributes) -> str:
        """Return why the user may do this; raise 403 when nothing allows it, 401 when nobody knows who it is."""
        user = request.user
        why = self._at.authorizer.why_allowed(user, asked)
        if why is not None:
            return why
        if user is access.ANONYMOUS:
            raise status.unauthorized()
        message = rbac.forbidden_message(user, asked)
        raise status.forbidden(message, group=asked.group, plural=asked.resource, name=asked.name)

    async def _refuse(self, request: http.Request, refusal: status.ApiStatus) -> None:
        await http.respond(request.send, http.failure(refusal), more_headers=http.warning_headers(request.warnings))


async def _catch_up(at: cluster.Cluster, request: http.Request, verb: str) -> None:
    """See what other servers were told, unless the request is content with what was seen before."""
    try:
        if not _is_content(at, request, verb):
            await at.store.fresh()
    except protocol.Unavailable as error:
        raise status.unavailable(str(error)) from error


def _is_content(at: cluster.Cluster, request: http.Request, verb: str) -> bool:
    if verb not in _READING or not request.query:
        return False
    if options.text(request.query, "continue"):
        return True
    revision = options.revision(request.query)
    return revision is not None and revision <= at.store.revision


def _known_plan(request: http.Request, registry: catalog.Registry) -> _Plan | None:
    plan: _Plan | None = request.asked.plan
    return plan if plan is not None and plan.registry is registry else None


def _planned(
    request: http.Request, registry: catalog.Registry, verb: str, meters: metrics.Meters, of: types.ResourceType
) -> _Plan:
    assert request.target is not None
    request.asked.plan = plan = _Plan(registry, verb, meters, of, _act(of, verb, request.target.subresource))
    return plan


def _limits(request: http.Request) -> tuple[tuple[str, str], ...]:
    """Return the fields whose value a list is limited to; a selector that cannot be read limits nothing (and is a 400).

    A list of the one object of a name is judged by that name, as in Kubernetes.
    """
    try:
        selector = select.parse_fields(options.text(request.query, "fieldSelector"))
    except select.SelectorError:
        return ()
    return tuple((each.path, each.value) for each in selector.requirements if not each.is_negated)


def _stream(of: types.ResourceType, subresource: str) -> Stream | None:
    return _STREAMS.get(subresource) if subresource and of.subresource(subresource) is not None else None


def _act(of: types.ResourceType, verb: str, subresource: str) -> Verb:
    if subresource:
        if of.subresource(subresource) is None:
            raise status.no_such_path()
        act = _SUBRESOURCES.get((subresource, verb))
    elif verb not in of.verbs:
        act = None
    else:
        made = subresources.bind_named if of.kind == "Binding" and not of.group else reviews.create
        unkept = metering.VERBS.get(verb) if of.is_computed else made
        act = _VERBS.get(verb) if of.is_stored else unkept
    if act is None:
        raise status.method_not_allowed(of, verb)
    return act


def _request(scope: http.Scope, receive: http.Receive, send: http.Send) -> http.Request:
    read = asked.of(scope)
    made = http.Request(
        method=scope["method"],
        path=read.path,
        query=read.query,
        headers=read.headers,
        target=read.target,
        user=access.ANONYMOUS,
        receive=receive,
        send=send,
        scope=scope,
        asked=read,
    )
    if http.KEPT in scope:
        made.onlooker = scope[http.KEPT]
        made.onlooker.request = made
    return made


def _meters(request: http.Request, target: route.Target, verb: str) -> metrics.Meters:
    told = _TOLD.get(verb) or verb.upper()
    if target.subresource in _CONNECTED:
        told = "CONNECT"
    elif verb == "patch" and request.content_type == patching.APPLY:
        told = "APPLY"
    scope = "resource" if target.name else "namespace" if target.namespace else "cluster"
    dry_run = "All" if request.query and "dryRun" in request.query else ""
    return metrics.of(told, target.group, target.version, target.plural, target.subresource, scope, dry_run)


def _verb(request: http.Request, target: route.Target) -> str:
    verb = (_OBJECT if target.name else _COLLECTION).get(request.method)
    if verb is None:
        raise status.method_not_allowed(None, request.method)
    if verb in ("list", "get") and not target.subresource and options.flag(request.query, "watch"):
        return "watch"
    return verb
