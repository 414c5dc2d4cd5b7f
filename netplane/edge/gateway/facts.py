"""What Gateway API objects say, as facts. What is accepted is `listeners` and `attach`, what it makes `compile`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from netplane.kube.types import Key, Object, Resource
from netplane.model import routing

_UNCHANGED = routing.Headers()
GROUP = "gateway.networking.k8s.io"
CONTROLLER = "netplane.io/gateway"
GATEWAYCLASSES = Resource(GROUP, "v1", "gatewayclasses", "GatewayClass", namespaced=False)
GATEWAYS = Resource(GROUP, "v1", "gateways", "Gateway")
HTTPROUTES = Resource(GROUP, "v1", "httproutes", "HTTPRoute")
REFERENCEGRANTS = Resource(GROUP, "v1beta1", "referencegrants", "ReferenceGrant")
RESOURCES = (GATEWAYCLASSES, GATEWAYS, HTTPROUTES, REFERENCEGRANTS)


@dataclass(frozen=True, slots=True)
class Meta:
    """Which object it is, which state of it, and what its status says now."""

    namespace: str
    name: str
    generation: int = 0
    created: str = ""
    resource_version: str = ""
    status: Object = field(default_factory=dict, hash=False)

    @property
    def key(self) -> Key:
        """(namespace, name)."""
        return self.namespace, self.name

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True)
class Reference:
    """Names another object; `namespace` is filled in, `port` 0 when there is none. `path` is the field it stands in."""

    group: str
    kind: str
    namespace: str
    name: str
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" + (f":{self.port}" if self.port else "")


@dataclass(frozen=True, slots=True)
class GatewayClass:
    """A class of Gateways."""

    meta: Meta
    controller: str
    has_parameters: bool = False


@dataclass(frozen=True, slots=True)
class Listener:
    """One listener of a Gateway. `hostname` is "" for any; `kinds` None when none are named."""

    name: str
    port: int
    protocol: str
    hostname: str = ""
    tls_mode: str = ""
    certificates: tuple[Reference, ...] = ()
    has_client_validation: bool = False
    from_namespaces: str = "Same"
    selector: Mapping[str, object] | None = field(default=None, hash=False)
    kinds: tuple[tuple[str, str], ...] | None = None


@dataclass(frozen=True, slots=True)
class Gateway:
    """A Gateway. `addresses` are (type, value) as asked for."""

    meta: Meta
    class_name: str
    listeners: tuple[Listener, ...]
    addresses: tuple[tuple[str, str], ...] = ()
    has_parameters: bool = False


@dataclass(frozen=True, slots=True)
class Parent:
    """What a route wants to be attached to; `raw` is how the route spells it, for its status."""

    reference: Reference
    section: str = ""
    port: int = 0
    raw: Object = field(default_factory=dict, compare=False, hash=False)


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a rule cannot be served: the reason of the condition, and a sentence that names the field."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Target:
    """One backendRef: where, and its share."""

    reference: Reference
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a route, but for references, which are resolved later. With a fault, only the matches count.

    The matches hold any host: hosts come from the route and the listeners.
    """

    index: int
    matches: tuple[routing.Match, ...] = ()
    targets: tuple[Target, ...] = ()
    mirrors: tuple[tuple[Reference, float], ...] = ()
    redirect: routing.Redirect | None = None
    rewrite_path: routing.PathChange | None = None
    rewrite_host: str = ""
    request_headers: routing.Headers = _UNCHANGED
    response_headers: routing.Headers = _UNCHANGED
    timeout: int = 0
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """An HTTPRoute. No hostnames means every one that a listener has."""

    meta: Meta
    parents: tuple[Parent, ...]
    hostnames: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class Grant:
    """A ReferenceGrant: those of `sources` (group, kind, namespace) may name `targets` (group, kind, name or "")."""

    meta: Meta
    sources: frozenset[tuple[str, str, str]]
    targets: frozenset[tuple[str, str, str]]

    def allows(self, source: tuple[str, str, str], target: Reference) -> bool:
        """Tell whether an object of `source` may refer to the target."""
        if self.meta.namespace != target.namespace or source not in self.sources:
            return False
        return any((target.group, target.kind, name) in self.targets for name in ("", target.name))


@dataclass(frozen=True, slots=True)
class Door:
    """The door that Gateways share: its addresses, what others listen for on it, and ports that are not for it."""

    addresses: tuple[str, ...]
    ports: Mapping[int, str] = field(default_factory=dict)
    reserved: frozenset[int] = frozenset()
