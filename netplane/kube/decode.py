"""Turn Kubernetes JSON into the facts of `model`, once, at the border. What the facts lead to is decided elsewhere.

Every function takes an object as an API server sends it and returns a frozen fact, or raises DecodeError with the path
of the field at fault. Fields we do not use are not looked at: a newer server may add what it likes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from sys import intern
from typing import Any, TypeVar

from netplane.kube.types import Object
from netplane.model import address
from netplane.model import service as facts
from netplane.model.node import Node, NodeAddress, Taint
from netplane.model.pod import ContainerPort, Pod
from netplane.model.service import Endpoint, EndpointPort, EndpointSlice, Protocol, Service, ServicePort, ServiceType

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
HEADLESS_LABEL = "service.kubernetes.io/headless"
TRIGGER_ANNOTATION = "endpoints.kubernetes.io/last-change-trigger-time"
DEFAULT_AFFINITY_SECONDS = 10800

T = TypeVar("T")
_PROTOCOLS = {"TCP": Protocol.TCP, "UDP": Protocol.UDP, "SCTP": Protocol.SCTP}
_SERVICE_TYPES: dict[str, ServiceType] = {
    "ClusterIP": "ClusterIP",
    "NodePort": "NodePort",
    "LoadBalancer": "LoadBalancer",
    "ExternalName": "ExternalName",
}
_FAMILIES = {"IPv4": address.Family.V4, "IPv6": address.Family.V6}
_NO_HINTS: frozenset[str] = frozenset()
_NOTHING: Mapping[str, Any] = {}


class DecodeError(ValueError):
    """An object is not what its type promises: `spec.ports[1].port: 70000 > 65535`."""


def service(obj: Object) -> Service:
    """Decode a v1 Service."""
    try:
        return _service(obj)
    except _WRONG as error:
        raise _named("Service", obj, error) from error


def endpoint_slice(obj: Object) -> EndpointSlice:
    """Decode a discovery.k8s.io/v1 EndpointSlice."""
    try:
        return _endpoint_slice(obj)
    except _WRONG as error:
        raise _named("EndpointSlice", obj, error) from error


def node(obj: Object) -> Node:
    """Decode a v1 Node."""
    try:
        return _node(obj)
    except _WRONG as error:
        raise _named("Node", obj, error) from error


def pod(obj: Object) -> Pod:
    """Decode a v1 Pod."""
    try:
        return _pod(obj)
    except _WRONG as error:
        raise _named("Pod", obj, error) from error


_WRONG = (ValueError, TypeError, KeyError, AttributeError, IndexError)


def _named(kind: str, obj: Object, error: Exception) -> DecodeError:
    """Add kind and name to a DecodeError, and make one of what a wrong JSON type raises."""
    what = str(error) if isinstance(error, DecodeError) else f"has a field of the wrong type ({error!r})"
    return DecodeError(f"{kind} {_name(obj)}: {what}")


def _service(obj: Object) -> Service:
    metadata, spec = _metadata(obj), _map(obj, "spec")
    labels = _map(metadata, "labels", "metadata.")
    kind = _SERVICE_TYPES.get(spec.get("type") or "ClusterIP")
    if kind is None:
        raise DecodeError(f"spec.type: {spec['type']!r} is none of {', '.join(_SERVICE_TYPES)}")
    cluster_ips = spec.get("clusterIPs") or ([spec["clusterIP"]] if spec.get("clusterIP") else [])
    ports = tuple(_service_port(port, f"spec.ports[{at}]") for at, port in enumerate(spec.get("ports") or ()))
    external_ips = _each(spec.get("externalIPs"), "spec.externalIPs", address.parse)
    is_external = kind in ("NodePort", "LoadBalancer") or (kind == "ClusterIP" and bool(external_ips))
    external_local = is_external and spec.get("externalTrafficPolicy") == "Local"
    return Service(
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        type=kind,
        cluster_ips=_each([ip for ip in cluster_ips if ip and ip != "None"], "spec.clusterIPs", address.parse),
        is_headless="None" in cluster_ips or HEADLESS_LABEL in labels,
        ports=ports,
        external_ips=external_ips,
        load_balancer_vips=_load_balancer_vips(obj),
        source_ranges=_each(spec.get("loadBalancerSourceRanges"), "spec.loadBalancerSourceRanges", address.prefix),
        affinity_seconds=_affinity_seconds(spec),
        internal_local=spec.get("internalTrafficPolicy") == "Local",
        external_local=external_local,
        health_check_node_port=_health_check_port(spec) if kind == "LoadBalancer" and external_local else 0,
        publish_not_ready=bool(spec.get("publishNotReadyAddresses")),
        traffic_distribution=spec.get("trafficDistribution") or "",
        proxy_name=labels.get(PROXY_NAME_LABEL),
        external_name=spec.get("externalName") or "",
        revision=metadata.get("resourceVersion", ""),
    )


def _service_port(port: Mapping[str, Any], path: str) -> ServicePort:
    return ServicePort(
        name=port.get("name") or "",
        protocol=_protocol(port, path),
        port=_port(port.get("port"), f"{path}.port"),
        target_port=port.get("targetPort") or 0,
        node_port=_port(port.get("nodePort") or 0, f"{path}.nodePort"),
        app_protocol=port.get("appProtocol") or "",
    )


def _health_check_port(spec: Mapping[str, Any]) -> int:
    return _port(spec.get("healthCheckNodePort") or 0, "spec.healthCheckNodePort")


def _load_balancer_vips(obj: Object) -> tuple[address.Packed, ...]:
    """Return the addresses; what some load balancer wrote there and is none must not take the Service with it."""
    ingress = _map(_map(obj, "status"), "loadBalancer", "status.").get("ingress") or ()
    vips = []
    for row in ingress:
        if row.get("ip") and (row.get("ipMode") or "VIP") == "VIP":
            with contextlib.suppress(ValueError):
                vips.append(address.parse(row["ip"]))
    return tuple(vips)


def _affinity_seconds(spec: Mapping[str, Any]) -> int:
    if spec.get("sessionAffinity") != "ClientIP":
        return 0
    client_ip = _map(_map(spec, "sessionAffinityConfig", "spec."), "clientIP", "spec.sessionAffinityConfig.")
    return max(1, int(client_ip.get("timeoutSeconds") or DEFAULT_AFFINITY_SECONDS))


def _endpoint_slice(obj: Object) -> EndpointSlice:
    metadata = _metadata(obj)
    labels = metadata.get("labels") or {}
    family = _FAMILIES.get(obj.get("addressType") or "")
    ports = []
    for at, port in enumerate(obj.get("ports") or ()):
        if port.get("port"):  # without a number it means all ports, which no proxy serves
            number = _port(port["port"], f"ports[{at}].port")
            protocol = _protocol(port, f"ports[{at}]")
            ports.append(EndpointPort(port.get("name") or "", protocol, number, port.get("appProtocol") or ""))
    endpoints = [] if family is None else list(_endpoints(obj.get("endpoints") or (), family))
    return EndpointSlice(
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
        service=labels.get(SERVICE_NAME_LABEL, ""),
        family=family,
        ports=tuple(ports),
        endpoints=tuple(endpoints),
        proxy_name=labels.get(PROXY_NAME_LABEL),
        is_headless=HEADLESS_LABEL in labels,
        triggered=(metadata.get("annotations") or {}).get(TRIGGER_ANNOTATION, ""),
        revision=metadata.get("resourceVersion", ""),
    )


def _endpoints(rows: Iterable[Mapping[str, Any]], family: address.Family) -> Iterable[Endpoint]:
    """Decode the rows; those without an address or of another family are left out, as kube-proxy does."""
    parse, width = address.parse, family.bits // 8
    for at, row in enumerate(rows):
        try:
            addresses = tuple([parse(value) for value in row.get("addresses") or ()])
        except ValueError as error:
            raise DecodeError(f"endpoints[{at}].addresses: {error}") from error
        if not addresses or len(addresses[0]) != width:
            continue
        get = row.get
        conditions = get("conditions") or _NOTHING
        hints = get("hints")
        target = get("targetRef")
        yield facts.endpoint(
            (
                addresses,
                conditions.get("ready") is not False,
                conditions.get("serving") is not False,
                conditions.get("terminating") is True,
                # Names of nodes and zones come again and again: one copy of each is enough.
                intern(get("nodeName") or ""),
                intern(get("zone") or ""),
                _hint_names(hints.get("forZones")) if hints else _NO_HINTS,
                _hint_names(hints.get("forNodes")) if hints else _NO_HINTS,
                get("hostname") or "",
                (intern(target.get("namespace", "")), target["name"])
                if target and target.get("kind") == "Pod"
                else None,
            )
        )


def _hint_names(rows: Iterable[Mapping[str, str]] | None) -> frozenset[str]:
    return frozenset([row["name"] for row in rows]) if rows else _NO_HINTS


def _node(obj: Object) -> Node:
    metadata, spec, status = _metadata(obj), _map(obj, "spec"), _map(obj, "status")
    rows = tuple(NodeAddress(row["type"], row["address"]) for row in status.get("addresses") or ())
    cidrs = spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else [])
    conditions = status.get("conditions") or ()
    taints = spec.get("taints") or ()
    return Node(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        addresses=rows,
        internal_ips=_each(
            [row.address for row in rows if row.type == "InternalIP"], "status.addresses", address.parse
        ),
        external_ips=_each(
            [row.address for row in rows if row.type == "ExternalIP"], "status.addresses", address.parse
        ),
        pod_cidrs=_each(cidrs, "spec.podCIDRs", address.prefix),
        labels=metadata.get("labels") or {},
        annotations=metadata.get("annotations") or {},
        taints=tuple(Taint(row["key"], row.get("value") or "", row.get("effect") or "") for row in taints),
        is_ready=any(row.get("type") == "Ready" and row.get("status") == "True" for row in conditions),
        is_unschedulable=bool(spec.get("unschedulable")),
        is_deleting=bool(metadata.get("deletionTimestamp")),
        revision=metadata.get("resourceVersion", ""),
    )


def _pod(obj: Object) -> Pod:
    metadata, spec, status = _metadata(obj), _map(obj, "spec"), _map(obj, "status")
    ips = [row["ip"] for row in status.get("podIPs") or () if row.get("ip")]
    if not ips and status.get("podIP"):
        ips = [status["podIP"]]
    ports = [
        _container_port(port, f"spec.containers[{at}].ports[{index}]")
        for at, container in enumerate(spec.get("containers") or ())
        for index, port in enumerate(container.get("ports") or ())
    ]
    conditions = status.get("conditions") or ()
    return Pod(
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        node_name=spec.get("nodeName") or "",
        ips=_each(ips, "status.podIPs", address.parse),
        labels=metadata.get("labels") or {},
        annotations=metadata.get("annotations") or {},
        ports=tuple(ports),
        phase=status.get("phase") or "Pending",
        host_network=bool(spec.get("hostNetwork")),
        is_ready=any(row.get("type") == "Ready" and row.get("status") == "True" for row in conditions),
        is_deleting=bool(metadata.get("deletionTimestamp")),
        revision=metadata.get("resourceVersion", ""),
    )


def _container_port(port: Mapping[str, Any], path: str) -> ContainerPort:
    return ContainerPort(
        name=port.get("name") or "",
        protocol=_protocol(port, path),
        port=_port(port.get("containerPort"), f"{path}.containerPort"),
        host_port=_port(port.get("hostPort") or 0, f"{path}.hostPort"),
        host_ip=port.get("hostIP") or "",
    )


def _metadata(obj: Object) -> Mapping[str, Any]:
    metadata = _map(obj, "metadata")
    if not metadata.get("name"):
        raise DecodeError("metadata.name: is missing")
    return metadata


def _map(parent: Mapping[str, Any], field: str, path: str = "") -> Mapping[str, Any]:
    value = parent.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DecodeError(f"{path}{field}: {value!r} is not an object")
    return value


def _each(values: Iterable[str] | None, path: str, read: Callable[[str], T]) -> tuple[T, ...]:
    if not values:
        return ()
    found = []
    for at, value in enumerate(values):
        try:
            found.append(read(value))
        except ValueError as error:
            raise DecodeError(f"{path}[{at}]: {error}") from error
    return tuple(found)


def _port(value: object, path: str) -> int:
    if type(value) is not int:
        raise DecodeError(f"{path}: {value!r} is not a number")
    if not 0 <= value <= 65535:
        raise DecodeError(f"{path}: {value} > 65535" if value > 0 else f"{path}: {value} < 0")
    return value


def _protocol(port: Mapping[str, Any], path: str) -> Protocol:
    name = port.get("protocol") or "TCP"
    try:
        return _PROTOCOLS[name]
    except KeyError as error:
        raise DecodeError(f"{path}.protocol: {name!r} is none of TCP, UDP, SCTP") from error


def _name(obj: Object) -> str:
    metadata = obj.get("metadata") if isinstance(obj, dict) else None
    if not isinstance(metadata, dict):
        return "(without metadata)"
    return "/".join(str(part) for part in (metadata.get("namespace"), metadata.get("name", "(without a name)")) if part)
