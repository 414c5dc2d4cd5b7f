"""Show which Service holds which address, as IPAddresses, and of each ServiceCIDR whether it is used.

Giving addresses out is the server's, which books them with the Service itself: what is here follows.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime

from netplane.controlplane.controllers import conditions, triggers, writes
from netplane.controlplane.controllers.view import Change, View
from netplane.kube import meta
from netplane.kube.types import SERVICES, Object, Resource

_GROUP = "networking.k8s.io"
IPADDRESSES = Resource(_GROUP, "v1", "ipaddresses", "IPAddress", namespaced=False)
SERVICECIDRS = Resource(_GROUP, "v1", "servicecidrs", "ServiceCIDR", namespaced=False)
DEFAULT = "kubernetes"
"""The ServiceCIDR that the server makes of its own ranges."""
_LABEL_FAMILY, _LABEL_BY = "ipaddress.kubernetes.io/ip-family", "ipaddress.kubernetes.io/managed-by"

Place = tuple[str, str, str]
"""An address, and the namespace and name of the Service that it is asked about."""


def of_service(view: View, change: Change) -> triggers.Keys:
    """Return the addresses that a Service holds or held, unless they are as before."""
    before, after = (_held(obj) if obj is not None else frozenset() for obj in (change.old, change.new))
    if before == after and change.old is not None:
        return ()
    return sorted((each, *change.key) for each in before | after)


def of_address(view: View, change: Change) -> triggers.Keys:
    """Return the address with the Service that it says holds it."""
    return sorted({(change.key[1], *parent) for obj in (change.old, change.new) if obj and (parent := _parent(obj))})


def decide(view: View, key: Place, now: datetime) -> Sequence[writes.Write]:
    """Return the IPAddress to make of an address that the Service holds, or to delete of one that it does not."""
    address, namespace, name = key
    service = view.get(SERVICES, (namespace, name))
    is_held = service is not None and address in _held(service)
    shown = view.get(IPADDRESSES, ("", address))
    if shown is None:
        return [writes.Create(IPADDRESSES, _shown(address, namespace, name))] if is_held else ()
    if meta.is_deleting(shown):
        return [writes.Requeue(1.0)] if is_held else ()
    parent = _parent(shown)
    if parent is None or (parent == (namespace, name)) == is_held:
        return ()
    gone = writes.Delete(IPADDRESSES, ("", address), shown["metadata"]["uid"])
    # Another Service had it, which the watch of this one may have told before the end of that one.
    return [gone, writes.Requeue(1.0)] if is_held else [gone]


def decide_range(view: View, key: tuple[str, str], now: datetime) -> Sequence[writes.Write]:
    """Return the status of a ServiceCIDR: only the server's own ranges are given out."""
    found = view.get(SERVICECIDRS, key)
    if found is None or meta.is_deleting(found):
        return ()
    before: Object = found.get("status") or {}
    if key[1] == DEFAULT:
        claim = ("True", "", "Kubernetes Service CIDR is ready")
    else:
        claim = ("False", "NotUsed", "addresses come from the ranges of the servers' --service-cidr alone")
    status = conditions.ensure(before, "Ready", *claim, now)
    return [] if conditions.same(status, before) else [writes.UpdateStatus(SERVICECIDRS, {**found, "status": status})]


def _held(service: Object) -> frozenset[str]:
    spec = service.get("spec") or {}
    return frozenset(each for each in spec.get("clusterIPs") or () if each and each != "None")


def _parent(address: Object) -> tuple[str, str] | None:
    """Return namespace and name of the Service; None when it is of something else."""
    reference = (address.get("spec") or {}).get("parentRef") or {}
    if reference.get("group") or reference.get("resource") != "services":
        return None
    return str(reference.get("namespace", "")), str(reference.get("name", ""))


def _shown(address: str, namespace: str, name: str) -> Object:
    labels = {_LABEL_FAMILY: f"IPv{ipaddress.ip_address(address).version}", _LABEL_BY: "ipallocator.k8s.io"}
    parent = {"group": "", "resource": "services", "namespace": namespace, "name": name}
    return {
        "apiVersion": IPADDRESSES.api_version,
        "kind": IPADDRESSES.kind,
        "metadata": {"name": address, "labels": labels},
        "spec": {"parentRef": parent},
    }
