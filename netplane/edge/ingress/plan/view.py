"""What the reader of Ingresses is given: the door, the objects as of one moment, and one Ingress while it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from netplane.edge.ingress.plan.options import Options
from netplane.kube.types import Key, Object
from netplane.model.routing import Host
from netplane.model.service import Service


@dataclass(frozen=True, slots=True)
class Door:
    """What a reader has to know of the door."""

    controller: str = "netplane.io/ingress"
    http: int = 80
    https: int = 443
    has_passthrough: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """The objects as of one moment; Services as facts, the others as JSON."""

    ingresses: Mapping[Key, Object]
    classes: Mapping[Key, Object]
    services: Mapping[Key, Service]
    secrets: Mapping[Key, Object]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a user should know about an Ingress; becomes a Warning Event."""

    key: Key
    reason: str
    message: str


@dataclass(slots=True)
class One:
    """One Ingress while it is read."""

    obj: Object
    view: View
    door: Door
    options: Options
    findings: list[Finding]
    closed_hosts: set[Host] = field(default_factory=set)
    """Hosts at which what guards it cannot hold, so that it answers 503 there."""

    @property
    def key(self) -> Key:
        """Its (namespace, name)."""
        return self.obj["metadata"].get("namespace", ""), self.obj["metadata"]["name"]

    def tell(self, reason: str, message: str) -> None:
        """Note what is wrong with it."""
        self.findings.append(Finding(self.key, reason, message))
