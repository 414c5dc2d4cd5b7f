"""Read Ingress objects as a routing. What is wrong with one is told of that one, and leaves the others alone.

Of two that claim the same host and path the older wins (creation time, then namespace and name). Rules of an Ingress
without a host, and default backends, serve whatever no more specific rule does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from netplane.edge.ingress.plan import canary, endpoints, options, policies, tls, values
from netplane.edge.ingress.plan.view import Door, Finding, One, View
from netplane.kube.types import Key, Object
from netplane.model.routing import Backend, Host, Match, Owner, Passthrough, Path, PathChange, Redirect, Route, Routing
from netplane.model.routing import ServicePort as Port

CLASS_ANNOTATION: Final = "kubernetes.io/ingress.class"
DEFAULT_CLASS: Final = "ingressclass.kubernetes.io/is-default-class"


@dataclass(frozen=True, slots=True)
class Reading:
    """What the Ingresses say, which of them are ours, and what is wrong with them."""

    routing: Routing
    mine: tuple[Key, ...]
    findings: tuple[Finding, ...]


@dataclass(slots=True)
class _Book:
    """What has been read so far."""

    routes: list[Route] = field(default_factory=list)
    claims: dict[tuple[Host, Path], int] = field(default_factory=dict)
    canaries: dict[tuple[Host, Path], Owner] = field(default_factory=dict)
    passthroughs: dict[Host, Passthrough] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def read(view: View, door: Door) -> Reading:
    """Return the routing of all Ingresses whose class is ours."""
    names, default = _classes(view, door)
    book = _Book()
    ours = [obj for obj in view.ingresses.values() if class_of(obj, default) in names]
    mine = [_one(obj, view, door, book) for obj in sorted(ours, key=_age)]
    authorities = tls.authorities([one for one in mine if not one.options.get("canary")])
    for one in mine:
        if not one.options.get("canary"):
            _read_rules(one, book)
    for one in mine:
        if not one.options.get("canary"):
            _read_default(one, book)
    for one in mine:
        if one.options.get("canary"):
            _read_canary(one, book)
    certificates = tls.certificates(mine)
    routing = Routing(
        routes=tuple(book.routes),
        certificates=certificates,
        client_authorities=authorities,
        passthroughs=tuple(book.passthroughs.values()),
    )
    return Reading(routing, tuple(one.key for one in mine), tuple(dict.fromkeys(book.findings)))


def class_of(obj: Object, default: str) -> str:
    """Return the name of an Ingress's class: the field, else the old annotation, else the default class."""
    named = (obj.get("spec") or {}).get("ingressClassName")
    return str(named or (obj["metadata"].get("annotations") or {}).get(CLASS_ANNOTATION) or default)


def _classes(view: View, door: Door) -> tuple[set[str], str]:
    ours = {
        name: obj
        for (_, name), obj in view.classes.items()
        if (obj.get("spec") or {}).get("controller") == door.controller
    }
    defaults = sorted(
        (obj["metadata"].get("creationTimestamp") or "", name)
        for name, obj in ours.items()
        if (obj["metadata"].get("annotations") or {}).get(DEFAULT_CLASS) == "true"
    )
    return set(ours), defaults[-1][1] if defaults else ""


def _age(obj: Object) -> tuple[str, str, str]:
    metadata = obj["metadata"]
    return metadata.get("creationTimestamp") or "", metadata.get("namespace", ""), metadata["name"]


def _one(obj: Object, view: View, door: Door, book: _Book) -> One:
    said = options.read(obj["metadata"].get("annotations") or {})
    one = One(obj, view, door, said, book.findings)
    policies.check(one)
    for fault in said.faults:
        one.tell("BadAnnotation", fault)
    return one


def _read_rules(one: One, book: _Book) -> None:
    for route in _routes(one):
        if one.options.get("ssl-passthrough") and not one.door.has_passthrough:
            one.tell("NotServed", "metadata.annotations: ssl-passthrough needs a door run with --tls-passthrough")
            return
        if one.options.get("ssl-passthrough"):
            _pass_through(one, route, book)
        else:
            _claim(one, route, book)


def _read_default(one: One, book: _Book) -> None:
    backend = (one.obj.get("spec") or {}).get("defaultBackend")
    if backend is not None:
        found = _backend(one, backend, "spec.defaultBackend")
        _claim(one, _route(one, Match(Host(), Path()), found, -1, -1), book)


def _read_canary(one: One, book: _Book) -> None:
    for route in _routes(one):
        place = route.match.host, route.match.path
        at = book.claims.get(place)
        if at is None:
            one.tell("NotServed", f"{_where(route)}: no Ingress that is not a canary serves {_place(place)}")
            continue
        main = book.routes[at].owner
        if main.namespace != one.key[0]:
            one.tell("PathClaimed", f"{_where(route)}: {_place(place)} is served by {main}, of another namespace")
            continue
        older = book.canaries.setdefault(place, route.owner)
        if older != route.owner:
            one.tell("PathClaimed", f"{_where(route)}: {_place(place)} has the canary {older}, which is older")
            continue
        book.routes[at], more = canary.split(book.routes[at], route, one.options)
        book.routes += more


def _claim(one: One, route: Route, book: _Book) -> None:
    place = route.match.host, route.match.path
    at = book.claims.get(place)
    if at is not None:
        winner = book.routes[at].owner
        one.tell("PathClaimed", f"{_where(route)}: {_place(place)} is served by {winner}, which is older")
        return
    book.claims[place] = len(book.routes)
    book.routes.append(route)


