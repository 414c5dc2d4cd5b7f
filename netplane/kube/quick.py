"""Read Services and EndpointSlices from JSON to facts without a dict of all their fields in between.

Only what is common and well is read here: whatever else a reader leaves to `decode`, which knows every field and names
the one at fault. What a reader does make is what `decode` would have made, but for what tells nothing of where packets
go: an endpoint's pod and host name are left out, and not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from sys import intern
from typing import Annotated, Any, Final, Generic, Literal, NamedTuple, TypeVar

import msgspec
import orjson

from netplane.kube import decode, watch
from netplane.kube.types import EventType, Key, Object
from netplane.kube.watch import Read
from netplane.model import address
from netplane.model import service as facts
from netplane.model.address import Family
from netplane.model.service import EndpointSlice, Protocol, Service

T = TypeVar("T")
_NO_HINTS: frozenset[str] = frozenset()
_PROTOCOLS = {None: Protocol.TCP, "TCP": Protocol.TCP, "UDP": Protocol.UDP, "SCTP": Protocol.SCTP}
_FAMILIES = {"IPv4": Family.V4, "IPv6": Family.V6}

_Number = Annotated[int, msgspec.Meta(ge=0, le=65535)]
_Protocol = Literal["TCP", "UDP", "SCTP"] | None


class _Json(msgspec.Struct, rename="camel", gc=False):
    """What of an object is looked at; other fields are passed over."""


class _Metadata(_Json):
    name: str
    resource_version: str = ""
    namespace: str = ""
    uid: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class _ServicePort(_Json):
    port: _Number
    name: str | None = None
    protocol: _Protocol = None
    target_port: int | str | None = None
    node_port: _Number | None = None
    app_protocol: str | None = None


class _ServiceSpec(_Json):
    type: Literal["ClusterIP", "NodePort"] | None = None
    cluster_ip: str | None = msgspec.field(name="clusterIP", default=None)
    cluster_ips: list[str] | None = msgspec.field(name="clusterIPs", default=None)
    ports: list[_ServicePort] | None = None
    session_affinity: Literal["None", ""] | None = None
    internal_traffic_policy: str | None = None
    external_traffic_policy: str | None = None
    publish_not_ready_addresses: bool | None = None
    traffic_distribution: str | None = None
    external_name: str | None = None
    external_ips: list[msgspec.Raw] | None = msgspec.field(name="externalIPs", default=None)
    load_balancer_source_ranges: list[msgspec.Raw] | None = None


class _Balancer(_Json):
    ingress: list[msgspec.Raw] | None = None


class _ServiceStatus(_Json):
    load_balancer: _Balancer | None = None


class _Service(_Json):
    metadata: _Metadata
    spec: _ServiceSpec
    status: _ServiceStatus | None = None


class _Conditions(_Json):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class _Named(_Json):
    name: str


class _Hints(_Json):
    for_zones: list[_Named] | None = None
    for_nodes: list[_Named] | None = None


class _Endpoint(_Json):
    addresses: list[str] | None = None
    conditions: _Conditions | None = None
    node_name: str | None = None
    zone: str | None = None
    hints: _Hints | None = None


class _EndpointPort(_Json):
    name: str | None = None
    protocol: _Protocol = None
    port: _Number | None = None
    app_protocol: str | None = None


class _Slice(_Json):
    metadata: _Metadata
    address_type: str = ""
    ports: list[_EndpointPort] | None = None
    endpoints: list[_Endpoint] | None = None


class _Event(msgspec.Struct, Generic[T], gc=False):
    type: EventType
    object: T


class _ListMetadata(_Json):
    resource_version: str = ""
    token: str = msgspec.field(name="continue", default="")


class _List(_Json):
    metadata: _ListMetadata
    items: list[msgspec.Raw] | None = None


class _Unusual(ValueError):
    """For `decode` to judge."""


class Reader:
    """Reads the objects of one resource, alone or in the events of a watch. None: not by this reader."""

    def __init__(self, kind: Any, fact: Callable[[Any], Service | EndpointSlice]) -> None:
        """`kind` is the structure of its JSON, `fact` what to make of it."""
        self._fact = fact
        self._objects: Final = msgspec.json.Decoder(kind)
        self._events: Final = msgspec.json.Decoder(_Event[kind])

    def item(self, data: bytes | memoryview) -> Read | None:
        """Read one object."""
        try:
            return self._read(self._objects.decode(data))
        except _LEFT:
            return None

    def event(self, data: bytes) -> tuple[EventType, Read] | None:
        """Read one event of a watch. Bookmarks and errors are no objects of the resource, so nothing for it."""
        try:
            event = self._events.decode(data)
            return None if event.type == "BOOKMARK" else (event.type, self._read(event.object))
        except _LEFT:
            return None

    def _read(self, found: Any) -> Read:
        metadata = found.metadata
        if not metadata.name:
            raise _Unusual
        metadata.namespace = intern(metadata.namespace)
        return _read(((metadata.namespace, metadata.name), metadata.resource_version, self._fact(found)))


class Page(NamedTuple):
    """A page of a list: what a reader made of its items, and those that it left."""

    items: list[Object]
    read: Sequence[Read]
    resource_version: str
    token: str
    """What to ask for the next page with."""


def page(data: bytes, reader: watch.Reader) -> Page | None:
    """Read a page of a list; None when it is none."""
    read: list[Read] = []
    left: list[Object] = []
    try:
        whole = _LISTS.decode(data)
        for item in whole.items or ():
            found = reader.item(memoryview(item))
            if found is None:
                left.append(orjson.loads(memoryview(item)))
            else:
                read.append(found)
    except _LEFT:
        return None
    return Page(left, read, whole.metadata.resource_version, whole.metadata.token)


_LEFT = (msgspec.MsgspecError, ValueError)
_LISTS: Final = msgspec.json.Decoder(_List)
_made = tuple.__new__
_slice: Callable[[tuple[Any, ...]], EndpointSlice] = partial(tuple.__new__, EndpointSlice)


def _read(parts: tuple[Key, str, Any]) -> Read:
    return _made(Read, parts)


def _service(found: _Service) -> Service:
    metadata, spec, status = found.metadata, found.spec, found.status
    if spec.external_ips or spec.load_balancer_source_ranges:
        raise _Unusual
    if status is not None and status.load_balancer is not None and status.load_balancer.ingress:
        raise _Unusual
    labels = metadata.labels or {}
    ips = spec.cluster_ips or ([spec.cluster_ip] if spec.cluster_ip else [])
    return Service(
        namespace=metadata.namespace,
        name=metadata.name,
        uid=metadata.uid,
        type=spec.type or "ClusterIP",
        cluster_ips=tuple([address.parse(ip) for ip in ips if ip and ip != "None"]),
        is_headless="None" in ips or decode.HEADLESS_LABEL in labels,
        ports=tuple([_service_port(port) for port in spec.ports or ()]),
        internal_local=spec.internal_traffic_policy == "Local",
        external_local=spec.type == "NodePort" and spec.external_traffic_policy == "Local",
        publish_not_ready=bool(spec.publish_not_ready_addresses),
        traffic_distribution=spec.traffic_distribution or "",
        proxy_name=labels.get(decode.PROXY_NAME_LABEL),
        external_name=spec.external_name or "",
        revision=metadata.resource_version,
    )


def _service_port(port: _ServicePort) -> facts.ServicePort:
    return facts.ServicePort(
        intern(port.name or ""),
        _PROTOCOLS[port.protocol],
        port.port,
        port.target_port or 0,
        port.node_port or 0,
        port.app_protocol or "",
    )


def _endpoint_slice(found: _Slice) -> EndpointSlice:
    metadata = found.metadata
    labels, family = metadata.labels or {}, _FAMILIES.get(found.address_type)
    return _slice(
        (
            metadata.namespace,
            metadata.name,
            labels.get(decode.SERVICE_NAME_LABEL, ""),
            family,
            # Without a number a port means all ports, which no proxy serves.
            tuple([_endpoint_port(port) for port in found.ports or () if port.port]),
            () if family is None else tuple(_endpoints(found.endpoints or (), family.bits // 8)),
            labels.get(decode.PROXY_NAME_LABEL),
            decode.HEADLESS_LABEL in labels,
            metadata.annotations.get(decode.TRIGGER_ANNOTATION, "") if metadata.annotations else "",
            metadata.resource_version,
        )
    )


def _endpoint_port(port: _EndpointPort) -> facts.EndpointPort:
    name, app = port.name, port.app_protocol
    return facts.EndpointPort(intern(name) if name else "", _PROTOCOLS[port.protocol], port.port or 0, app or "")


def _endpoints(rows: list[_Endpoint] | tuple[()], width: int) -> list[facts.Endpoint]:
    """Make the endpoints; those without an address or of another family are left out, as kube-proxy does."""
    parse, made, found = address.parse, facts.endpoint, []
    for row in rows:
        addresses = row.addresses
        if not addresses:
            continue
        packed = (parse(addresses[0]),) if len(addresses) == 1 else tuple(map(parse, addresses))
        if len(packed[0]) != width:
            continue
        conditions, hints, node, zone = row.conditions, row.hints, row.node_name, row.zone
        ready, serving, terminating = True, True, False
        if conditions is not None:
            ready, serving = conditions.ready is not False, conditions.serving is not False
            terminating = conditions.terminating is True
        zones = nodes = _NO_HINTS
        if hints is not None:
            zones, nodes = _names(hints.for_zones), _names(hints.for_nodes)
        # Names of nodes and zones come again and again: one copy of each is enough.
        node, zone = intern(node) if node else "", intern(zone) if zone else ""
        found.append(made((packed, ready, serving, terminating, node, zone, zones, nodes, "", None)))
    return found


def _names(rows: list[_Named] | None) -> frozenset[str]:
    return frozenset([row.name for row in rows]) if rows else _NO_HINTS


SERVICES: Final = Reader(_Service, _service)
"""Services of type ClusterIP and NodePort without external addresses, source ranges or session affinity."""
ENDPOINT_SLICES: Final = Reader(_Slice, _endpoint_slice)
"""EndpointSlices without the names of pods and hosts."""
