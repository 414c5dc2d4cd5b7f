"""What Services, Endpoints and EndpointSlices must fulfil (pkg/apis/core/validation, pkg/apis/discovery/validation)."""

from __future__ import annotations

import ipaddress

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.pods.containers import port_faults
from netplane.controlplane.registry.pods.probes import port_or_name
from netplane.controlplane.registry.rules import metadata, names
from netplane.controlplane.registry.services.defaults import is_external
from netplane.kube.types import Object

_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_PROTOCOLS = ("SCTP", "TCP", "UDP")
_AFFINITIES = ("ClientIP", "None")
_FAMILIES = ("IPv4", "IPv6")
_POLICIES = ("SingleStack", "PreferDualStack", "RequireDualStack")
_TRAFFIC = ("Cluster", "Local")
_IMMUTABLE = "field is immutable"


def service(obj: Object) -> list[Fault]:
    """Return every fault of a Service."""
    spec = obj["spec"]
    kind = spec["type"]
    found: list[Fault] = []
    if kind not in _TYPES:
        found.append(faults.not_supported("spec.type", kind, _TYPES))
    found += _ports(spec) + _per_type(spec) + _addresses(spec) + _families(spec) + _affinity(spec) + _policies(spec)
    found += metadata.label_faults(spec.get("selector") or {}, "spec.selector")
    for index, each in enumerate(spec.get("externalIPs") or ()):
        found += public_ip(each, f"spec.externalIPs[{index}]")
    for index, each in enumerate(spec.get("loadBalancerSourceRanges") or ()):
        at = f"spec.loadBalancerSourceRanges[{index}]"
        found += [faults.invalid(at, each, text) for text in names.cidr(each.strip())]
        if kind != "LoadBalancer":
            found.append(faults.forbidden(at, "may only be used when `type` is 'LoadBalancer'"))
    return found


def _is_headless(spec: Object) -> bool:
    return spec.get("clusterIP") == "None"


def _ports(spec: Object) -> list[Fault]:
    ports = spec.get("ports") or []
    if not ports and not _is_headless(spec) and spec["type"] != "ExternalName":
        return [faults.required("spec.ports")]
    found: list[Fault] = []
    seen_names: set[str] = set()
    seen: set[tuple[object, object]] = set()
    seen_node: set[tuple[object, object]] = set()
    for index, port in enumerate(ports):
        at = f"spec.ports[{index}]"
        found += _port(port, at, seen_names, needs_name=len(ports) > 1, is_headless=_is_headless(spec))
        key = (port.get("protocol"), port.get("port"))
        if key in seen:
            found.append(faults.duplicate(at, {"protocol": key[0], "port": key[1]}))
        seen.add(key)
        node_port = port.get("nodePort")
        if node_port:
            if spec["type"] in ("ClusterIP", "ExternalName"):
                detail = f"may not be used when `type` is '{spec['type']}'"
                found.append(faults.forbidden(f"{at}.nodePort", detail))
            if (port.get("protocol"), node_port) in seen_node:
                found.append(faults.duplicate(f"{at}.nodePort", node_port))
            seen_node.add((port.get("protocol"), node_port))
    return found


def _port(port: Object, path: str, seen: set[str], *, needs_name: bool, is_headless: bool) -> list[Fault]:
    name = port.get("name", "")
    found: list[Fault] = []
    if not name and needs_name:
        found.append(faults.required(f"{path}.name"))
    elif name:
        found += [faults.invalid(f"{path}.name", name, each) for each in names.label(name)]
        if name in seen:
            found.append(faults.duplicate(f"{path}.name", name))
        seen.add(name)
    found += port_faults(port.get("port", 0), f"{path}.port")
    if port.get("protocol") not in _PROTOCOLS:
        found.append(faults.not_supported(f"{path}.protocol", port.get("protocol"), _PROTOCOLS))
    found += port_or_name(port.get("targetPort"), f"{path}.targetPort")
    if "appProtocol" in port:
        found += [
            faults.invalid(f"{path}.appProtocol", port["appProtocol"], e) for e in names.qualified(port["appProtocol"])
        ]
    return found


def _per_type(spec: Object) -> list[Fault]:
    kind = spec["type"]
    found: list[Fault] = []
    if kind == "ExternalName":
        name = spec.get("externalName", "")
        bare = name.removesuffix(".")
        if spec.get("clusterIPs"):
            found.append(faults.forbidden("spec.clusterIPs", "may not be set when `type` is 'ExternalName'"))
        if not bare:
            found.append(faults.required("spec.externalName"))
        else:
            found += [faults.invalid("spec.externalName", name, each) for each in names.subdomain(bare)]
    elif kind in ("LoadBalancer", "NodePort") and _is_headless(spec):
        found.append(faults.invalid("spec.clusterIPs[0]", "None", f"may not be set to 'None' for {kind} services"))
    if kind != "LoadBalancer":
        for name in ("allocateLoadBalancerNodePorts", "loadBalancerClass"):
            if name in spec:
                found.append(faults.forbidden(f"spec.{name}", "may only be used when `type` is 'LoadBalancer'"))
    elif spec.get("loadBalancerClass"):
        value = spec["loadBalancerClass"]
        found += [faults.invalid("spec.loadBalancerClass", value, each) for each in names.qualified(value)]
    return found


