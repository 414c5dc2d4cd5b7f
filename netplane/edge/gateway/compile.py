"""Compile attached routes to the routing model: references resolved, hosts bounded by their listeners."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from netplane.edge.gateway import hostnames
from netplane.edge.gateway.attach import Attachment
from netplane.edge.gateway.facts import GROUP, HTTPROUTES, Fault, Grant, HttpRoute, Reference, Rule
from netplane.edge.gateway.listeners import Judged
from netplane.edge.gateway.rules import is_hostname
from netplane.kube.types import Key
from netplane.model import routing
from netplane.model.service import Service

_LAST = "9999-12-31T23:59:59Z"
"""Younger than every object: what listeners hold back comes after all that anyone serves there."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """The routes of one HTTPRoute, and the first reference that could not be resolved."""

    routes: tuple[routing.Route, ...] = ()
    unresolved: Fault | None = None


@dataclass(frozen=True, slots=True)
class Cluster:
    """What references are resolved against."""

    services: Mapping[Key, Service]
    grants: Sequence[Grant]


def compile_route(
    route: HttpRoute, attachments: Iterable[Attachment], hosts_by_port: Mapping[int, frozenset[str]], cluster: Cluster
) -> Compiled:
    """Compile an HTTPRoute for the listeners it is attached to."""
    resolver = _Resolver(route, cluster)
    parts = [(rule, resolver.part(rule)) for rule in route.rules]
    if not any(rule.fault is None for rule in route.rules):
        return Compiled(unresolved=resolver.fault)
    ports_by_host = _ports_by_host(attachments, hosts_by_port)
    found = [
        replace(
            part,
            owner=routing.Owner(HTTPROUTES.kind, *route.meta.key, rule.index, number),
            match=replace(match, host=host),
            ports=ports,
            order=(route.meta.created, *route.meta.key, rule.index, number),
        )
        for rule, part in parts
        for number, match in enumerate(rule.matches)
        for host, ports in ports_by_host
    ]
    return Compiled(tuple(found), resolver.fault)


def _ports_by_host(
    attachments: Iterable[Attachment], hosts_by_port: Mapping[int, frozenset[str]]
) -> list[tuple[routing.Host, frozenset[int]]]:
    """Return at which ports each host of the route is served, without hosts that belong to another listener there."""
    ports: dict[str, set[int]] = {}
    for attachment in attachments:
        for judged, hosts in attachment.listeners:
            listener = judged.listener
            if not judged.is_served:
                continue
            for host in hosts:
                if not hostnames.is_elsewhere(host, listener.hostname, hosts_by_port[listener.port]):
                    ports.setdefault(host, set()).add(listener.port)
    return [(hostnames.host(host), frozenset(ports[host])) for host in sorted(ports)]


class _Resolver:
    """Makes routes of rules and keeps the first fault of a reference."""

    def __init__(self, route: HttpRoute, cluster: Cluster) -> None:
        self.fault: Fault | None = None
        self._route = route
        self._cluster = cluster

    def part(self, rule: Rule) -> routing.Route:
        """Return what a rule does, for any host and match."""
        owner = routing.Owner(HTTPROUTES.kind, *self._route.meta.key, rule.index)
        if rule.fault is not None:
            # A rule that cannot be served as it is must not let its requests through to a wider one.
            return routing.Route(owner, respond=500)
        backends = tuple(
            routing.Backend(self._service(target.reference), target.weight, missing_status=500)
            for target in rule.targets
        )
        mirrors = [(self._service(reference), percent) for reference, percent in rule.mirrors]
        is_dead = rule.redirect is None and not any(each.weight for each in backends)
        return routing.Route(
            owner,
            backends=backends,
            respond=500 if is_dead else 0,
            redirect=rule.redirect,
            rewrite_path=rule.rewrite_path,
            rewrite_host=rule.rewrite_host,
            request_headers=rule.request_headers,
            response_headers=rule.response_headers,
            mirrors=tuple(routing.Mirror(service, percent) for service, percent in mirrors if service),
            policy=routing.Policy(server_timeout=rule.timeout, protocol=self._protocol(backends)),
        )

    def _service(self, reference: Reference) -> routing.ServicePort | None:
        found = self._resolve(reference)
        if isinstance(found, Fault):
            self.fault = self.fault or found
            return None
        return found

    def _resolve(self, reference: Reference) -> routing.ServicePort | Fault:
        at = reference.path
        if (reference.group, reference.kind) != ("", "Service"):
            kind = f"{reference.kind}.{reference.group}" if reference.group else reference.kind
            return Fault("InvalidKind", f"{at}: {kind} is not supported, only Services are")
        source = (GROUP, HTTPROUTES.kind, self._route.meta.namespace)
        is_foreign = reference.namespace != self._route.meta.namespace
        if is_foreign and not any(each.allows(source, reference) for each in self._cluster.grants):
            return Fault("RefNotPermitted", f"{at}: no ReferenceGrant allows {reference}")
        service = self._cluster.services.get((reference.namespace, reference.name))
        if service is None:
            return Fault("BackendNotFound", f"{at}: {reference} is not there")
        if service.type == "ExternalName":
            return Fault("InvalidKind", f"{at}: {reference} is of type ExternalName, which is not supported")
        if reference.port not in {port.port for port in service.ports}:
            return Fault("BackendNotFound", f"{at}.port: Service {service.namespace}/{service.name} has no such port")
        return routing.ServicePort(reference.namespace, reference.name, reference.port)

    def _protocol(self, backends: Iterable[routing.Backend]) -> routing.BackendProtocol:
        """Speak clear HTTP/2 where the Service's appProtocol says so (KEP-3726)."""
        spoken = {self._app_protocol(each.service) for each in backends if each.service}
        return "h2c" if spoken == {"kubernetes.io/h2c"} else "http"

    def _app_protocol(self, of: routing.ServicePort) -> str:
        ports = self._cluster.services[of.namespace, of.name].ports
        return next(port.app_protocol for port in ports if port.port == of.port)


