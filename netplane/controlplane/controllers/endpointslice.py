"""Tell by EndpointSlices which endpoints stand behind a Service that selects Pods."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from netplane.controlplane.controllers import backends, pods, slices, writes
from netplane.controlplane.controllers.view import View
from netplane.kube import meta
from netplane.kube.types import ENDPOINTSLICES, NODES, SERVICES, Key, Object, key_of

MANAGER = "endpointslice-controller.k8s.io"
CLOSE = ("PreferClose", "PreferSameZone", "PreferSameNode")


def decide(view: View, key: Key, now: datetime) -> Sequence[writes.Write]:
    """Return the writes that bring the Service's slices up to date. A deleted Service's slices are garbage's."""
    service = view.get(SERVICES, key)
    if service is None or meta.is_deleting(service):
        return ()
    if not backends.has_selector(service):
        return [
            writes.Delete(ENDPOINTSLICES, key_of(found), found["metadata"]["uid"])
            for found in slices.mine(view, service, MANAGER)
        ]
    chosen = backends.chosen(view, service)
    origin = slices.Origin(service, MANAGER, backends.labels(service), backends.triggered(service, chosen))
    return slices.pack(view, origin, _wanted(view, service, chosen))


def _wanted(view: View, service: Object, chosen: list[Object]) -> dict[slices.Group, list[Object]]:
    wanted: dict[slices.Group, list[Object]] = {}
    for family in backends.families(service):
        groups: dict[slices.Group, list[Object]] = {}
        for pod in chosen:
            endpoint = _endpoint(view, service, pod, family)
            ports = backends.ports(service, pod)
            if endpoint is not None and (ports or not service["spec"].get("ports")):
                groups.setdefault((family, ports), []).append(endpoint)
        wanted |= groups or {(family, ()): []}
    return wanted


def _endpoint(view: View, service: Object, pod: Object, family: str) -> Object | None:
    addresses = [address for address in backends.addresses(pod) if backends.family_of(address) == family]
    name = pod["spec"].get("nodeName")
    node = view.get(NODES, ("", name)) if name else None
    if not addresses or (node is None and not service["spec"].get("publishNotReadyAddresses")):
        return None
    ready = backends.is_ready(service, pod)
    endpoint: Object = {
        "addresses": addresses,
        "conditions": {"ready": ready, "serving": pods.is_ready(pod), "terminating": meta.is_deleting(pod)},
        "targetRef": backends.target(pod),
    }
    if name:
        endpoint["nodeName"] = name
    zone = meta.labels(node).get(backends.ZONE) if node else None
    if zone:
        endpoint["zone"] = zone
    if hostname := backends.hostname(service, pod):
        endpoint["hostname"] = hostname
    hints = _hints(service, zone, name) if ready else None
    return {**endpoint, "hints": hints} if hints else endpoint


def _hints(service: Object, zone: str | None, node: str | None) -> Object:
    """Return whom a ready endpoint should serve, by the Service's trafficDistribution (KEP-4444, KEP-3015)."""
    wish = service["spec"].get("trafficDistribution")
    hints: Object = {}
    if wish in CLOSE and zone:
        hints["forZones"] = [{"name": zone}]
    if wish == "PreferSameNode" and node:
        hints["forNodes"] = [{"name": node}]
    return hints
