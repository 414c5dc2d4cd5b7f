"""ServiceCIDRs and IPAddresses: what they must fulfil and what they give (pkg/apis/networking/validation), columns."""

from __future__ import annotations

import ipaddress
import re

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.faults import Fault
from netplane.kube.types import Object

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

STORAGE = "servicecidrs.networking.k8s.io"
ADDRESSES = "ipaddresses.networking.k8s.io"
FINALIZER = "networking.k8s.io/service-cidr-finalizer"
"""Keeps a ServiceCIDR that is deleted until nothing holds an address of it."""
_IMMUTABLE = "field is immutable"
_NUMBER = re.compile("[0-9]{1,4}")


def networks(obj: Object) -> tuple[Network, ...]:
    """Return the ranges of a ServiceCIDR."""
    return tuple(ipaddress.ip_network(each) for each in (obj.get("spec") or {}).get("cidrs") or ())


def is_open(obj: Object) -> bool:
    """Whether addresses are given out of a ServiceCIDR: it is not being deleted, and nobody says it is not ready.

    Without a word it counts as ready, as with the real server: Services need not wait for the controllers.
    """
    if obj["metadata"].get("deletionTimestamp"):
        return False
    said = [each for each in (obj.get("status") or {}).get("conditions") or () if each.get("type") == "Ready"]
    return not said or said[0].get("status") == "True"


def gives(network: Network, address: Address) -> bool:
    """Whether a Service may get an address out of a range: the first is never given, nor IPv4's last."""
    if address not in network or address == network.network_address:
        return False
    return network.version == 6 or address != network.broadcast_address


def guarded(obj: Object) -> None:
    """Keep a new ServiceCIDR from vanishing with Services in it: a moment without that would be enough."""
    finalizers = obj["metadata"].setdefault("finalizers", [])
    if FINALIZER not in finalizers:
        finalizers.append(FINALIZER)


def service_cidr(obj: Object) -> list[Fault]:
    """Return every fault of a ServiceCIDR."""
    cidrs = (obj.get("spec") or {}).get("cidrs") or []
    if not cidrs:
        return [faults.required("spec.cidrs", "at least one CIDR required")]
    if len(cidrs) > 2:
        return [faults.invalid("spec.cidrs", cidrs, "may only hold up to 2 values")]
    found = [
        faults.invalid(f"spec.cidrs[{at}]", each, why) for at, each in enumerate(cidrs) if (why := _misspelt(each))
    ]
    if not found and len({ipaddress.ip_network(each).version for each in cidrs}) < len(cidrs):
        detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"
        found.append(faults.invalid("spec.cidrs", cidrs, detail))
    return found


def _misspelt(text: str) -> str:
    """Return why a text is no range in its one canonical form, "" if it is (IsValidCIDR of 1.33, KEP-4858)."""
    address, _, length = text.partition("/")
    plain = ".".join(part.lstrip("0") or "0" for part in address.split(".")) if ":" not in address else address
    try:
        # Python takes a netmask for the length, and none at all for one address.
        network = ipaddress.ip_network(f"{plain}/{int(length)}" if _NUMBER.fullmatch(length) else "", strict=False)
    except ValueError:
        return "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
    if plain != address or length != str(int(length)):
        return "must not have leading 0s in IP or prefix length"
    first = ipaddress.ip_address(address)
    if isinstance(first, ipaddress.IPv6Address) and first.ipv4_mapped:
        return "must not have an IPv4-mapped IPv6 address"
    if first != network.network_address:
        return "must not have bits set beyond the prefix length"
    return "" if text == str(network) else f'must be in canonical form ("{network}")'


def service_cidr_update(new: Object, old: Object) -> list[Fault]:
    """Ranges never change; of one family only, a ServiceCIDR may get one of the other."""
    cidrs, before = ((each.get("spec") or {}).get("cidrs") or [] for each in (new, old))
    if len(cidrs) == len(before) or (len(before), len(cidrs)) == (1, 2):
        pairs = enumerate(zip(before, cidrs, strict=False))
        return [faults.invalid(f"spec.cidrs[{at}]", now, _IMMUTABLE) for at, (was, now) in pairs if was != now]
    return [faults.invalid("spec.cidrs", cidrs, _IMMUTABLE)]


def address_faults(name: str) -> list[str]:
    """Return why a text cannot name an IPAddress: it is the address, in its one canonical form."""
    try:
        canonical = str(ipaddress.ip_address(name))
    except ValueError:
        return ["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"]
    return [] if name == canonical else [f'must be in canonical form ("{canonical}")']


def is_reserved(obj: Object) -> bool:
    """Whether an IPAddress keeps its address from Services: somebody else has it."""
    parent = (obj.get("spec") or {}).get("parentRef") or {}
    return bool(parent.get("group") or parent.get("resource") != "services")


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
