"""Keep what the cluster says in the form that planning needs, and know what a change makes necessary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from netplane.edge.ingress.plan import endpoints
from netplane.edge.ingress.plan.view import View
from netplane.kube import decode
from netplane.kube.informer import Batch, Informers, Query
from netplane.kube.types import ENDPOINTSLICES, INGRESSCLASSES, INGRESSES, SECRETS, SERVICES, Key, Object
from netplane.model.routing import Route, Routing, Server, ServicePort
from netplane.model.service import EndpointSlice, Service

QUERIES = (
    Query(INGRESSES),
    Query(INGRESSCLASSES),
    Query(SECRETS, field_selector="type!=kubernetes.io/service-account-token"),
    Query(SERVICES, transform=decode.service),
    Query(ENDPOINTSLICES, transform=decode.endpoint_slice),
)


class Facts:
    """The cluster's objects, and which of them changed since they were last taken."""

    def __init__(self, informers: Informers) -> None:
        self._informers = informers
        self._slices: dict[Key, dict[Key, EndpointSlice]] = {}
        self._moved: set[Key] = set()
        self.must_read = True
        """Whether routes may have changed, and not only endpoints."""

    def take(self, batch: Batch) -> None:
        """Note what a batch changed."""
        for change in batch.changes:
            if change.resource == ENDPOINTSLICES:
                self._take_slice(change.key, change.old, change.new)
            elif change.resource == SERVICES:
                self.must_read |= _is_other_service(change.old, change.new)
                self._moved.add(change.key)
            elif change.resource != INGRESSES or _is_other_ingress(change.old, change.new):
                self.must_read = True

    def view(self) -> View:
        """Return the objects that Ingresses are read with."""
        store = self._informers.store
        return View(store(INGRESSES), store(INGRESSCLASSES), store(SERVICES), store(SECRETS))

    @property
    def services(self) -> Mapping[Key, Service]:
        """The Services."""
        return self._informers.store(SERVICES)

    @property
    def secrets(self) -> Mapping[Key, Any]:
        """The Secrets, as they came."""
        return self._informers.store(SECRETS)

    def servers(self, ports: Iterable[ServicePort]) -> dict[ServicePort, tuple[Server, ...]]:
        """Return where each of these is answered now."""
        return {port: self._servers(port) for port in ports}

    def moved(self, ports: Iterable[ServicePort]) -> dict[ServicePort, tuple[Server, ...]]:
        """Return where those of these are answered now whose Services or endpoints changed since the last call."""
        moved, self._moved = self._moved, set()
        return {port: self._servers(port) for port in ports if (port.namespace, port.name) in moved} if moved else {}

    def _take_slice(self, key: Key, old: EndpointSlice | None, new: EndpointSlice | None) -> None:
        for piece in (old, new):
            if piece is not None and piece.service:
                self._slices.setdefault(piece.service_key, {}).pop(key, None)
                self._moved.add(piece.service_key)
        if new is not None and new.service:
            self._slices[new.service_key][key] = new

    def _servers(self, port: ServicePort) -> tuple[Server, ...]:
        service = self.services.get((port.namespace, port.name))
        named = endpoints.port_of(service, port.port) if service else None
        if service is None or named is None:
            return ()
        pieces = self._slices.get(service.key, {})
        return endpoints.servers(service, named, [pieces[key] for key in sorted(pieces)])


def ports_of(routing: Routing) -> set[ServicePort]:
    """Return every port of a Service that a routing names."""
    found = {one.service for one in routing.passthroughs}
    for route in routing.routes:
        found.update(_ports(route))
    return found


def _ports(route: Route) -> list[ServicePort]:
    found = [one.service for one in route.backends if one.service]
    found += [one.service for one in route.mirrors]
    return [*found, route.policy.external_auth.service] if route.policy.external_auth else found


def _is_other_ingress(old: Object | None, new: Object | None) -> bool:
    """Tell whether more than the status differs, which we write ourselves."""
    if old is None or new is None:
        return True
    annotations = [obj["metadata"].get("annotations") for obj in (old, new)]
    return old.get("spec") != new.get("spec") or annotations[0] != annotations[1]


def _is_other_service(old: Service | None, new: Service | None) -> bool:
    """Tell whether routes may read differently: they depend on type and ports."""
    if old is None or new is None:
        return True
    return (old.type, old.ports) != (new.type, new.ports)
