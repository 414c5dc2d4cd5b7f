"""Say what a balancer's health check of one Service shall learn from this node. Answering it is run/health's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from netplane.model.service import EndpointSlice, Service
from netplane_proxy.plan.forwarding import NodeFacts, is_served


class HealthCheck(NamedTuple):
    """A port to answer on, and how many ready endpoints of the Service are on this node: none means "send no one"."""

    port: int
    local_endpoints: int


def of_service(service: Service | None, slices: Iterable[EndpointSlice], node: NodeFacts) -> HealthCheck | None:
    """Return the check of a LoadBalancer Service with externalTrafficPolicy Local; None for all others.

    A terminating endpoint does not count though it may still serve: the balancer shall turn away before it is gone
    (KEP-1669). An endpoint counts once, however many ports and slices name it.
    """
    if service is None or not service.health_check_node_port or not is_served(service):
        return None
    names = {(port.name, port.protocol) for port in service.ports}
    here = {
        endpoint.addresses[0]
        for piece in slices
        if piece.proxy_name is None and any((port.name, port.protocol) in names for port in piece.ports)
        for endpoint in piece.endpoints
        if endpoint.ready and endpoint.node_name and endpoint.node_name == node.name
    }
    return HealthCheck(service.health_check_node_port, len(here))
