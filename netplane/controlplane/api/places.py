"""Find where a Service's traffic goes, from its EndpointSlices: the server may have no route to Service addresses."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import orjson

from netplane.controlplane.store import protocol
from netplane.kube.types import Object

_SLICES = "endpointslices.discovery.k8s.io"
_OWNER = "kubernetes.io/service-name"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address and a port, and whose they are: the pod (namespace, name) and its node, where that is known."""

    address: str
    port: int
    pod: tuple[str, str] | None = None
    node: str = ""


def of_service(store: protocol.Store, namespace: str, name: str, port: str) -> Endpoint | None:
    """Return one ready endpoint for a Service's port (name or number; "" is its first), None when there is none."""
    record = store.cache("services").records.get((namespace, name))
    if record is None:
        return None
    service: Object = orjson.loads(record.value)
    if service["spec"].get("type") == "ExternalName":
        return Endpoint(str(service["spec"]["externalName"]), int(port)) if port.isdigit() else None
    ports = service["spec"].get("ports") or ()
    wanted = next((p for p in ports if not port or p.get("name") == port or str(p["port"]) == port), None)
    return _of_slices(store, namespace, name, wanted.get("name", "")) if wanted is not None else None


def _of_slices(store: protocol.Store, namespace: str, name: str, port_name: str) -> Endpoint | None:
    found: list[Endpoint] = []
    for record in store.cache(_SLICES).range(namespace=namespace):
        if record.index.labels.get(_OWNER) != name:
            continue
        each: Object = orjson.loads(record.value)
        number = next((p["port"] for p in each.get("ports") or () if p.get("name", "") == port_name), None)
        if number:
            ready = (e for e in each.get("endpoints") or () if (e.get("conditions") or {}).get("ready", True))
            found += [_endpoint(endpoint, int(number)) for endpoint in ready]
    return secrets.choice(found) if found else None


def _endpoint(endpoint: Object, port: int) -> Endpoint:
    reference = endpoint.get("targetRef") or {}
    pod = (reference.get("namespace", ""), reference.get("name", "")) if reference.get("kind") == "Pod" else None
    return Endpoint(str(endpoint["addresses"][0]), port, pod, endpoint.get("nodeName") or "")
