"""Judge the listeners of all Gateways together: which can be served, with which certificates, and why others cannot.

All Gateways share one door, so their listeners are one set: two of one port must agree on the protocol. Listeners of
different Gateways with the same port and hostname are served as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from netplane.edge.gateway.facts import GROUP, Door, Fault, Gateway, Grant, Listener, Reference
from netplane.edge.gateway.rules import is_hostname
from netplane.kube.types import Key

HTTP_ROUTE = (GROUP, "HTTPRoute")
_PROTOCOLS = ("HTTP", "HTTPS")


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its key as PEM, and the DNS names it stands for."""

    pem: str
    names: tuple[str, ...]


Pairs = Callable[[Key], Pair | str]
"""The certificate of a Secret (namespace, name), or why there is none."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A listener, and what is wrong with it, each in its own condition."""

    gateway: Gateway
    listener: Listener
    conflicted: Fault | None = None
    accepted: Fault | None = None
    resolved: Fault | None = None
    kinds: tuple[tuple[str, str], ...] = (HTTP_ROUTE,)
    pairs: tuple[tuple[Key, Pair], ...] = ()

    @property
    def is_served(self) -> bool:
        """Whether the door listens for it: nothing in conflict, and TLS has a certificate."""
        is_ready = bool(self.pairs) or self.listener.protocol != "HTTPS"
        return not (self.conflicted or self.accepted) and is_ready and bool(self.kinds)

    @property
    def identity(self) -> tuple[Key, str]:
        """Gateway and listener name."""
        return self.gateway.meta.key, self.listener.name


def judge(gateways: Iterable[Gateway], grants: Iterable[Grant], pairs: Pairs, door: Door) -> list[Judged]:
    """Judge every listener of the Gateways, which come oldest first."""
    granted, found = tuple(grants), []
    protocols = dict(door.ports)
    for gateway in gateways:
        conflicts = _conflicts(gateway)
        for listener in gateway.listeners:
            conflicted = conflicts.get(listener.name)
            accepted = _accepted(listener, protocols, door)
            resolved, kinds = _kinds(listener)
            usable: tuple[tuple[Key, Pair], ...] = ()
            if listener.protocol == "HTTPS":
                usable, fault = _certificates(gateway, listener, granted, pairs)
                resolved = fault or resolved
            if accepted and accepted.reason == "UnsupportedProtocol":
                kinds = ()
            found.append(Judged(gateway, listener, conflicted, accepted, resolved, kinds, usable))
            if not (conflicted or accepted):
                protocols.setdefault(listener.port, listener.protocol)
    return found


def _conflicts(gateway: Gateway) -> dict[str, Fault]:
    """Find the listeners of one Gateway that no request could tell apart; none of them wins."""
    found: dict[str, Fault] = {}
    for one in gateway.listeners:
        for other in gateway.listeners:
            if one is other or one.port != other.port:
                continue
            if one.protocol != other.protocol and one.protocol in _PROTOCOLS and other.protocol in _PROTOCOLS:
                message = f"port {one.port} is {one.protocol} here and {other.protocol} in listener {other.name}"
                found[one.name] = Fault("ProtocolConflict", message)
            elif one.protocol == other.protocol and one.hostname == other.hostname:
                message = f"listener {other.name} has the same port and hostname"
                found.setdefault(one.name, Fault("HostnameConflict", message))
    return found


def _accepted(listener: Listener, protocols: Mapping[int, str], door: Door) -> Fault | None:
    if listener.protocol not in _PROTOCOLS:
        return Fault("UnsupportedProtocol", f"protocol {listener.protocol!r} is neither HTTP nor HTTPS")
    if listener.hostname and not is_hostname(listener.hostname):
        return Fault("UnsupportedValue", f"hostname: {listener.hostname[:80]!r} is not a host name")
    if listener.protocol == "HTTPS" and listener.tls_mode == "Passthrough":
        return Fault("UnsupportedValue", "tls.mode: must be Terminate for protocol HTTPS")
    if listener.protocol == "HTTP" and listener.tls_mode:
        return Fault("UnsupportedValue", "tls: must not be given for protocol HTTP")
    if listener.has_client_validation:
        return Fault("UnsupportedValue", "tls.frontendValidation: is not supported; see the README")
    if listener.port in door.reserved:
        return Fault("PortUnavailable", f"port {listener.port} is the door's own")
    if protocols.get(listener.port, listener.protocol) != listener.protocol:
        other = protocols[listener.port]
        return Fault("PortUnavailable", f"port {listener.port} is taken for {other} by the door or an older Gateway")
    return None


def _kinds(listener: Listener) -> tuple[Fault | None, tuple[tuple[str, str], ...]]:
    """Return the kinds of routes that may be attached, and the fault when kinds are named that may not."""
    if listener.kinds is None:
        return None, (HTTP_ROUTE,)
    good = tuple(dict.fromkeys(each for each in listener.kinds if each == HTTP_ROUTE))
    bad = [f"{kind}.{group}" if group else kind for group, kind in listener.kinds if (group, kind) != HTTP_ROUTE]
    fault = Fault("InvalidRouteKinds", f"allowedRoutes.kinds: not supported: {', '.join(bad)}") if bad else None
    return fault, good


def _certificates(
    gateway: Gateway, listener: Listener, grants: tuple[Grant, ...], pairs: Pairs
) -> tuple[tuple[tuple[Key, Pair], ...], Fault | None]:
    """Return the certificates that can be used, and the first fault among the references."""
    if not listener.certificates:
        return (), Fault("InvalidCertificateRef", "tls.certificateRefs: HTTPS needs a certificate")
    usable: list[tuple[Key, Pair]] = []
    first: Fault | None = None
    for reference in listener.certificates:
        found = _certificate(gateway, reference, grants, pairs)
        if isinstance(found, Fault):
            first = first or found
        else:
            usable.append(((reference.namespace, reference.name), found))
    return tuple(usable), first


def _certificate(gateway: Gateway, reference: Reference, grants: tuple[Grant, ...], pairs: Pairs) -> Pair | Fault:
    if (reference.group, reference.kind) != ("", "Secret"):
        kind = f"{reference.kind}.{reference.group}" if reference.group else reference.kind
        return Fault("InvalidCertificateRef", f"{reference.path}: {kind} is not supported, only Secrets are")
    source = (GROUP, "Gateway", gateway.meta.namespace)
    if reference.namespace != gateway.meta.namespace and not any(each.allows(source, reference) for each in grants):
        return Fault("RefNotPermitted", f"{reference.path}: no ReferenceGrant allows {reference}")
    found = pairs((reference.namespace, reference.name))
    if isinstance(found, str):
        return Fault("InvalidCertificateRef", f"{reference.path}: {reference}: {found}")
    return found
