"""ServiceCIDRs and IPAddresses: what they must fulfil, and their columns (pkg/apis/networking/validation)."""

from __future__ import annotations

import ipaddress

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.faults import Fault
from netplane.kube.types import Object


def service_cidr(obj: Object) -> list[Fault]:
    """Return every fault of a ServiceCIDR."""
    cidrs = (obj.get("spec") or {}).get("cidrs") or []
    if not cidrs:
        return [faults.required("spec.cidrs", "at least one CIDR required")]
    if len(cidrs) > 2:
        detail = "may only hold up to 2 values"
        return [faults.invalid("spec", cidrs, detail)]
    found: list[Fault] = []
    versions: list[int] = []
    for index, each in enumerate(cidrs):
        try:
            versions.append(ipaddress.ip_network(each).version)
        except ValueError:
            detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
            found.append(faults.invalid(f"spec.cidrs[{index}]", each, detail))
    if not found and len(versions) == 2 and versions[0] == versions[1]:
        detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"
        found.append(faults.invalid("spec.cidrs", cidrs, detail))
    return found


def service_cidr_update(new: Object, old: Object) -> list[Fault]:
    """Ranges never change."""
    cidrs, before = ((each.get("spec") or {}).get("cidrs") for each in (new, old))
    return [] if cidrs == before else [faults.invalid("spec.cidrs", cidrs, "field is immutable")]


def address_faults(name: str) -> list[str]:
    """Return why a text cannot name an IPAddress: it is the address, in its one canonical form."""
    try:
        canonical = str(ipaddress.ip_address(name))
    except ValueError:
        return ["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"]
    return [] if name == canonical else [f'must be in canonical form ("{canonical}")']


def ip_address(obj: Object) -> list[Fault]:
    """Return every fault of an IPAddress."""
    parent = (obj.get("spec") or {}).get("parentRef")
    if not parent:
        return [faults.required("spec.parentRef")]
    return [faults.required(f"spec.parentRef.{each}") for each in ("resource", "name") if not parent.get(each)]


def ip_address_update(new: Object, old: Object) -> list[Fault]:
    """Who holds an address is said once."""
    parent, before = ((each.get("spec") or {}).get("parentRef") for each in (new, old))
    return [] if parent == before else [faults.invalid("spec.parentRef", parent, "field is immutable")]


def cidrs(obj: Object) -> str:
    """The ranges as one cell."""
    return ",".join((obj.get("spec") or {}).get("cidrs") or ())


def parent(obj: Object) -> str:
    """Who holds an address, as one cell: `services/default/kubernetes`."""
    reference = (obj.get("spec") or {}).get("parentRef") or {}
    parts = (reference.get(each) for each in ("group", "resource", "namespace", "name"))
    return "/".join(each for each in parts if each)
