"""What tables print of Services, Endpoints, EndpointSlices and Ingresses."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from netplane.controlplane.registry.rules import times
from netplane.controlplane.registry.rules.labels import map_text
from netplane.controlplane.registry.types import Column
from netplane.kube.types import Object

_SHOWN = 3
_AGE = Column("Age")
NAME = Column("Name", format="name")

SERVICE = (
    NAME,
    Column("Type"),
    Column("Cluster-IP"),
    Column("External-IP"),
    Column("Port(s)"),
    _AGE,
    Column("Selector", priority=1),
)
ENDPOINTS = (NAME, Column("Endpoints"), _AGE)
ENDPOINT_SLICE = (NAME, Column("AddressType"), Column("Ports"), Column("Endpoints"), _AGE)
INGRESS = (NAME, Column("Class"), Column("Hosts"), Column("Address"), Column("Ports"), _AGE)


def service(obj: Object, now: datetime) -> list[Any]:
    """One row of services."""
    spec, metadata = obj.get("spec") or {}, obj["metadata"]
    return [
        metadata["name"],
        spec.get("type", ""),
        spec.get("clusterIP") or "<none>",
        _external(spec, obj.get("status") or {}),
        ",".join(_port(each) for each in spec.get("ports") or ()) or "<none>",
        times.age(metadata.get("creationTimestamp"), now),
        map_text(spec.get("selector")),
    ]


def _port(port: Object) -> str:
    node_port = f":{port.get('nodePort', '')}" if port.get("nodePort") else ""
    return f"{port.get('port', '')}{node_port}/{port.get('protocol', 'TCP')}"


def _external(spec: Object, status: Object) -> str:
    external = list(spec.get("externalIPs") or ())
    kind = spec.get("type")
    if kind in ("ClusterIP", "NodePort"):
        return ",".join(external) or "<none>"
    if kind == "LoadBalancer":
        return ",".join([*_points(status), *external]) or "<pending>"
    return str(spec.get("externalName", "")) if kind == "ExternalName" else "<unknown>"


def _points(status: Object) -> list[str]:
    ingress = (status.get("loadBalancer") or {}).get("ingress") or ()
    return sorted({each.get("ip") or each.get("hostname") or "" for each in ingress} - {""})


def endpoints(obj: Object, now: datetime) -> list[Any]:
    """One row of endpoints: the first three addresses with their ports."""
    metadata = obj["metadata"]
    found: list[str] = []
    for subset in obj.get("subsets") or ():
        addresses = subset.get("addresses") or ()
        if not subset.get("ports"):
            found += [each.get("ip", "") for each in addresses]
        for port in subset.get("ports") or ():
            found += [_joined(each.get("ip", ""), port.get("port", "")) for each in addresses]
    return [metadata["name"], _first(found) or "<none>", times.age(metadata.get("creationTimestamp"), now)]


def _joined(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _first(texts: list[str]) -> str:
    if len(texts) <= _SHOWN:
        return ",".join(texts)
    return f"{','.join(texts[:_SHOWN])} + {len(texts) - _SHOWN} more..."


def endpoint_slice(obj: Object, now: datetime) -> list[Any]:
    """One row of endpoint slices."""
    metadata = obj["metadata"]
    ports = obj.get("ports")
    shown = [str(each.get("port", "*")) for each in ports or ()]
    addresses = [address for each in obj.get("endpoints") or () for address in each.get("addresses") or ()]
    return [
        metadata["name"],
        obj.get("addressType", ""),
        (_first(shown) if ports is not None else "*") or "<unset>",
        _first(addresses) or "<unset>",
        times.age(metadata.get("creationTimestamp"), now),
    ]


def ingress(obj: Object, now: datetime) -> list[Any]:
    """One row of ingresses."""
    spec, metadata = obj.get("spec") or {}, obj["metadata"]
    rules = spec.get("rules") or []
    hosts = [each.get("host", "") for each in rules[:_SHOWN] if each.get("host")]
    text = ",".join(hosts) or "*"
    if hosts and len(rules) > _SHOWN:
        text += f" + {len(rules) - _SHOWN} more..."
    annotation = (metadata.get("annotations") or {}).get("kubernetes.io/ingress.class")
    return [
        metadata["name"],
        spec.get("ingressClassName") or annotation or "<none>",
        text,
        ",".join(_points(obj.get("status") or {})),
        "80, 443" if spec.get("tls") else "80",
        times.age(metadata.get("creationTimestamp"), now),
    ]
