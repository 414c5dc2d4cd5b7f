"""What EndpointSlices must fulfil (pkg/apis/discovery/validation)."""

from __future__ import annotations

import ipaddress

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.rules import names
from netplane.controlplane.registry.services.validate import public_ip
from netplane.kube.types import Object

_TYPES = ("FQDN", "IPv4", "IPv6")
_PROTOCOLS = ("SCTP", "TCP", "UDP")
_MAX_ADDRESSES = 100
_MAX_ENDPOINTS = 1000


def endpoint_slice(obj: Object) -> list[Fault]:
    """Return every fault of an EndpointSlice."""
    kind = obj.get("addressType", "")
    found: list[Fault] = []
    if not kind:
        found.append(faults.required("addressType"))
    elif kind not in _TYPES:
        found.append(faults.not_supported("addressType", kind, _TYPES))
    endpoints, ports = obj.get("endpoints") or [], obj.get("ports") or []
    if len(endpoints) > _MAX_ENDPOINTS:
        return [*found, faults.too_many("endpoints", len(endpoints), _MAX_ENDPOINTS)]
    for index, each in enumerate(endpoints):
        found += _endpoint(each, kind, f"endpoints[{index}]")
    if len(ports) > _MAX_ADDRESSES:
        return [*found, faults.too_many("ports", len(ports), _MAX_ADDRESSES)]
    return found + _ports(ports)


def _endpoint(endpoint: Object, kind: str, path: str) -> list[Fault]:
    addresses = endpoint.get("addresses") or []
    found: list[Fault] = []
    if not addresses:
        found.append(faults.required(f"{path}.addresses", "must contain at least 1 address"))
    elif len(addresses) > _MAX_ADDRESSES:
        found.append(faults.too_many(f"{path}.addresses", len(addresses), _MAX_ADDRESSES))
    for index, each in enumerate(addresses):
        found += _address(each, kind, f"{path}.addresses[{index}]")
    if endpoint.get("nodeName"):
        name = endpoint["nodeName"]
        found += [faults.invalid(f"{path}.nodeName", name, each) for each in names.subdomain(name)]
    if endpoint.get("hostname"):
        name = endpoint["hostname"]
        found += [faults.invalid(f"{path}.hostname", name, each) for each in names.label(name)]
    for index, zone in enumerate((endpoint.get("hints") or {}).get("forZones") or ()):
        value = zone.get("name", "")
        at = f"{path}.hints.forZones[{index}].name"
        found += [faults.invalid(at, value, each) for each in names.label_value(value)]
    return found


def _address(text: str, kind: str, path: str) -> list[Fault]:
    if kind == "FQDN":
        return [faults.invalid(path, text, each) for each in names.subdomain(text)]
    if not names.is_ip(text):
        return [faults.invalid(path, text, each) for each in names.ip(text)]
    if kind in ("IPv4", "IPv6") and f"IPv{ipaddress.ip_address(text).version}" != kind:
        return [faults.invalid(path, text, f"must be an {kind} address")]
    return public_ip(text, path)


def _ports(ports: list[Object]) -> list[Fault]:
    found: list[Fault] = []
    seen: set[str] = set()
    for index, port in enumerate(ports):
        at = f"ports[{index}]"
        name = port.get("name", "")
        if name:
            found += [faults.invalid(f"{at}.name", name, each) for each in names.label(name)]
        if name in seen:
            found.append(faults.duplicate(f"{at}.name", name))
        seen.add(name)
        if port.get("protocol") not in _PROTOCOLS:
            found.append(faults.not_supported(f"{at}.protocol", port.get("protocol"), _PROTOCOLS))
    return found


def endpoint_slice_update(new: Object, old: Object) -> list[Fault]:
    """A slice's address type never changes."""
    if new.get("addressType") != old.get("addressType"):
        return [faults.invalid("addressType", new.get("addressType"), "field is immutable")]
    return []
