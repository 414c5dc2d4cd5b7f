"""Find where a Service's traffic goes, from its EndpointSlices: the server may have no route to Service addresses."""

from __future__ import annotations

import secrets

import orjson

from netplane.controlplane.store import protocol
from netplane.kube.types import Object

_SLICES = "endpointslices.discovery.k8s.io"
_OWNER = "kubernetes.io/service-name"


def of_service(store: protocol.Store, namespace: str, name: str, port: str) -> tuple[str, int] | None:
    """Return one ready endpoint's address and port for a Service's port (name or number; "" is its first)."""
    record = store.cache("services").records.get((namespace, name))
    if record is None:
        return None
    service: Object = orjson.loads(record.value)
    if service["spec"].get("type") == "ExternalName":
        return (str(service["spec"]["externalName"]), int(port)) if port.isdigit() else None
    ports = service["spec"].get("ports") or ()
    wanted = next((p for p in ports if not port or p.get("name") == port or str(p["port"]) == port), None)
    return _of_slices(store, namespace, name, wanted.get("name", "")) if wanted is not None else None


def _of_slices(store: protocol.Store, namespace: str, name: str, port_name: str) -> tuple[str, int] | None:
    found: list[tuple[str, int]] = []
    for record in store.cache(_SLICES).range(namespace=namespace):
        if record.index.labels.get(_OWNER) != name:
            continue
        each: Object = orjson.loads(record.value)
        number = next((p["port"] for p in each.get("ports") or () if p.get("name", "") == port_name), None)
        if number:
            ready = (e for e in each.get("endpoints") or () if (e.get("conditions") or {}).get("ready", True))
            found += [(str(endpoint["addresses"][0]), int(number)) for endpoint in ready]
    return secrets.choice(found) if found else None
