"""What the statuses of nodes, pods and Services must fulfil, whoever writes them.

Source: ValidateNodeResources, validatePodIPs, ValidateLoadBalancerStatus of k8s.io/kubernetes/pkg/apis/core/validation.
"""

from __future__ import annotations

import ipaddress

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.cluster import limits
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.rules import names
from netplane.kube.types import Object

_MODES = ("Proxy", "VIP")


def node(new: Object, old: Object) -> list[Fault]:
    """Return every fault of a Node's status: what there is cannot be negative, and no address is told twice."""
    status, before = new.get("status") or {}, old.get("status") or {}
    found: list[Fault] = []
    for field in ("capacity", "allocatable"):
        if status.get(field) != before.get(field):
            for name, amount in (status.get(field) or {}).items():
                found += limits.amount_faults(name, amount, f"status.{field}.{name}")
    seen: set[tuple[str, str]] = set()
    for index, each in enumerate(status.get("addresses") or ()):
        address = (each.get("type", ""), each.get("address", ""))
        if address in seen:
            found.append(faults.duplicate(f"status.addresses[{index}]", each))
        seen.add(address)
    return found


def pod(new: Object, old: Object) -> list[Fault]:
    """Return every fault of a Pod's addresses: at most one of each family, each once."""
    status, before = new.get("status") or {}, old.get("status") or {}
    found: list[Fault] = []
    for one, many in (("podIP", "podIPs"), ("hostIP", "hostIPs")):
        told = (status.get(one), status.get(many))
        if told == (before.get(one), before.get(many)):
            continue
        addresses = [each.get("ip", "") for each in told[1] or ()]
        if told[0] and told[0] not in addresses[:1]:
            addresses = [told[0]]
        found += _addresses(addresses, f"status.{many}")
    return found


def _addresses(addresses: list[str], path: str) -> list[Fault]:
    found = [
        faults.invalid(f"{path}[{index}]", each, text)
        for index, each in enumerate(addresses)
        for text in names.ip(each)
    ]
    if found:
        return found
    families = [ipaddress.ip_address(each).version for each in addresses]
    if len(families) > 2 or len(set(families)) < len(families):
        found.append(faults.invalid(path, addresses, "may specify no more than one IP for each IP family"))
    for index, each in enumerate(addresses):
        if each in addresses[:index]:
            found.append(faults.duplicate(f"{path}[{index}]", each))
    return found


def service(new: Object, old: Object) -> list[Fault]:
    """Return every fault of where a Service is reached from outside."""
    balancer = (new.get("status") or {}).get("loadBalancer") or {}
    if balancer == ((old.get("status") or {}).get("loadBalancer") or {}):
        return []
    entries = balancer.get("ingress") or []
    at = "status.loadBalancer.ingress"
    if entries and new["spec"].get("type") != "LoadBalancer":
        return [faults.forbidden(at, "may only be used when `spec.type` is 'LoadBalancer'")]
    return [fault for index, each in enumerate(entries) for fault in _entry(each, f"{at}[{index}]")]


def _entry(entry: Object, path: str) -> list[Fault]:
    address, host, mode = entry.get("ip", ""), entry.get("hostname", ""), entry.get("ipMode")
    found = [faults.invalid(f"{path}.ip", address, each) for each in names.ip(address)] if address else []
    if mode is not None and not address:
        found.append(faults.forbidden(f"{path}.ipMode", "may not be specified when `ip` is not set"))
    elif mode is not None and mode not in _MODES:
        found.append(faults.not_supported(f"{path}.ipMode", mode, _MODES))
    if host:
        found += [faults.invalid(f"{path}.hostname", host, each) for each in names.subdomain(host)]
        if names.is_ip(host):
            found.append(faults.invalid(f"{path}.hostname", host, "must be a DNS name, not an IP address"))
    return found
