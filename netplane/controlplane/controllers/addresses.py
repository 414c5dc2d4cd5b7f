"""Show which Service holds which address, as IPAddresses.

Giving addresses out is the server's, which books them with the Service itself: what is here follows.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import datetime

from netplane.controlplane.controllers import triggers, writes
from netplane.controlplane.controllers.view import Change, View
from netplane.kube import meta
from netplane.kube.types import SERVICES, Object, Resource

_GROUP = "networking.k8s.io"
IPADDRESSES = Resource(_GROUP, "v1", "ipaddresses", "IPAddress", namespaced=False)
SERVICECIDRS = Resource(_GROUP, "v1", "servicecidrs", "ServiceCIDR", namespaced=False)
_LABEL_FAMILY, _LABEL_BY = "ipaddress.kubernetes.io/ip-family", "ipaddress.kubernetes.io/managed-by"
_BY = "ipallocator.k8s.io"

Place = tuple[str, str, str]
"""An address, and the namespace and name of the Service that it is asked about."""


def of_service(view: View, change: Change) -> triggers.Keys:
    """Return the addresses that a Service holds or held, unless they are as before."""
    before, after = (held(obj) if obj is not None else frozenset() for obj in (change.old, change.new))
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
    is_held = service is not None and address in held(service)
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


def held(service: Object) -> frozenset[str]:
    """Return the addresses that a Service holds."""
    spec = service.get("spec") or {}
    return frozenset(each for each in spec.get("clusterIPs") or () if each and each != "None")


def is_ours(address: Object) -> bool:
    """Whether an IPAddress is one that shows what was given out, not somebody else's."""
    return meta.labels(address).get(_LABEL_BY) == _BY


def _parent(address: Object) -> tuple[str, str] | None:
    """Return namespace and name of the Service; None when it is of something else."""
    reference = (address.get("spec") or {}).get("parentRef") or {}
    if reference.get("group") or reference.get("resource") != "services":
        return None
    return str(reference.get("namespace", "")), str(reference.get("name", ""))


def _shown(address: str, namespace: str, name: str) -> Object:
    labels = {_LABEL_FAMILY: f"IPv{ipaddress.ip_address(address).version}", _LABEL_BY: _BY}
    parent = {"group": "", "resource": "services", "namespace": namespace, "name": name}
    return {
        "apiVersion": IPADDRESSES.api_version,
        "kind": IPADDRESSES.kind,
        "metadata": {"name": address, "labels": labels},
        "spec": {"parentRef": parent},
    }
