"""Build what happens at one Service port in a line, for tests of backends: no Services, no slices."""

from __future__ import annotations

from collections.abc import Iterable

from netplane.model import address
from netplane.model.address import Family, Prefix
from netplane.model.service import Protocol
from netplane_proxy.plan.forwarding import Backend, Forwarding, Frontend, Kind, NodeFacts, PortForwarding, PortKey

VIPS = {Family.V4: "10.96.0.{}", Family.V6: "fd00:96::{:x}"}
EXTERNAL = {Family.V4: "192.0.2.{}", Family.V6: "2001:db8::{:x}"}
TCP, UDP = Protocol.TCP, Protocol.UDP


def vip(family: Family, number: int = 1) -> str:
    """A cluster IP."""
    return VIPS[family].format(number)


def external(family: Family, number: int = 1) -> str:
    """A balancer's address."""
    return EXTERNAL[family].format(number)


def cluster_ip(
    family: Family, number: int = 1, *, protocol: Protocol = TCP, port: int = 80, local: bool = False
) -> Frontend:
    """A frontend at a cluster IP."""
    kind = Kind.INTERNAL_LOCAL if local else Kind.INTERNAL
    return Frontend(address.parse(vip(family, number)), protocol, port, kind)


def node_port(port: int = 30080, *, protocol: Protocol = TCP, local: bool = False) -> Frontend:
    """A frontend at a NodePort."""
    return Frontend(None, protocol, port, Kind.EXTERNAL_LOCAL if local else Kind.EXTERNAL)


def balancer(
    family: Family,
    number: int = 1,
    *,
    protocol: Protocol = TCP,
    local: bool = False,
    ranges: Iterable[str] | None = None,
) -> Frontend:
    """A frontend at a balancer's address."""
    allowed: tuple[Prefix, ...] | None = None if ranges is None else tuple(sorted(map(address.prefix, ranges)))
    kind = Kind.EXTERNAL_LOCAL if local else Kind.EXTERNAL
    return Frontend(address.parse(external(family, number)), protocol, 80, kind, allowed)


def service_port(
    *frontends: Frontend,
    cluster: Iterable[Backend] = (),
    local: Iterable[Backend] = (),
    affinity: int = 0,
    name: str = "web",
    family: Family | None = None,
    hairpin: Iterable[bytes] | None = None,
) -> PortForwarding:
    """A Service port; its family is that of its first backend or address. All its backends may come to themselves."""
    cluster, local = tuple(sorted(cluster)), tuple(sorted(local))
    known = [one.ip for one in (*cluster, *local)] + [one.address for one in frontends if one.address]
    found = family or address.family(known[0])
    own = {one.ip for one in (*cluster, *local)} if hairpin is None else set(hairpin)
    key = PortKey("default", name, "http", frontends[0].protocol if frontends else TCP, found)
    return PortForwarding(key, cluster, local, affinity, tuple(frontends), tuple(sorted(own)))


def forwarding(*ports: PortForwarding, node: NodeFacts) -> Forwarding:
    """The whole meaning of some Service ports."""
    return Forwarding("1", {port.key: port for port in ports}, node)