def _addresses(spec: Object) -> list[Fault]:
    addresses = spec.get("clusterIPs") or []
    found: list[Fault] = []
    if spec.get("clusterIP") and not addresses:
        return [faults.required("spec.clusterIPs")]
    if addresses and spec.get("clusterIP") and addresses[0] != spec["clusterIP"]:
        found.append(faults.invalid("spec.clusterIPs", addresses, "first value must match `clusterIP`"))
    for index, each in enumerate(addresses):
        at = f"spec.clusterIPs[{index}]"
        if each == "None":
            if index or len(addresses) > 1:
                found.append(faults.invalid(at, each, "must be empty, 'None', or a valid IP address"))
        elif each and not names.is_ip(each):
            found += [faults.invalid(at, each, text) for text in names.ip(each)]
    if len(addresses) > 2:
        detail = "may only hold up to 2 values"
        found.append(faults.invalid("spec.clusterIPs", addresses, detail))
    elif len(addresses) == 2 and all(names.is_ip(each) for each in addresses):
        versions = {ipaddress.ip_address(each).version for each in addresses}
        if len(versions) == 1:
            detail = "may specify no more than one IP for each IP family"
            found.append(faults.invalid("spec.clusterIPs", addresses, detail))
    return found


def _families(spec: Object) -> list[Fault]:
    found: list[Fault] = []
    policy, families = spec.get("ipFamilyPolicy"), spec.get("ipFamilies") or []
    if policy and policy not in _POLICIES:
        found.append(faults.not_supported("spec.ipFamilyPolicy", policy, _POLICIES))
    if spec["type"] == "ExternalName":
        for name in ("ipFamilies", "ipFamilyPolicy"):
            if spec.get(name):
                found.append(faults.forbidden(f"spec.{name}", "may not be used when `type` is 'ExternalName'"))
    for index, each in enumerate(families):
        if each not in _FAMILIES:
            found.append(faults.not_supported(f"spec.ipFamilies[{index}]", each, _FAMILIES))
        if each in families[:index]:
            found.append(faults.duplicate(f"spec.ipFamilies[{index}]", each))
    return found


def _affinity(spec: Object) -> list[Fault]:
    affinity = spec["sessionAffinity"]
    if affinity not in _AFFINITIES:
        return [faults.not_supported("spec.sessionAffinity", affinity, _AFFINITIES)]
    if affinity == "None":
        return []
    seconds = spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"]
    if 0 < seconds <= 86400:
        return []
    detail = "must be greater than 0 and less than 86400"
    return [faults.invalid("spec.sessionAffinityConfig.clientIP.timeoutSeconds", seconds, detail)]


def _policies(spec: Object) -> list[Fault]:
    found: list[Fault] = []
    external, internal = spec.get("externalTrafficPolicy"), spec.get("internalTrafficPolicy")
    if internal and internal not in _TRAFFIC:
        found.append(faults.not_supported("spec.internalTrafficPolicy", internal, _TRAFFIC))
    if external and not is_external(spec):
        detail = "may only be set for externally-accessible services"
        found.append(faults.invalid("spec.externalTrafficPolicy", external, detail))
    elif external and external not in _TRAFFIC:
        found.append(faults.not_supported("spec.externalTrafficPolicy", external, _TRAFFIC))
    if spec.get("healthCheckNodePort") and not (spec["type"] == "LoadBalancer" and external == "Local"):
        detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        found.append(faults.invalid("spec.healthCheckNodePort", spec["healthCheckNodePort"], detail))
    distribution = spec.get("trafficDistribution")
    if distribution is not None and distribution not in ("PreferClose", "PreferSameNode", "PreferSameZone"):
        found.append(faults.not_supported("spec.trafficDistribution", distribution, ("PreferClose",)))
    return found


def public_ip(text: str, path: str) -> list[Fault]:
    """Return the faults of an address that others shall be sent to: it must be nobody's own (ValidateNonSpecialIP)."""
    if not names.is_ip(text):
        return [faults.invalid(path, text, each) for each in names.ip(text)]
    address = ipaddress.ip_address(text)
    found: list[Fault] = []
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if address.is_unspecified:
        found.append(faults.invalid(path, text, f"may not be unspecified ({text})"))
    if address.is_loopback:
        found.append(faults.invalid(path, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)"))
    if address.is_link_local:
        found.append(faults.invalid(path, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"))
    if address.is_multicast:
        found.append(
            faults.invalid(path, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
        )
    return found


def service_update(new: Object, old: Object) -> list[Fault]:
    """The first cluster address of a service never changes while its type needs one."""
    spec, before = new["spec"], old["spec"]
    found: list[Fault] = []
    if before["type"] != "ExternalName" and spec["type"] != "ExternalName" and spec.get("clusterIP"):
        was = before.get("clusterIP")
        if was and spec["clusterIP"] != was:
            found.append(faults.invalid("spec.clusterIPs[0]", spec.get("clusterIPs"), "may not change once set"))
    kept = before.get("loadBalancerClass")
    if spec["type"] == before["type"] == "LoadBalancer" and spec.get("loadBalancerClass") != kept:
        found.append(faults.invalid("spec.loadBalancerClass", spec.get("loadBalancerClass"), "may not change once set"))
    return found


def endpoints(obj: Object) -> list[Fault]:
    """Return every fault of Endpoints."""
    found: list[Fault] = []
    for index, subset in enumerate(obj.get("subsets") or ()):
        at = f"subsets[{index}]"
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            found.append(faults.required(at, "must specify `addresses` or `notReadyAddresses`"))
        for kind in ("addresses", "notReadyAddresses"):
            for inner, each in enumerate(subset.get(kind) or ()):
                found += public_ip(each.get("ip", ""), f"{at}.{kind}[{inner}].ip")
        ports = subset.get("ports") or []
        for inner, port in enumerate(ports):
            if not port.get("name") and len(ports) > 1:
                found.append(faults.required(f"{at}.ports[{inner}].name"))
            found += port_faults(port.get("port", 0), f"{at}.ports[{inner}].port")
            if port.get("protocol") not in _PROTOCOLS:
                found.append(faults.not_supported(f"{at}.ports[{inner}].protocol", port.get("protocol"), _PROTOCOLS))
    return found