def holds(listeners: Iterable[Judged]) -> list[routing.Route]:
    """Return for each hostname of a listener the answer 404 to what no route there takes.

    Without it a request would go on to a route of a less specific listener (HTTP listener isolation).
    """
    ports: dict[str, set[int]] = {}
    owners: dict[str, routing.Owner] = {}
    for judged in listeners:
        if judged.is_served and judged.listener.hostname:
            ports.setdefault(judged.listener.hostname, set()).add(judged.listener.port)
            owners.setdefault(judged.listener.hostname, routing.Owner("Gateway", *judged.gateway.meta.key))
    return [
        routing.Route(
            owners[hostname],
            match=routing.Match(host=hostnames.host(hostname)),
            ports=frozenset(ports[hostname]),
            order=(_LAST, "", hostname, 0, 0),
            respond=404,
        )
        for hostname in sorted(ports)
    ]


def certificates(listeners: Iterable[Judged]) -> list[routing.Certificate]:
    """Return the certificates of listeners: for the listener's hostname, else for the names they stand for.

    Of two that claim a name, the one of the older Gateway and the first listener has it.
    """
    claimed: dict[str, tuple[str, tuple[str, str, str]]] = {}
    pems: dict[str, str] = {}
    for judged in listeners:
        if not judged.is_served:
            continue
        for (namespace, name), pair in judged.pairs:
            secret = f"gateway_{namespace}_{name}"
            pems[secret] = pair.pem
            wanted = _certified(judged.listener.hostname, pair.names)
            for each in wanted:
                claimed.setdefault(each, (secret, (judged.gateway.meta.created, *judged.gateway.meta.key)))
    rows: dict[str, list[tuple[str, tuple[str, str, str]]]] = {}
    for each, (secret, claim) in sorted(claimed.items()):
        rows.setdefault(secret, []).append((each, claim))
    return [
        routing.Certificate(secret, tuple(name for name, _ in mine), pems[secret], tuple(claim for _, claim in mine))
        for secret, mine in sorted(rows.items())
    ]


def _certified(hostname: str, names: Sequence[str]) -> Sequence[str]:
    """Return for which server names a certificate is shown: a wildcard listener's exact certificates for their own."""
    good = [each for each in names if is_hostname(each)]
    if not hostname:
        return good
    below = [each for each in good if each != hostname and hostnames.covers(hostname, each)]
    return [hostname, *below]
