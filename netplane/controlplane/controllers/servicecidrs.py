"""Say of each ServiceCIDR whether it is used, and keep one that is deleted as long as something is in it.

Giving addresses out is the server's, which stops as soon as the deletion is there (KEP-1880).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

from netplane.controlplane.controllers import addresses, conditions, triggers, writes
from netplane.controlplane.controllers.addresses import IPADDRESSES, SERVICECIDRS
from netplane.controlplane.controllers.view import Change, View
from netplane.controlplane.registry.services.ranges import FINALIZER, Network, gives, networks
from netplane.kube import meta
from netplane.kube.types import SERVICES, Key, Object, key_of

_READY = ("True", "", "Kubernetes Service CIDR is ready")
_TERMINATING = (
    "False",
    "Terminating",
    "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
)


@dataclass(frozen=True, slots=True)
class Left:
    """What would be left alone without some ranges: the addresses that are in none of the others."""

    ranges: tuple[Network, ...]
    others: tuple[Network, ...]

    def holds_any(self, held: Iterable[str]) -> bool:
        """Whether one of these addresses is among it."""
        found = map(ipaddress.ip_address, held)
        inside = (address for address in found if any(gives(each, address) for each in self.ranges))
        return any(not any(gives(each, address) for each in self.others) for address in inside)


def of_range(view: View, change: Change) -> triggers.Keys:
    """Return the ServiceCIDR, and those that wait for their end: what covers them may have come or gone."""
    return sorted({change.key, *_leaving(view)})


def of_service(view: View, change: Change) -> triggers.Keys:
    """Return the ServiceCIDRs that wait for their end, if the Service got or gave up an address."""
    before, after = (addresses.held(obj) if obj is not None else frozenset() for obj in (change.old, change.new))
    return _leaving(view) if before != after else ()


def of_address(view: View, change: Change) -> triggers.Keys:
    """Return the ServiceCIDRs that wait for their end, if an IPAddress came or went."""
    return _leaving(view) if change.old is None or change.new is None else ()


def decide(view: View, key: Key, now: datetime) -> Sequence[writes.Write]:
    """Return the finalizer and the status that a ServiceCIDR lacks, or the release of one that is left."""
    found = view.get(SERVICECIDRS, key)
    if found is None:
        return ()
    finalizers = found["metadata"].get("finalizers") or []
    if meta.is_deleting(found):
        return _leave(view, found, now) if FINALIZER in finalizers else ()
    if FINALIZER not in finalizers:
        return [_finalized(found, [*finalizers, FINALIZER])]
    return _told(found, _READY, now)


def _leave(view: View, found: Object, now: datetime) -> Sequence[writes.Write]:
    """Tell what a ServiceCIDR waits for, or release it.

    What lies in another one may stay, unless that one goes as well: of two alike one would be released for the other.
    """
    others = (each for each in view.all(SERVICECIDRS) if key_of(each) != key_of(found) and not meta.is_deleting(each))
    left = Left(networks(found), tuple(network for each in others for network in networks(each)))
    held = (address for service in view.all(SERVICES) for address in addresses.held(service))
    shown = (each["metadata"]["name"] for each in view.all(IPADDRESSES) if addresses.is_ours(each))
    if left.holds_any(chain(held, shown)):
        return _told(found, _TERMINATING, now)
    kept = [each for each in found["metadata"]["finalizers"] if each != FINALIZER]
    return [writes.Vacate(left.holds_any, _finalized(found, kept))]


def _leaving(view: View) -> list[Key]:
    return [key_of(each) for each in view.all(SERVICECIDRS) if meta.is_deleting(each)]


def _finalized(found: Object, finalizers: list[str]) -> writes.Patch:
    guard = {"uid": found["metadata"]["uid"], "resourceVersion": found["metadata"]["resourceVersion"]}
    return writes.Patch(SERVICECIDRS, key_of(found), {"metadata": {**guard, "finalizers": finalizers}})


def _told(found: Object, claim: tuple[str, str, str], now: datetime) -> Sequence[writes.Write]:
    before: Object = found.get("status") or {}
    status = conditions.ensure(before, "Ready", *claim, now)
    if conditions.same(status, before):
        return ()
    return [writes.UpdateStatus(SERVICECIDRS, writes.with_status(found, status))]
