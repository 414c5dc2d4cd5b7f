"""What Ingresses and NetworkPolicies must fulfil (pkg/apis/networking/validation)."""

from __future__ import annotations

import ipaddress
from typing import Any

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.pods.probes import port_or_name
from netplane.controlplane.registry.rules import labels, names
from netplane.kube.types import Object

_PATH_TYPES = ("Exact", "ImplementationSpecific", "Prefix")
_ENCODED = ("//", "/./", "/../", "%2f", "%2F")
_PROTOCOLS = ("SCTP", "TCP", "UDP")


def ingress(obj: Object) -> list[Fault]:
    """Return every fault of an Ingress."""
    spec = obj.get("spec") or {}
    found: list[Fault] = []
    rules = spec.get("rules") or []
    if not rules and not spec.get("defaultBackend"):
        found.append(faults.invalid("spec", rules, "either `defaultBackend` or `rules` must be specified"))
    if spec.get("ingressClassName"):
        name = spec["ingressClassName"]
        found += [faults.invalid("spec.ingressClassName", name, each) for each in names.subdomain(name)]
    if spec.get("defaultBackend"):
        found += _backend(spec["defaultBackend"], "spec.defaultBackend")
    for index, each in enumerate(spec.get("tls") or ()):
        for inner, host in enumerate(each.get("hosts") or ()):
            found += _host(host, f"spec.tls[{index}].hosts[{inner}]")
    for index, rule in enumerate(rules):
        at = f"spec.rules[{index}]"
        if rule.get("host"):
            found += _host(rule["host"], f"{at}.host")
        if "http" in rule:
            found += _http(rule["http"], f"{at}.http")
    return found


def _host(host: str, path: str) -> list[Fault]:
    if names.is_ip(host):
        return [faults.invalid(path, host, "must be a DNS name, not an IP address")]
    reasons = names.wildcard_subdomain(host) if "*" in host else names.subdomain(host)
    return [faults.invalid(path, host, each) for each in reasons]


def _http(http: Object, path: str) -> list[Fault]:
    paths = http.get("paths") or []
    found = [] if paths else [faults.required(f"{path}.paths")]
    for index, each in enumerate(paths):
        at = f"{path}.paths[{index}]"
        text, kind = each.get("path", ""), each.get("pathType")
        if kind is None:
            found.append(faults.required(f"{at}.pathType", "pathType must be specified"))
        elif kind not in _PATH_TYPES:
            found.append(faults.not_supported(f"{at}.pathType", kind, _PATH_TYPES))
        elif kind == "ImplementationSpecific":
            if text and not text.startswith("/"):
                found.append(faults.invalid(f"{at}.path", text, "must be an absolute path"))
        else:
            found += _absolute(text, f"{at}.path")
        found += _backend(each.get("backend") or {}, f"{at}.backend")
    return found


def _absolute(text: str, path: str) -> list[Fault]:
    found = [] if text.startswith("/") else [faults.invalid(path, text, "must be an absolute path")]
    found += [faults.invalid(path, text, f"must not contain '{each}'") for each in _ENCODED if each in text]
    for each in ("/..", "/."):
        if text.endswith(each):
            found.append(faults.invalid(path, text, f"cannot end with '{each}'"))
    return found


def _backend(backend: Object, path: str) -> list[Fault]:
    service, resource = backend.get("service"), backend.get("resource")
    if resource is not None and service is not None:
        return [faults.invalid(path, "", "cannot set both resource and service backends")]
    if resource is not None:
        return [faults.required(f"{path}.resource.{each}") for each in ("kind", "name") if not resource.get(each)]
    if service is None:
        return [faults.required(path, "resource or service backend is required")]
    name = service.get("name", "")
    at = f"{path}.service"
    if not name:
        return [faults.required(f"{at}.name")]
    found = [faults.invalid(f"{at}.name", name, each) for each in names.dns1035_label(name)]
    return found + _service_port(service.get("port") or {}, f"{at}.port")


def _service_port(port: Object, path: str) -> list[Fault]:
    if port.get("name") and port.get("number"):
        return [faults.invalid(path, port, "cannot set both port name & port number")]
    if port.get("name"):
        return [faults.invalid(f"{path}.name", port["name"], each) for each in names.port_name(port["name"])]
    if port.get("number"):
        return port_or_name(port["number"], f"{path}.number")
    return [faults.required(path, "port name or number is required")]


