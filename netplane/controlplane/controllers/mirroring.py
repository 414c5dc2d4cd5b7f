"""Mirror Endpoints that somebody wrote by hand, for a Service without a selector, into EndpointSlices."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from netplane.controlplane.controllers import backends, slices, writes
from netplane.controlplane.controllers.view import View
from netplane.kube import meta
from netplane.kube.types import ENDPOINTS, ENDPOINTSLICES, SERVICES, Key, Object, key_of

MANAGER = "endpointslicemirroring-controller.k8s.io"
SKIP = "endpointslice.kubernetes.io/skip-mirror"


def decide(view: View, key: Key, now: datetime) -> Sequence[writes.Write]:
    """Return the writes that make the mirrored slices say what the Endpoints say."""
    service, endpoints = view.get(SERVICES, key), view.get(ENDPOINTS, key)
    if service is None or meta.is_deleting(service):
        return ()
    if endpoints is None or backends.has_selector(service) or meta.labels(endpoints).get(SKIP) == "true":
        mirrored = slices.mine(view, service, MANAGER)
        return [writes.Delete(ENDPOINTSLICES, key_of(found), found["metadata"]["uid"]) for found in mirrored]
    kept = {name: value for name, value in meta.labels(endpoints).items() if name != backends.HEADLESS}
    origin = slices.Origin(service, MANAGER, kept, "")
    return slices.pack(view, origin, _wanted(endpoints))


def _wanted(endpoints: Object) -> dict[slices.Group, list[Object]]:
    wanted: dict[slices.Group, list[Object]] = {}
    for subset in endpoints.get("subsets") or ():
        ports = tuple(
            (port.get("name") or "", port.get("port"), port.get("protocol") or "TCP", port.get("appProtocol") or "")
            for port in subset.get("ports") or ()
        )
        for field, ready in (("addresses", True), ("notReadyAddresses", False)):
            for address in subset.get(field) or ():
                group = (backends.family_of(address["ip"]), ports)
                wanted.setdefault(group, []).append(_endpoint(address, is_ready=ready))
    return wanted


def _endpoint(address: Object, *, is_ready: bool) -> Object:
    endpoint: Object = {"addresses": [address["ip"]], "conditions": {"ready": is_ready}}
    for field in ("nodeName", "hostname", "targetRef"):
        if address.get(field):
            endpoint[field] = address[field]
    return endpoint
