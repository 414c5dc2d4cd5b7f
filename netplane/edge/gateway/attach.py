"""Decide which routes are attached to which listeners, and with which hosts; and why others are not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from netplane.edge.gateway import hostnames
from netplane.edge.gateway.facts import GATEWAYS, GROUP, Fault, Gateway, HttpRoute, Parent
from netplane.edge.gateway.listeners import HTTP_ROUTE, Judged
from netplane.kube import select
from netplane.kube.types import Key

Labels = Mapping[str, Mapping[str, str]]
"""The labels of each namespace."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """One parent of a route that is a Gateway of ours: the listeners it is attached to, or why to none."""

    parent: Parent
    listeners: tuple[tuple[Judged, tuple[str, ...]], ...] = ()
    fault: Fault | None = None


def attach(route: HttpRoute, by_gateway: Mapping[Key, Sequence[Judged]], labels: Labels) -> list[Attachment]:
    """Attach a route to its parents. Parents that are not there, or not Gateways of ours, are left to others."""
    found = []
    for parent in route.parents:
        reference = parent.reference
        is_gateway = (reference.group, reference.kind) == (GROUP, GATEWAYS.kind)
        listeners = by_gateway.get((reference.namespace, reference.name)) if is_gateway else None
        if listeners is not None:
            found.append(_attached(route, parent, listeners, labels))
    return found


def _attached(route: HttpRoute, parent: Parent, listeners: Iterable[Judged], labels: Labels) -> Attachment:
    named = [
        each
        for each in listeners
        if parent.section in ("", each.listener.name) and parent.port in (0, each.listener.port)
    ]
    if not named:
        wanted = f"{parent.section or 'any name'}, port {parent.port or 'any'}"
        return Attachment(parent, fault=Fault("NoMatchingParent", f"the Gateway has no such listener: {wanted}"))
    allowing = [each for each in named if _allows(each, route, labels)]
    if not allowing:
        message = f"no listener allows an HTTPRoute of namespace {route.meta.namespace}"
        return Attachment(parent, fault=Fault("NotAllowedByListeners", message))
    fitting = [(each, hostnames.attached(each.listener.hostname, route.hostnames)) for each in allowing]
    kept = tuple((each, hosts) for each, hosts in fitting if hosts)
    if not kept:
        message = f"no listener's hostname fits {', '.join(route.hostnames)}"
        return Attachment(parent, fault=Fault("NoMatchingListenerHostname", message))
    return Attachment(parent, kept)


def _allows(judged: Judged, route: HttpRoute, labels: Labels) -> bool:
    listener = judged.listener
    # Kinds that are not supported are the listener's fault; a listener without any good kind takes no routes.
    if HTTP_ROUTE not in judged.kinds:
        return False
    if listener.from_namespaces == "All":
        return True
    if listener.from_namespaces == "Selector":
        return _selects(listener.selector, labels.get(route.meta.namespace))
    return listener.from_namespaces == "Same" and route.meta.namespace == judged.gateway.meta.namespace


def _selects(selector: Mapping[str, object] | None, labels: Mapping[str, str] | None) -> bool:
    """Judge a namespace by its labels; a selector that is wrong or missing selects none."""
    if selector is None or labels is None:
        return False
    try:
        return select.matches(select.from_object(selector), labels)
    except select.SelectorError:
        return False


def by_gateway(gateways: Iterable[Gateway], judged: Iterable[Judged]) -> dict[Key, list[Judged]]:
    """Group listeners by their Gateway."""
    found: dict[Key, list[Judged]] = {gateway.meta.key: [] for gateway in gateways}
    for each in judged:
        found[each.gateway.meta.key].append(each)
    return found
