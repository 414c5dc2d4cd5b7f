"""Give Services their addresses, families and node ports (pkg/registry/core/service/storage/alloc.go).

What is taken and where to begin looking are arguments: the caller knows the other services, and is the only one to
allocate at a time.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.services.defaults import is_external
from netplane.controlplane.registry.services.ranges import Network, gives
from netplane.kube.types import Object

Pick = Callable[[int], int]
"""n to a number from 0 to n-1: where the search begins. Random in a server, anything in a test."""

_GLANCE = 32
_PROXIED = ("ClusterIP", "NodePort", "LoadBalancer")


class Full(Exception):
    """Nothing is left to give. The real server calls that an internal error (500): no field of the Service is wrong."""


@dataclass(frozen=True)
class Ranges:
    """What a cluster has to give. Its `own` ranges, one for each family, say which families it has, the primary first.

    `open` is what addresses are given out of now, if that is not its own alone: any number of ranges of each family.
    """

    own: tuple[Network, ...]
    node_ports: range = range(30000, 32768)
    open: tuple[Network, ...] | None = None

    @cached_property
    def families(self) -> list[str]:
        """`IPv4`, `IPv6` or both, the primary first."""
        return [f"IPv{each.version}" for each in self.own]

    @cached_property
    def networks(self) -> dict[str, list[Network]]:
        """Family to what its addresses are given out of."""
        given = self.own if self.open is None else self.open
        return {family: [each for each in given if f"IPv{each.version}" == family] for family in self.families}


@dataclass(frozen=True, slots=True)
class Taken:
    """What other services hold; the service's own may be among it on updates."""

    addresses: Container[str] = frozenset()
    node_ports: Container[int] = frozenset()


def held(service: Object) -> tuple[frozenset[str], frozenset[int]]:
    """Return the addresses and node ports a service holds."""
    spec = service.get("spec") or {}
    addresses = spec.get("clusterIPs") or ([spec["clusterIP"]] if spec.get("clusterIP") else [])
    ports = {each["nodePort"] for each in spec.get("ports") or () if each.get("nodePort")}
    if spec.get("healthCheckNodePort"):
        ports.add(spec["healthCheckNodePort"])
    return frozenset(each for each in addresses if each != "None"), frozenset(ports)


def allocate(service: Object, old: Object | None, *, ranges: Ranges, taken: Taken, pick: Pick) -> list[Fault]:
    """Fill in, in place, what the service's type needs; with `old`, it may hold what that held.

    Runs after defaults, `prepare_update` and validation. A fault leaves nothing taken, since nothing is kept here.
    Raises `Full` when the range of what the service leaves to the cluster is used up.
    """
    spec = service["spec"]
    found = _families(spec, ranges, is_update=old is not None)
    if found:
        return found
    own_addresses, own_ports = held(old) if old is not None else (frozenset(), frozenset())
    found = _addresses(spec, ranges, _Others(taken.addresses, own_addresses), pick)
    return found + _node_ports(spec, ranges, _Others(taken.node_ports, own_ports), pick)


class _Others:
    """What others hold: all that is taken, without one's own; grows by what is chosen."""

    __slots__ = ("_chosen", "_own", "_taken")

    def __init__(self, taken: Container[Any], own: frozenset[Any]) -> None:
        self._taken = taken
        self._own = own
        self._chosen: set[Any] = set()

    def __contains__(self, value: object) -> bool:
        return value in self._chosen or (value in self._taken and value not in self._own)

    def add(self, value: Any) -> None:
        self._chosen.add(value)

    def is_own(self, value: Any) -> bool:
        return value in self._own


def _is_headless(spec: Object) -> bool:
    return bool(spec.get("clusterIP") == "None" or (spec.get("clusterIPs") or [""])[0] == "None")