def ingress_class(obj: Object) -> list[Fault]:
    """Return every fault of an IngressClass."""
    controller = (obj.get("spec") or {}).get("controller", "")
    if len(controller) > 250:
        return [faults.too_long("spec.controller", 250)]
    prefix, slash, _path = controller.partition("/")
    if not controller:
        return [faults.required("spec.controller")]
    if not slash:
        return [faults.invalid("spec.controller", controller, 'must be a domain-prefixed path (such as "acme.io/foo")')]
    return [faults.invalid("spec.controller", controller, each) for each in names.subdomain(prefix)]


def ingress_class_update(new: Object, old: Object) -> list[Fault]:
    """A class's controller never changes."""
    value, before = ((each.get("spec") or {}).get("controller") for each in (new, old))
    return [] if value == before else [faults.invalid("spec.controller", value, "field is immutable")]


def network_policy(obj: Object) -> list[Fault]:
    """Return every fault of a NetworkPolicy."""
    spec = obj["spec"]
    found = labels.selector_faults(spec.get("podSelector") or {}, "spec.podSelector")
    for direction, side in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(spec.get(direction) or ()):
            at = f"spec.{direction}[{index}]"
            for inner, port in enumerate(rule.get("ports") or ()):
                found += _policy_port(port, f"{at}.ports[{inner}]")
            for inner, peer in enumerate(rule.get(side) or ()):
                found += _peer(peer, f"{at}.{side}[{inner}]")
    types = spec.get("policyTypes") or []
    if len(types) > 2:
        return [*found, faults.invalid("spec.policyTypes", types, "may not specify more than two policyTypes")]
    for index, each in enumerate(types):
        if each not in ("Ingress", "Egress"):
            found.append(faults.not_supported(f"spec.policyTypes[{index}]", each, ("Egress", "Ingress")))
    return found


def _policy_port(port: Object, path: str) -> list[Fault]:
    found: list[Fault] = []
    if port.get("protocol") not in _PROTOCOLS:
        found.append(faults.not_supported(f"{path}.protocol", port.get("protocol"), _PROTOCOLS))
    value: Any = port.get("port")
    if value is not None:
        found += port_or_name(value, f"{path}.port")
    end = port.get("endPort")
    if end is None:
        return found
    if value is None:
        found.append(faults.required(f"{path}.port", "must be specified when `endPort` is specified"))
    elif isinstance(value, str):
        found.append(faults.invalid(f"{path}.endPort", end, "may not be specified when `port` is non-numeric"))
    elif end < value:
        found.append(faults.invalid(f"{path}.endPort", end, "must be greater than or equal to `port`"))
    if not names.is_port(end):
        found.append(faults.invalid(f"{path}.endPort", end, names.PORT_RANGE))
    return found


def _peer(peer: Object, path: str) -> list[Fault]:
    found: list[Fault] = []
    for name in ("podSelector", "namespaceSelector"):
        if name in peer:
            found += labels.selector_faults(peer[name], f"{path}.{name}")
    if not peer:
        found.append(faults.required(path, "must specify a peer"))
    block = peer.get("ipBlock")
    if block is None:
        return found
    if len(peer) > 1:
        found.append(faults.forbidden(path, "may not specify both ipBlock and another peer"))
    return found + _block(block, f"{path}.ipBlock")


def _block(block: Object, path: str) -> list[Fault]:
    text = block.get("cidr", "")
    if not text:
        return [faults.required(f"{path}.cidr")]
    found = [faults.invalid(f"{path}.cidr", text, each) for each in names.cidr(text)]
    if found:
        return found
    outer = ipaddress.ip_network(text, strict=False)
    for index, each in enumerate(block.get("except") or ()):
        at = f"{path}.except[{index}]"
        if not names.is_cidr(each):
            found += [faults.invalid(at, each, reason) for reason in names.cidr(each)]
            continue
        inner = ipaddress.ip_network(each, strict=False)
        if inner.version != outer.version or not inner.subnet_of(outer) or inner == outer:  # type: ignore[arg-type]  # versions are equal
            found.append(faults.invalid(at, each, f"must be a strict subset of `{text}`"))
    return found
