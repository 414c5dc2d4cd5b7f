"""Read Gateway API objects as the controller does, without one: a cluster in memory, and what it says of statuses."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from netplane.edge.gateway import decode, read
from netplane.edge.gateway.facts import Door
from netplane.edge.gateway.listeners import Pair
from netplane.edge.gateway.read import Reading
from netplane.kube.types import Key, Object, key_of
from netplane.model import routing, service

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DOOR = Door(("203.0.113.10",), {80: "HTTP", 443: "HTTPS"}, frozenset({10254}))
_KINDS = {"GatewayClass": "classes", "Gateway": "gateways", "HTTPRoute": "routes", "ReferenceGrant": "grants"}
_DECODE = {
    "GatewayClass": decode.gateway_class,
    "Gateway": decode.gateway,
    "HTTPRoute": decode.http_route,
    "ReferenceGrant": decode.reference_grant,
}


@dataclass
class Cluster:
    """Objects, and what refers to them. `services` are (namespace/)name to ports."""

    objects: list[Object]
    services: Mapping[str, int] = field(default_factory=dict)
    secrets: Mapping[str, Pair | str] = field(default_factory=dict)
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    door: Door = DOOR

    def read(self, now: datetime = NOW) -> Reading:
        """Read everything."""
        found: dict[str, dict[Key, object]] = {name: {} for name in _KINDS.values()}
        for obj in self.objects:
            found[_KINDS[obj["kind"]]][_key(obj)] = _DECODE[obj["kind"]](obj)
        services = {
            _named(name): service.Service(*_named(name), ports=(service.ServicePort("", service.Protocol.TCP, port),))
            for name, port in self.services.items()
        }
        pairs = {_named(name): pair for name, pair in self.secrets.items()}
        objects = read.Objects(**found, namespaces=self.namespaces, services=services)  # type: ignore[arg-type]
        return read.read(objects, lambda key: pairs.get(key, "the Secret is not there"), self.door, now)

    def settle(self, now: datetime = NOW) -> Reading:
        """Read, and store the statuses as the API server would."""
        reading = self.read(now)
        for write in reading.statuses:
            (obj,) = [o for o in self.objects if o["kind"] == write.resource.kind and _key(o) == write.key]
            obj["status"] = copy.deepcopy(write.status)
        return reading

    def object(self, kind: str, name: str) -> Object:
        """Return an object by kind and (namespace/)name."""
        namespace, _, plain = name.rpartition("/")
        wanted = (namespace or ("" if kind == "GatewayClass" else "default"), plain)
        (found,) = [each for each in self.objects if each["kind"] == kind and _key(each) == wanted]
        return found


def _key(obj: Object) -> Key:
    return key_of(obj)


def _named(name: str) -> Key:
    namespace, _, plain = name.rpartition("/")
    return namespace or "default", plain


def conditions(entries: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return conditions in short: type to `True` or `False Reason`."""
    return {
        each["type"]: each["status"]
        if each["status"] == "True" and each["reason"] in (each["type"],)
        else f"{each['status']} {each['reason']}"
        for each in entries
    }


def of_route(cluster: Cluster, name: str) -> dict[str, str]:
    """Return the conditions of a route's only parent, in short; empty when it has none."""
    parents = cluster.object("HTTPRoute", name).get("status", {}).get("parents") or []
    assert len(parents) <= 1
    return conditions(parents[0]["conditions"]) if parents else {}


def of_gateway(cluster: Cluster, name: str = "door") -> dict[str, str]:
    """Return the conditions of a Gateway, in short."""
    return conditions(cluster.object("Gateway", name)["status"]["conditions"])


def of_listener(cluster: Cluster, listener: str, name: str = "door") -> dict[str, str]:
    """Return the conditions of a listener, in short."""
    entries = cluster.object("Gateway", name)["status"]["listeners"]
    (found,) = [each for each in entries if each["name"] == listener]
    return conditions(found["conditions"])


def attached(cluster: Cluster, listener: str, name: str = "door") -> int:
    """Return how many routes a listener says are attached."""
    entries = cluster.object("Gateway", name)["status"]["listeners"]
    return int(next(each["attachedRoutes"] for each in entries if each["name"] == listener))


def where(reading: read.Reading) -> list[tuple[str, str, str, tuple[int, ...]]]:
    """Return what is routed, in short: (owner, host pattern, path, ports)."""
    return [
        (each.owner.name, pattern(each.match.host), each.match.path.value, tuple(sorted(each.ports)))
        for each in reading.routing.routes
    ]


def pattern(host: routing.Host) -> str:
    """Print a host: `a.b`, `*.b`, `*`."""
    return {"any": "*", "suffix": f"*.{host.name}", "label": f"?.{host.name}", "exact": host.name}[host.kind]
