"""What a Node object says: addresses, pod networks, place, and whether it is leaving."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from netplane.model import address

ZONE_LABEL = "topology.kubernetes.io/zone"
REGION_LABEL = "topology.kubernetes.io/region"


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """One row of status.addresses. `type` is InternalIP, ExternalIP, Hostname, InternalDNS or ExternalDNS."""

    type: str
    address: str


@dataclass(frozen=True, slots=True)
class Taint:
    """A reason for pods to keep off the node."""

    key: str
    value: str = ""
    effect: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster. `internal_ips` keeps the order of status.addresses: the first is the primary one."""

    name: str
    uid: str = ""
    addresses: tuple[NodeAddress, ...] = ()
    internal_ips: tuple[address.Packed, ...] = ()
    external_ips: tuple[address.Packed, ...] = ()
    pod_cidrs: tuple[address.Prefix, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    taints: tuple[Taint, ...] = ()
    is_ready: bool = False
    is_unschedulable: bool = False
    is_deleting: bool = False
    revision: str = ""

    @property
    def zone(self) -> str:
        """The failure zone it stands in; "" when it says none."""
        return self.labels.get(ZONE_LABEL, "")

    @property
    def region(self) -> str:
        """The region it stands in; "" when it says none."""
        return self.labels.get(REGION_LABEL, "")

    def ip(self, family: address.Family) -> address.Packed | None:
        """Return its address in a family: internal before external, the first before later ones; None without one."""
        candidates = (*self.internal_ips, *self.external_ips)
        return next((ip for ip in candidates if address.family(ip) is family), None)

    def pod_cidr(self, family: address.Family) -> address.Prefix | None:
        """Return its pod network in a family; None when it has none (yet)."""
        return next((cidr for cidr in self.pod_cidrs if cidr.family is family), None)
