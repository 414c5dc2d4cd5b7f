"""What a Service and its EndpointSlices say, as facts. What becomes of a packet is the proxy's to decide."""

from __future__ import annotations

import enum
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

from netplane.model import address

Key = tuple[str, str]
"""(namespace, name)."""

ServiceType = Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]


class Protocol(enum.IntEnum):
    """A transport protocol, by its IP protocol number."""

    TCP = 6
    UDP = 17
    SCTP = 132

    __hash__ = int.__hash__  # Enum's own is Python, and keys of what changes are hashed again and again.

    def __str__(self) -> str:
        """Name it as nftables and people do: `tcp`."""
        return self.name.lower()


class ServicePort(NamedTuple):
    """One port of a Service. `node_port` is 0 when it has none; `target_port` is a number, or the name of a pod's."""

    name: str
    protocol: Protocol
    port: int
    target_port: int | str = 0
    node_port: int = 0
    app_protocol: str = ""


class Service(NamedTuple):
    """A Service's wishes and what it was given.

    `cluster_ips` is empty when it is headless, has none yet, or is an ExternalName. `load_balancer_vips` are the
    addresses of its status that the nodes shall answer for (ipMode VIP); those in Proxy mode are left to the balancer.
    `affinity_seconds` is 0 without session affinity. `proxy_name` is not None when another proxy shall serve it
    (label service.kubernetes.io/service-proxy-name, whose mere presence counts).
    """

    namespace: str
    name: str
    uid: str = ""
    type: ServiceType = "ClusterIP"
    cluster_ips: tuple[address.Packed, ...] = ()
    is_headless: bool = False
    ports: tuple[ServicePort, ...] = ()
    external_ips: tuple[address.Packed, ...] = ()
    load_balancer_vips: tuple[address.Packed, ...] = ()
    source_ranges: tuple[address.Prefix, ...] = ()
    affinity_seconds: int = 0
    internal_local: bool = False
    external_local: bool = False
    health_check_node_port: int = 0
    publish_not_ready: bool = False
    traffic_distribution: str = ""
    proxy_name: str | None = None
    external_name: str = ""
    revision: str = ""

    @property
    def key(self) -> Key:
        """(namespace, name)."""
        return self.namespace, self.name


class Endpoint(NamedTuple):
    """One place that may answer. A NamedTuple, for a cluster has tens of thousands and each change makes some anew.

    Its addresses are alternatives for the same place; only the first is used (KEP-752).
    `ready` already holds for a terminating endpoint when the Service publishes those that are not ready.
    """

    addresses: tuple[address.Packed, ...]
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node_name: str = ""
    zone: str = ""
    zone_hints: frozenset[str] = frozenset()
    node_hints: frozenset[str] = frozenset()
    hostname: str = ""
    pod: Key | None = None


endpoint: Callable[[tuple[Any, ...]], Endpoint] = partial(tuple.__new__, Endpoint)
"""Make an Endpoint of all its fields in order, in half the time: a cold start makes tens of thousands."""


class EndpointPort(NamedTuple):
    """A port of all endpoints of one slice; `name` joins it with the ServicePort."""

    name: str
    protocol: Protocol
    port: int
    app_protocol: str = ""


class EndpointSlice(NamedTuple):
    """Some of a Service's endpoints, in one family. `service` is "" when no Service owns it.

    `family` is None for slices of address type FQDN. `triggered` is the time of the change that made it so
    (annotation endpoints.kubernetes.io/last-change-trigger-time), "" when unknown.
    """

    namespace: str
    name: str
    service: str = ""
    family: address.Family | None = address.Family.V4
    ports: tuple[EndpointPort, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    proxy_name: str | None = None
    is_headless: bool = False
    triggered: str = ""
    revision: str = ""

    @property
    def service_key(self) -> Key:
        """(namespace, name) of the Service whose endpoints these are."""
        return self.namespace, self.service
