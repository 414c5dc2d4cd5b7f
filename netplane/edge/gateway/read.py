"""Read Gateway API objects into the routing model, and decide every status. Pure; following the API is `run`'s."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from netplane.edge.gateway import attach, listeners, status
from netplane.edge.gateway import compile as compiling
from netplane.edge.gateway.facts import CONTROLLER, Door, Gateway, GatewayClass, Grant, HttpRoute
from netplane.edge.gateway.listeners import Judged, Pairs
from netplane.edge.gateway.status import StatusWrite
from netplane.kube.types import Key
from netplane.model import routing
from netplane.model.service import Service

_NOTHING = routing.Routing()


@dataclass(frozen=True, slots=True)
class Objects:
    """What the API has: ours, and what ours refer to."""

    classes: Mapping[Key, GatewayClass] = field(default_factory=dict)
    gateways: Mapping[Key, Gateway] = field(default_factory=dict)
    routes: Mapping[Key, HttpRoute] = field(default_factory=dict)
    grants: Mapping[Key, Grant] = field(default_factory=dict)
    namespaces: attach.Labels = field(default_factory=dict)
    services: Mapping[Key, Service] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reading:
    """What the door shall serve for Gateways, and the statuses that are to be written once it does."""

    routing: routing.Routing = _NOTHING
    statuses: tuple[StatusWrite, ...] = ()


def read(objects: Objects, pairs: Pairs, door: Door, now: datetime, *, controller: str = CONTROLLER) -> Reading:
    """Read everything. The same objects give the same reading, in whatever order they came."""
    classes = [each for each in objects.classes.values() if each.controller == controller]
    gateways = _ours(objects.gateways.values(), classes)
    grants = [objects.grants[key] for key in sorted(objects.grants)]
    judged = listeners.judge(gateways, grants, pairs, door)
    grouped = attach.by_gateway(gateways, judged)
    hosts_by_port = _hosts_by_port(judged)
    cluster = compiling.Cluster(objects.services, grants)
    routes: list[routing.Route] = []
    counts: Counter[tuple[Key, str]] = Counter()
    writes: list[StatusWrite | None] = [status.gateway_class(each, now) for each in classes]
    for key in sorted(objects.routes):
        route = objects.routes[key]
        attachments = attach.attach(route, grouped, objects.namespaces)
        compiled = compiling.Compiled()
        if attachments:
            compiled = compiling.compile_route(route, attachments, hosts_by_port, cluster)
        routes += compiled.routes
        counts.update(_attached(route, attachments))
        writes.append(status.http_route(route, attachments, compiled, controller=controller, now=now))
    for gateway in gateways:
        writes.append(status.gateway(gateway, grouped[gateway.meta.key], counts, door, now=now))
    return Reading(
        routing.Routing(
            listeners=_listeners(judged),
            routes=(*routes, *compiling.holds(judged)),
            certificates=tuple(compiling.certificates(judged)),
        ),
        tuple(each for each in writes if each is not None),
    )


def _ours(gateways: Iterable[Gateway], classes: Iterable[GatewayClass]) -> list[Gateway]:
    """Return the Gateways of our accepted classes, oldest first."""
    names = {each.meta.name for each in classes if not each.has_parameters}
    found = [each for each in gateways if each.class_name in names]
    return sorted(found, key=lambda each: (each.meta.created, each.meta.key))


def _hosts_by_port(judged: Iterable[Judged]) -> dict[int, frozenset[str]]:
    found: dict[int, set[str]] = {}
    for each in judged:
        if each.is_served:
            found.setdefault(each.listener.port, set()).add(each.listener.hostname)
    return {port: frozenset(hosts) for port, hosts in found.items()}


def _attached(route: HttpRoute, attachments: Iterable[attach.Attachment]) -> set[tuple[Key, str]]:
    """Return the listeners a route counts for: once for each, however many parents lead there."""
    return {
        judged.identity
        for attachment in attachments
        if status.is_accepted(route, attachment)
        for judged, _ in attachment.listeners
    }


def _listeners(judged: Iterable[Judged]) -> tuple[routing.Listener, ...]:
    found: dict[int, routing.Listener] = {}
    for each in judged:
        if each.is_served:
            protocol: routing.ListenerProtocol = "HTTPS" if each.listener.protocol == "HTTPS" else "HTTP"
            found[each.listener.port] = routing.Listener(each.listener.port, protocol)
    return tuple(found[port] for port in sorted(found))
