"""What a Pod object says about its place on the network. Its containers are the agent's business."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from netplane.model import address
from netplane.model.service import Key, Protocol


@dataclass(frozen=True, slots=True)
class ContainerPort:
    """A port that a container declares. `host_port` is 0, `host_ip` "" when not asked for."""

    name: str
    protocol: Protocol
    port: int
    host_port: int = 0
    host_ip: str = ""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod: where it runs, under which addresses, and whether it counts."""

    namespace: str
    name: str
    uid: str = ""
    node_name: str = ""
    ips: tuple[address.Packed, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    ports: tuple[ContainerPort, ...] = ()
    phase: str = "Pending"
    host_network: bool = False
    is_ready: bool = False
    is_deleting: bool = False
    revision: str = ""

    @property
    def key(self) -> Key:
        """(namespace, name)."""
        return self.namespace, self.name

    @property
    def is_finished(self) -> bool:
        """Whether it will run no more, so that its addresses are free."""
        return self.phase in ("Succeeded", "Failed")