def _needs_node_ports(spec: Object) -> bool:
    if spec["type"] == "NodePort":
        return True
    return bool(spec["type"] == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts", True))


def _needs_health_port(spec: Object) -> bool:
    return bool(spec["type"] == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local")


def prepare_update(service: Object, old: Object) -> None:
    """Take over what was given to the service and its client left out; drop what a change of type made meaningless.

    Runs before validation, which refuses what is left: what the client itself changed, and the type cannot have.
    """
    spec, before = service["spec"], old["spec"]
    _carry_over(spec, before)
    _follow_address(spec, before)
    _drop_unneeded(spec, before)


def _carry_over(spec: Object, old: Object) -> None:
    """A client that leaves allocated values out does not mean to give them up."""
    if spec["type"] in _PROXIED and old["type"] in _PROXIED:
        if not spec.get("clusterIP") and not spec.get("clusterIPs") and old.get("clusterIP"):
            spec["clusterIP"], spec["clusterIPs"] = old["clusterIP"], list(old.get("clusterIPs") or [old["clusterIP"]])
        for name in ("ipFamilies", "ipFamilyPolicy"):
            if not spec.get(name) and old.get(name):
                spec[name] = old[name]
    if _has_node_ports(spec) and _has_node_ports(old):
        before = {each.get("name", ""): each.get("nodePort") for each in old.get("ports") or ()}
        used = _node_ports_of(spec)
        for port in spec.get("ports") or ():
            known = before.get(port.get("name", ""))
            if not port.get("nodePort") and known and known not in used:
                port["nodePort"] = known
    if _needs_health_port(spec) and _needs_health_port(old) and not spec.get("healthCheckNodePort"):
        spec["healthCheckNodePort"] = old.get("healthCheckNodePort", 0)


def _follow_address(spec: Object, old: Object) -> None:
    """A client that clears `clusterIP` alone means `clusterIPs` too."""
    if old.get("clusterIP") and not spec.get("clusterIP") and spec.get("clusterIPs") == old.get("clusterIPs"):
        spec.pop("clusterIPs", None)


def _drop_unneeded(spec: Object, old: Object) -> None:
    """Values that a change of type made meaningless go, if the client did not change them itself."""
    if spec["type"] == "ExternalName" and old["type"] != "ExternalName":
        if _is_same(spec, old, "clusterIP", "clusterIPs"):
            _drop(spec, "clusterIP", "clusterIPs")
        for name in ("ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"):
            if _is_same(spec, old, name):
                _drop(spec, name)
    if _has_node_ports(old) and not _has_node_ports(spec) and _node_ports_of(spec) <= _node_ports_of(old):
        for port in spec.get("ports") or ():
            _drop(port, "nodePort")
    if _needs_health_port(old) and not _needs_health_port(spec) and _is_same(spec, old, "healthCheckNodePort"):
        _drop(spec, "healthCheckNodePort")
    if old["type"] == "LoadBalancer" and spec["type"] != "LoadBalancer":
        for name in ("allocateLoadBalancerNodePorts", "loadBalancerClass"):
            if _is_same(spec, old, name):
                _drop(spec, name)
    if is_external(old) and not is_external(spec) and _is_same(spec, old, "externalTrafficPolicy"):
        _drop(spec, "externalTrafficPolicy")


def _has_node_ports(spec: Object) -> bool:
    return spec["type"] in ("NodePort", "LoadBalancer")


def _node_ports_of(spec: Object) -> set[int]:
    return {each["nodePort"] for each in spec.get("ports") or () if each.get("nodePort")}


def _is_same(spec: Object, old: Object, *names: str) -> bool:
    return all(spec.get(name) == old.get(name) for name in names)


def _drop(values: Object, *names: str) -> None:
    for name in names:
        values.pop(name, None)


def _families(spec: Object, ranges: Ranges, *, is_update: bool) -> list[Fault]:
    """Settle `ipFamilyPolicy` and `ipFamilies`; an update to SingleStack gives up the second family."""
    if spec["type"] == "ExternalName":
        return []
    given: list[str] = spec.get("ipFamilies") or []
    addresses: list[str] = [each for each in spec.get("clusterIPs") or () if each != "None"]
    policy = spec.get("ipFamilyPolicy")
    if not policy:
        wants_two = len(given) == 2 or len(addresses) == 2
        if not wants_two and _is_headless(spec) and not spec.get("selector") and not given:
            policy = "RequireDualStack" if len(ranges.own) == 2 else "SingleStack"
        else:
            policy = "RequireDualStack" if wants_two else "SingleStack"
    if is_update and policy == "SingleStack":
        given = given[:1]
        spec["clusterIPs"] = (spec.get("clusterIPs") or [])[:1]
        addresses = addresses[:1]
    found = _family_faults(policy, given, addresses, ranges)
    if found:
        return found
    families = [f"IPv{ipaddress.ip_address(each).version}" for each in addresses] or list(given)
    families += [each for each in given if each not in families]
    families = families or ranges.families[:1]
    if policy != "SingleStack":
        families += [each for each in ranges.families if each not in families]
    spec["ipFamilyPolicy"], spec["ipFamilies"] = policy, families
    return []


def _family_faults(policy: str, given: list[str], addresses: list[str], ranges: Ranges) -> list[Fault]:
    found: list[Fault] = []
    if policy == "RequireDualStack" and len(ranges.own) < 2:
        detail = "this cluster is not configured for dual-stack services"
        found.append(faults.invalid("spec.ipFamilyPolicy", policy, detail))
    if policy == "SingleStack" and (len(given) > 1 or len(addresses) > 1):
        detail = "may only be 'RequireDualStack' or 'PreferDualStack' when multiple 'ipFamilies' are specified"
        found.append(faults.invalid("spec.ipFamilyPolicy", policy, detail))
    implied = [f"IPv{ipaddress.ip_address(each).version}" for each in addresses[len(given) :]]
    for index, family in enumerate([*given, *implied]):
        if family not in ranges.families:
            found.append(faults.invalid(f"spec.ipFamilies[{index}]", family, "not configured on this cluster"))
    for index, (family, address) in enumerate(zip(given, addresses, strict=False)):
        if f"IPv{ipaddress.ip_address(address).version}" != family:
            detail = f"expected an {family} value as indicated by `spec.ipFamilies[{index}]`"
            found.append(faults.invalid(f"spec.clusterIPs[{index}]", address, detail))
    return found


def _addresses(spec: Object, ranges: Ranges, others: _Others, pick: Pick) -> list[Fault]:
    if spec["type"] == "ExternalName" or _is_headless(spec):
        if _is_headless(spec):
            spec["clusterIP"], spec["clusterIPs"] = "None", ["None"]
        return []
    given: list[str] = list(spec.get("clusterIPs") or [])
    chosen: list[str] = []
    for index, family in enumerate(spec["ipFamilies"]):
        networks = ranges.networks[family]
        if index < len(given):
            problem = _unusable(given[index], networks, others)
            if problem:
                detail = f"failed to allocate IP {given[index]}: {problem}"
                return [faults.invalid("spec.clusterIPs", given, detail)]
            chosen.append(given[index])
        else:
            free = _free_address(networks, others, pick)
            if free is None:
                raise Full("failed to allocate a serviceIP: range is full")
            chosen.append(free)
        others.add(chosen[-1])
    spec["clusterIP"], spec["clusterIPs"] = chosen[0], chosen
    return []


def _unusable(address: str, networks: Sequence[Network], others: _Others) -> str:
    if others.is_own(address):
        return ""  # whatever has become of its range
    value = ipaddress.ip_address(address)
    if not any(gives(each, value) for each in networks):
        return "the provided network does not match the current range"
    return "provided IP is already allocated" if address in others else ""


def _free_address(networks: Sequence[Network], others: _Others, pick: Pick) -> str | None:
    """Look in any of the ranges first and then in the others, as the real allocator does, which walks a Go map.

    Of several ranges a few addresses of each are looked at before all: a walk through a full one takes milliseconds.
    """
    if len(networks) == 1:
        return _free_in(networks[0], others, pick)
    start = pick(len(networks)) if networks else 0
    order = [*networks[start:], *networks[:start]]
    glances = (_free_in(each, others, pick, most=_GLANCE) for each in order)
    searches = (_free_in(each, others, pick) for each in order)
    return next((found for found in chain(glances, searches) if found is not None), None)


def _free_in(network: Network, others: _Others, pick: Pick, *, most: int = 0) -> str | None:
    """Look from a random place on; the lowest addresses last, which are kept for those who ask for one by name.

    With `most`, look at so many of the upper ones alone. KEP-3070: the static band holds min(max(16, size/16), 256)
    addresses, none where the range has no more than 16.
    """
    total = network.num_addresses
    stop = total - 1 if network.version == 4 else total
    band = min(max(16, total // 16), 256) if total > 16 else 0
    found = _first_free(band + 1, stop, network, others, pick, most)
    return found if found is not None or most else _first_free(1, band + 1, network, others, pick)


def _first_free(start: int, stop: int, network: Network, others: _Others, pick: Pick, most: int = 0) -> str | None:
    count = stop - start
    if count <= 0:
        return None
    offset = pick(count)
    # However large the range: at most as many steps as there are addresses taken, and one.
    for step in range(min(count, most) if most else count):
        address = str(network[start + (offset + step) % count])
        if address not in others:
            return address
    return None


def _node_ports(spec: Object, ranges: Ranges, others: _Others, pick: Pick) -> list[Fault]:
    ports: list[Object] = spec.get("ports") or []
    found: list[Fault] = []
    by_port: dict[int, int] = {}
    if spec["type"] in ("NodePort", "LoadBalancer"):
        for index, port in enumerate(ports):
            if port.get("nodePort"):
                found += _claim(port["nodePort"], f"spec.ports[{index}].nodePort", ranges, others, by_port.values())
                by_port.setdefault(port["port"], port["nodePort"])
    if found:
        return found
    if _needs_node_ports(spec):
        for port in ports:
            if not port.get("nodePort"):
                # One port number in several protocols gets one node port, so that DNS is one rule at a firewall.
                shared = by_port.get(port["port"]) or _free_port(ranges, others, pick)
                port["nodePort"] = by_port[port["port"]] = shared
                others.add(shared)
    return _health_port(spec, ranges, others, pick)


def _health_port(spec: Object, ranges: Ranges, others: _Others, pick: Pick) -> list[Fault]:
    if not _needs_health_port(spec):
        return []
    if spec.get("healthCheckNodePort"):
        return _claim(spec["healthCheckNodePort"], "spec.healthCheckNodePort", ranges, others, ())
    spec["healthCheckNodePort"] = _free_port(ranges, others, pick)
    return []


def _claim(port: int, field: str, ranges: Ranges, others: _Others, own: Iterable[int]) -> list[Fault]:
    if port not in ranges.node_ports:
        valid = f"{ranges.node_ports.start}-{ranges.node_ports.stop - 1}"
        detail = f"provided port is not in the valid range. The range of valid ports is {valid}"
        return [faults.invalid(field, port, detail)]
    if port in others and port not in own:
        return [faults.invalid(field, port, "provided port is already allocated")]
    others.add(port)
    return []


def _free_port(ranges: Ranges, others: _Others, pick: Pick) -> int:
    count = len(ranges.node_ports)
    offset = pick(count)
    for step in range(count):
        port = ranges.node_ports[(offset + step) % count]
        if port not in others:
            return port
    raise Full("failed to allocate a nodePort: range is full")
