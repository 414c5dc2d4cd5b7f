"""Virtual servers, their destinations, and changes of them as data. Their netlink form is wire's."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

IPV4, IPV6 = 2, 10

HASH_FALLBACK = 0x8
"""For the schedulers that hash (sh, mh): go on to another destination when the one chosen has no weight."""

_PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}


class Virtual(NamedTuple):
    """What a virtual server is known by: family, protocol, address and port; or a packet mark, and no address then."""

    family: int
    protocol: int
    address: bytes
    port: int
    mark: int = 0

    def __str__(self) -> str:
        """Print `tcp 10.96.0.1:80` or `mark 0x6e000001`."""
        if self.mark:
            return f"{'' if self.family == IPV4 else 'IPv6 '}mark {self.mark:#x}"
        return f"{_PROTOCOLS.get(self.protocol, self.protocol)} {place(self.address, self.port)}"


class Scheduling(NamedTuple):
    """How a virtual server chooses: scheduler by name, its flags, and for how many seconds a client stays (0: not)."""

    scheduler: str = "rr"
    flags: int = 0
    persistence: int = 0


class Destination(NamedTuple):
    """Where connections are sent, by translation of the destination address (masquerading, in IPVS's words)."""

    address: bytes
    port: int

    def __str__(self) -> str:
        """Print `10.244.1.5:8080`."""
        return place(self.address, self.port)


class Connection(NamedTuple):
    """A connection as its client began it, and where it is sent."""

    protocol: int
    source: bytes
    source_port: int
    address: bytes
    port: int
    destination: Destination


class Load(NamedTuple):
    """What the kernel tells of a destination. A weight of 0 takes no new connections and keeps those there are."""

    weight: int
    connections: int = 0


@dataclass(frozen=True, slots=True)
class Server:
    """What a virtual server should be. Weight 0 means: no new connections, if it is there at all."""

    scheduling: Scheduling
    weights: Mapping[Destination, int] = field(default_factory=dict)


@dataclass(slots=True)
class Held:
    """What a virtual server is in the kernel."""

    scheduling: Scheduling
    loads: dict[Destination, Load] = field(default_factory=dict)


Verb = Literal["add", "set", "remove"]


class Change(NamedTuple):
    """One change: of a virtual server when there is no destination, else of that destination's weight in it."""

    verb: Verb
    virtual: Virtual
    destination: Destination | None = None
    weight: int = 0
    scheduling: Scheduling = Scheduling()

    def __str__(self) -> str:
        """Print `add destination 10.244.1.5:8080 weight 1 to tcp 10.96.0.1:80`."""
        if self.destination is None:
            how = f" {self.scheduling.scheduler}" if self.verb != "remove" else ""
            return f"{self.verb} virtual server {self.virtual}{how}"
        weight = f" weight {self.weight}" if self.verb != "remove" else ""
        return f"{self.verb} destination {self.destination}{weight} of {self.virtual}"


def place(address: bytes, port: int) -> str:
    """Print address and port."""
    shown = ipaddress.ip_address(address)
    return f"{shown}:{port}" if shown.version == 4 else f"[{shown}]:{port}"
