"""Choose where requests to a port of a Service go now."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from netplane.model import address
from netplane.model.routing import Server
from netplane.model.service import Endpoint, EndpointSlice, Protocol, Service, ServicePort

_OWN: Final = tuple(
    address.prefix(text)
    for text in (
        "0.0.0.0/32",
        "::/128",
        "127.0.0.0/8",
        "::1/128",
        "169.254.0.0/16",
        "fe80::/10",
        "224.0.0.0/4",
        "ff00::/8",
    )
)
"""No pod's: the door's own machine, its links, and groups. Kubernetes refuses them too (ValidateNonSpecialIP)."""


def port_of(service: Service, wanted: int | str) -> ServicePort | None:
    """Return the TCP port of a Service that has this number or name."""
    for port in service.ports:
        if port.protocol is Protocol.TCP and wanted == (port.port if isinstance(wanted, int) else port.name):
            return port
    return None


def servers(service: Service, port: ServicePort, slices: Iterable[EndpointSlice]) -> tuple[Server, ...]:
    """Return the endpoints that are ready; when none is, those that still serve while they end (KEP-1669).

    Of a Service in both families, one is used, that of its first cluster address, else IPv4 where there is any: the
    other holds the same pods. Whoever may write slices shall not make the door ask its own machine: see `_OWN`.
    """
    found = [
        (endpoint, row.port)
        for piece in _one_family(service, list(slices))
        for row in piece.ports
        if row.name == port.name and row.protocol is Protocol.TCP
        for endpoint in piece.endpoints
        if not address.any_contains(_OWN, endpoint.addresses[0])
    ]
    chosen = [one for one in found if one[0].ready] or [one for one in found if _serves_while_ending(one[0])]
    return tuple(
        sorted({_server(endpoint, number) for endpoint, number in chosen}, key=lambda one: (one.address, one.port))
    )


def _one_family(service: Service, slices: Sequence[EndpointSlice]) -> list[EndpointSlice]:
    families = {piece.family for piece in slices if piece.family and piece.endpoints}
    if len(families) < 2:
        return list(slices)
    first = address.family(service.cluster_ips[0]) if service.cluster_ips else address.Family.V4
    return [piece for piece in slices if piece.family is first]


def _serves_while_ending(endpoint: Endpoint) -> bool:
    return endpoint.serving and endpoint.terminating


def _server(endpoint: Endpoint, port: int) -> Server:
    return Server(address.text(endpoint.addresses[0]), port, endpoint.pod[1] if endpoint.pod else "")
