"""Tell the endpoints of a Service the old way, as core/v1 Endpoints, for clients that do not read slices."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from netplane.controlplane.controllers import backends, writes
from netplane.controlplane.controllers.view import View
from netplane.kube import meta
from netplane.kube.types import ENDPOINTS, SERVICES, Key, Object

MANAGED_BY = "endpoints.kubernetes.io/managed-by"
MANAGER = "endpoint-controller"
OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"
LIMIT = 1000


def decide(view: View, key: Key, now: datetime) -> Sequence[writes.Write]:
    """Return the write that brings the Service's Endpoints up to date, or removes them with it."""
    service, held = view.get(SERVICES, key), view.get(ENDPOINTS, key)
    if service is None:
        ours = held is not None and meta.labels(held).get(MANAGED_BY) == MANAGER
        return [writes.Delete(ENDPOINTS, key, held["metadata"]["uid"])] if held and ours else ()
    if meta.is_deleting(service) or not backends.has_selector(service):
        return ()
    chosen = backends.chosen(view, service)
    subsets, is_truncated = _subsets(service, chosen)
    labels = backends.labels(service, **{MANAGED_BY: MANAGER})
    if held and _same(held, subsets, labels, is_truncated=is_truncated):
        return ()
    metadata: Object = dict(held["metadata"]) if held else {"name": key[1], "namespace": key[0]}
    annotations = {**(metadata.get("annotations") or {}), backends.TRIGGERED: backends.triggered(service, chosen)}
    annotations.pop(OVER_CAPACITY, None)
    if is_truncated:
        annotations[OVER_CAPACITY] = "truncated"
    obj: Object = {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {**metadata, "labels": labels, "annotations": annotations},
    }
    if subsets:
        obj["subsets"] = subsets
    return [writes.Update(ENDPOINTS, obj) if held else writes.Create(ENDPOINTS, obj)]


def _same(held: Object, subsets: list[Object], labels: dict[str, str], *, is_truncated: bool) -> bool:
    truncated = (held["metadata"].get("annotations") or {}).get(OVER_CAPACITY) == "truncated"
    return (held.get("subsets") or []) == subsets and meta.labels(held) == labels and truncated == is_truncated


def _subsets(service: Object, chosen: list[Object]) -> tuple[list[Object], bool]:
    family = backends.families(service)[0]
    groups: dict[backends.Ports, tuple[list[Object], list[Object]]] = {}
    late = bool(service["spec"].get("publishNotReadyAddresses"))
    counted = 0
    for pod in sorted(chosen, key=lambda pod: not backends.is_ready(service, pod)):
        address = _address(service, pod, family)
        ports = backends.ports(service, pod)
        if address is None or (meta.is_deleting(pod) and not late) or (service["spec"].get("ports") and not ports):
            continue
        counted += 1
        if counted <= LIMIT:
            ready, waiting = groups.setdefault(ports, ([], []))
            (ready if backends.is_ready(service, pod) else waiting).append(address)
    return [_subset(ports, *groups[ports]) for ports in sorted(groups)], counted > LIMIT


def _subset(ports: backends.Ports, ready: list[Object], waiting: list[Object]) -> Object:
    subset: Object = {}
    if ready:
        subset["addresses"] = sorted(ready, key=_ip)
    if waiting:
        subset["notReadyAddresses"] = sorted(waiting, key=_ip)
    if ports:
        subset["ports"] = [_port(*port) for port in ports]
    return subset


def _ip(address: Object) -> str:
    return str(address["ip"])


def _port(name: str, number: int | None, protocol: str, application: str) -> Object:
    port: Object = {"port": number, "protocol": protocol}
    if name:
        port["name"] = name
    return {**port, "appProtocol": application} if application else port


def _address(service: Object, pod: Object, family: str) -> Object | None:
    found = next((address for address in backends.addresses(pod) if backends.family_of(address) == family), None)
    if found is None:
        return None
    address: Object = {"ip": found, "targetRef": backends.target(pod)}
    if pod["spec"].get("nodeName"):
        address["nodeName"] = pod["spec"]["nodeName"]
    name = backends.hostname(service, pod)
    return {**address, "hostname": name} if name else address