def _pass_through(one: One, route: Route, book: _Book) -> None:
    host = route.match.host
    service = route.backends[0].service if route.backends else None
    if host.kind == "any" or service is None:
        one.tell("NotServed", f"{_where(route)}: passing TLS through needs a host and a Service")
    elif older := _older(host, one.key, book):
        one.tell("HostClaimed", f"{_where(route)}: {_shown(host)} is served by {older}, which is older")
    else:
        book.passthroughs.setdefault(host, Passthrough(route.owner, host, service))


def _older(host: Host, key: Key, book: _Book) -> Owner | None:
    """Return who came first to a host that an Ingress wants all TLS connections of, or to one that it stands for."""
    claims = [(at, book.routes[index].owner) for (at, _), index in book.claims.items()]
    claims += [(at, one.owner) for at, one in book.passthroughs.items()]
    for claimed, owner in claims:
        if (owner.namespace, owner.name) != key and (claimed == host or _stands_for(host, claimed)):
            return owner
    return None


def _stands_for(host: Host, other: Host) -> bool:
    return host.kind == "label" and other.kind == "exact" and other.name.partition(".")[2] == host.name


def _routes(one: One) -> Iterator[Route]:
    for at, rule in enumerate((one.obj.get("spec") or {}).get("rules") or ()):
        host = _host(one, rule.get("host") or "", f"spec.rules[{at}].host")
        if host is None:
            continue
        for index, row in enumerate((rule.get("http") or {}).get("paths") or ()):
            where = f"spec.rules[{at}].http.paths[{index}]"
            path = _path(one, row, where)
            if path is not None:
                found = _backend(one, row.get("backend") or {}, f"{where}.backend")
                yield _route(one, Match(host, path), found, at, index)


def _route(one: One, match: Match, backend: Backend, rule: int, path: int) -> Route:
    namespace, name = one.key
    order = (one.obj["metadata"].get("creationTimestamp") or "", namespace, name, rule, path)
    owner = Owner("Ingress", namespace, name, rule, path)
    route = Route(owner, match, (backend,), frozenset({one.door.http, one.door.https}), order)
    if one.options.is_closed or match.host in one.closed_hosts:
        return replace(route, backends=(Backend(None),), respond=503)
    return _changed(replace(route, policy=policies.policy(one, match.host)), one.options)


def _changed(route: Route, options: options.Options) -> Route:
    """Return the route with what the annotations say about redirects and rewrites."""
    lasting, passing = options.get("permanent-redirect"), options.get("temporal-redirect")
    redirect: Redirect | None = passing or lasting  # The order of ingress-nginx.
    if redirect is not None:
        code = 302 if passing else options.get("permanent-redirect-code", 301)
        redirect = replace(redirect, status=code)
    change = None
    if options.get("rewrite-target"):
        change = PathChange("full", options.get("rewrite-target"))
    elif options.get("rewrite-prefix"):
        change = PathChange("prefix", options.get("rewrite-prefix"))
    return replace(route, redirect=redirect, rewrite_path=change, rewrite_host=options.get("upstream-vhost", ""))


def _host(one: One, text: str, where: str) -> Host | None:
    if not text:
        return Host()
    name = text.lower()
    try:
        if name.startswith("*."):
            return Host("label", values.host(name[2:]))
        return Host("exact", values.host(name))
    except ValueError as error:
        one.tell("BadHost", f"{where}: {error}")
        return None


def _path(one: One, row: Mapping[str, Any], where: str) -> Path | None:
    kind = row.get("pathType") or "ImplementationSpecific"
    try:
        text = values.path(row.get("path") or "/")
    except ValueError as error:
        one.tell("BadPath", f"{where}.path: {error}")
        return None
    if kind == "Exact":
        return Path("exact", values.looked_up(text))
    if kind not in ("Prefix", "ImplementationSpecific"):
        one.tell("BadPath", f"{where}.pathType: {kind!r} is none of Exact, Prefix, ImplementationSpecific")
        return None
    return Path("prefix", values.looked_up(text).rstrip("/") or "/")


def _backend(one: One, backend: Mapping[str, Any], where: str) -> Backend:
    if backend.get("resource") is not None:
        one.tell("ResourceBackend", f"{where}.resource: only Services are served, no other resources")
        return Backend(None)
    row = backend.get("service") or {}
    namespace, name = one.key[0], row.get("name") or ""
    service = one.view.services.get((namespace, name))
    if service is None:
        one.tell("ServiceNotFound", f"{where}.service.name: there is no Service {namespace}/{name}")
        return Backend(None)
    if service.type == "ExternalName":
        one.tell("ExternalName", f"{where}.service.name: {namespace}/{name} is an ExternalName, which is not followed")
        return Backend(None)
    wanted = (row.get("port") or {}).get("number") or (row.get("port") or {}).get("name") or ""
    port = endpoints.port_of(service, wanted)
    if port is None:
        one.tell("PortNotFound", f"{where}.service.port: Service {namespace}/{name} has no TCP port {wanted!r}")
        return Backend(None)
    return Backend(Port(namespace, name, port.port))


def _where(route: Route) -> str:
    if route.owner.rule < 0:
        return "spec.defaultBackend"
    return f"spec.rules[{route.owner.rule}].http.paths[{route.owner.path}]"


def _place(place: tuple[Host, Path]) -> str:
    host, path = place
    return f"{path.kind} path {_shown(host)}{path.value}"


def _shown(host: Host) -> str:
    return f"*.{host.name}" if host.kind == "label" else host.name
