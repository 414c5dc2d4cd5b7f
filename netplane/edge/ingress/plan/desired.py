"""Compile a routing to the state of the engine that serves it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from netplane.edge.ingress.plan import base, policy, slots, table
from netplane.edge.ingress.plan.slots import Use
from netplane.edge.ingress.plan.state import MAPS, EngineCertificate, Paths, State, authority_name, digest
from netplane.model.routing import Backend, Passthrough, Policy, Route, Routing, Server, ServicePort

_PLAIN = Policy()


@dataclass(frozen=True, slots=True)
class Plan:
    """The state the engine shall be in, and what else serving it takes."""

    state: State
    slots: Mapping[Use, str] = field(default_factory=dict)
    users: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """Realm to names and hashes of passwords, for the process that checks them."""

    def with_moved(self, moved: Mapping[ServicePort, tuple[Server, ...]]) -> Plan:
        """Return the same routes with other endpoints for these."""
        if not moved:
            return self
        servers = dict(self.state.servers)
        for use, slot in self.slots.items():
            if use.service in moved:
                servers[slot] = slots.servers_of(use, moved[use.service])
        return replace(self, state=replace(self.state, servers=servers))


def compile_plan(
    routing: Routing, settings: base.Settings, *, kept: Mapping[str, str], busy: frozenset[str] = frozenset()
) -> Plan:
    """Return the plan. `kept` is the map `slots` of the engine as it is. Raises slots.SlotsExhausted."""
    paths = Paths(settings.directory)
    uses = [*_uses(routing, paths), *(slots.passthrough_use(one.service) for one in routing.passthroughs)]
    available = {kind: list(base.slot_names(settings, kind)) for kind in base.KINDS}
    given = slots.assign(uses, kept, available, busy)
    state = State(
        maps=_maps(routing, settings, given, paths),
        servers={slot: slots.servers_of(use, routing.servers.get(use.service, ())) for use, slot in given.items()},
        certificates=_certificates(routing, paths),
        authorities=_authorities(routing),
    )
    users = {policy.realm_name(one): one.policy.basic_auth.users for one in routing.routes if one.policy.basic_auth}
    return Plan(state, given, users)


def _maps(
    routing: Routing, settings: base.Settings, given: Mapping[Use, str], paths: Paths
) -> dict[str, Mapping[str, str]]:
    https = [one.port for one in routing.listeners or settings.listeners if one.protocol == "HTTPS"]
    records = _Records(given, paths, https_port=443 if 443 in https or not https else https[0])
    tables = table.compile_tables(
        routing.routes,
        settings.listeners,
        records.record,
        fast=records.fast,
        own_ports=settings.own_ports,
        addresses=len(settings.addresses),
    )
    maps: dict[str, Mapping[str, str]] = {
        "slots": {slot: str(use) for use, slot in given.items()},
        "policies": records.policies,
        "choices": tables.choices,
        "exact": tables.exact,
        "regex": tables.regex,
        "prefix": tables.prefix,
        "fast": tables.fast,
        "near": tables.near,
        "doors": tables.doors,
        "authorities": {name: authority_name(pem) for name, pem in _client_authorities(routing).items()},
        "sni": {_sni(one): given[slots.passthrough_use(one.service)] for one in reversed(routing.passthroughs)},
    }
    return {name: maps.get(name, {}) for name in MAPS}


@dataclass(frozen=True, slots=True)
class _Records:
    """Write what is found for a route, and keep the policies that this names."""

    given: Mapping[Use, str]
    paths: Paths
    https_port: int
    policies: dict[str, str] = field(default_factory=dict)

    def record(self, route: Route) -> str:
        """Return `slot|owner|policy`."""
        text = self._policy(route)
        name = policy.name_of(text)
        if text:
            self.policies[name] = text
        return f"{_target(route, self.given, self.paths)}|{route.owner}|{name}"

    def fast(self, route: Route) -> str:
        """Return the slot and the names for the log, "" when the route needs more than that."""
        slot = _target(route, self.given, self.paths)
        if slot[0] in "!@" or self._policy(route):
            return ""
        service = next(one.service for one in route.backends if one.weight > 0)
        return f'{slot}{route.owner}","service":"{service}'

    def _policy(self, route: Route) -> str:
        return policy.text(route, self._plain_slot, https_port=self.https_port)

    def _plain_slot(self, service: ServicePort) -> str:
        return self.given[slots.use_of(service, _PLAIN, self.paths)]


def _uses(routing: Routing, paths: Paths) -> list[Use]:
    found = []
    for route in routing.routes:
        found += [slots.use_of(one.service, route.policy, paths) for one in route.backends if one.service]
        asked = [one.service for one in route.mirrors]
        asked += [route.policy.external_auth.service] if route.policy.external_auth else []
        found += [slots.use_of(service, _PLAIN, paths) for service in asked]
    return found


def _target(route: Route, given: Mapping[Use, str], paths: Paths) -> str:
    if route.respond:
        return _refusal(route.respond)
    if route.redirect:
        return _refusal(500)
    weighted = [one for one in route.backends if one.weight > 0]
    if not weighted:
        return _refusal(500 if route.backends and route.owner.kind != "Ingress" else 503)
    if len(weighted) == 1:
        return _slot(weighted[0], route, given, paths)
    return "@" + "+".join(f"{_slot(one, route, given, paths)}*{one.weight}" for one in weighted)


def _slot(backend: Backend, route: Route, given: Mapping[Use, str], paths: Paths) -> str:
    if backend.service is None:
        return _refusal(backend.missing_status)
    return given[slots.use_of(backend.service, route.policy, paths)]


def _refusal(status: int) -> str:
    """Return what stands for a slot where there is only an answer: as long as the name of one."""
    return f"!{status}--"


def _sni(one: Passthrough) -> str:
    return {"exact": "", "any": "*"}.get(one.host.kind, "*.") + one.host.name


def _certificates(routing: Routing, paths: Paths) -> dict[str, EngineCertificate]:
    """Name each by its content; a name that authorities are told for has an entry of its own with them."""
    authority = _client_authorities(routing)
    claimed = {name for one in routing.certificates for name in one.names}
    alone = set(authority) - claimed
    found = {}
    for certificate in routing.certificates:
        # A host that a wildcard stands for, and whose clients show certificates, is named beside it: exact names win.
        under = {name for name in alone if f"*.{name.partition('.')[2]}" in certificate.names}
        alone -= under
        for options, names in _by_options([*certificate.names, *sorted(under)], authority, paths).items():
            mark = digest(f"{certificate.pem}\n{options}\n{' '.join(names)}", 12)
            found[f"{certificate.name}-{mark}"] = EngineCertificate(certificate.pem, names, options)
    return found


def _client_authorities(routing: Routing) -> dict[str, str]:
    """Return the authorities by server name; of two that claim a name the first, which is the older."""
    return {name: one.pem for one in reversed(routing.client_authorities) for name in one.names}


def _by_options(names: Iterable[str], authority: Mapping[str, str], paths: Paths) -> dict[str, tuple[str, ...]]:
    grouped: dict[str, list[str]] = {}
    for name in names:
        pem = authority.get(name, "")
        # `optional`, for whoever comes without is told so in HTTP; the routes decide who must have one.
        options = f"ca-file {paths.authority(authority_name(pem))} verify optional" if pem else ""
        grouped.setdefault(options, []).append(name)
    return {options: tuple(names) for options, names in grouped.items()}


def _authorities(routing: Routing) -> dict[str, str]:
    found = {authority_name(one.pem): one.pem for one in routing.client_authorities}
    for route in routing.routes:
        tls = route.policy.backend_tls
        if tls.verify and tls.ca:
            found[authority_name(tls.ca)] = tls.ca
    return found
