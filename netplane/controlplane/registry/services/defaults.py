"""Fill in what Services, Endpoints and EndpointSlices leave unsaid. Addresses and node ports are `allocate`'s."""

from __future__ import annotations

from netplane.kube.types import Object

_AFFINITY_SECONDS = 10800


def service(obj: Object) -> None:
    """Fill in a Service."""
    spec = obj.setdefault("spec", {})
    spec["sessionAffinity"] = spec.get("sessionAffinity") or "None"
    if spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)
    elif spec["sessionAffinity"] == "ClientIP":
        spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {}).setdefault(
            "timeoutSeconds", _AFFINITY_SECONDS
        )
    kind = spec["type"] = spec.get("type") or "ClusterIP"
    for port in spec.get("ports", ()):
        port["protocol"] = port.get("protocol") or "TCP"
        if port.get("targetPort") in (None, 0, "") and "port" in port:
            port["targetPort"] = port["port"]
    if is_external(spec):
        spec["externalTrafficPolicy"] = spec.get("externalTrafficPolicy") or "Cluster"
    if kind in ("ClusterIP", "NodePort", "LoadBalancer"):
        spec["internalTrafficPolicy"] = spec.get("internalTrafficPolicy") or "Cluster"
    if kind == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
    _sync_addresses(spec)


def is_external(spec: Object) -> bool:
    """True when the service may be reached from outside: by node port, load balancer or an external address."""
    return spec.get("type") in ("NodePort", "LoadBalancer") or bool(
        spec.get("type") == "ClusterIP" and spec.get("externalIPs")
    )


def _sync_addresses(spec: Object) -> None:
    """`clusterIP` is always the first of `clusterIPs`; a client may give either."""
    if spec.get("clusterIP") and not spec.get("clusterIPs"):
        spec["clusterIPs"] = [spec["clusterIP"]]


def endpoints(obj: Object) -> None:
    """Fill in Endpoints."""
    for subset in obj.get("subsets", ()):
        for port in subset.get("ports", ()):
            port["protocol"] = port.get("protocol") or "TCP"


def endpoint_slice(obj: Object) -> None:
    """Fill in an EndpointSlice."""
    obj.setdefault("endpoints", [])
    for port in obj.get("ports") or ():
        port.setdefault("name", "")
        port.setdefault("protocol", "TCP")
