"""Say what a balancer's health check of one Service shall learn from this node. Answering it is run/health's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from netplane.model import address
from netplane.model.address import Family
from netplane.model.service import EndpointSlice, Service
from netplane_proxy.plan.forwarding import NodeFacts, is_served
from netplane_proxy.plan.select import is_special


class HealthCheck(NamedTuple):
    """A port to answer on, and how many ready endpoints of the Service are on this node: none means "send no one".

    They are counted for each of the Service's families, and told to those who ask by that family, as kube-proxy does:
    a pod of two families is one to any balancer.
    """

    port: int
    local_endpoints: tuple[tuple[Family, int], ...]

    def count(self, family: Family) -> int:
        """Return how many to tell one who asks by a family; by another than the Service's, most of what it has."""
        counts = dict(self.local_endpoints)
        return counts.get(family, max(counts.values(), default=0))


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
        if endpoint.ready
        and endpoint.node_name
        and endpoint.node_name == node.name
        and not is_special(endpoint.addresses[0])
    }
    families = sorted({address.family(ip) for ip in service.cluster_ips})
    counts = tuple((family, sum(address.family(ip) is family for ip in here)) for family in families)
    return HealthCheck(service.health_check_node_port, counts)
