"""Say of any one packet what becomes of it, and why. It is slow and plain; every compiler must agree with it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from netplane.model import address
from netplane.model.address import Packed
from netplane.model.service import Protocol
from netplane_proxy.plan import ledger
from netplane_proxy.plan.forwarding import (
    Backend,
    Forwarding,
    Frontend,
    Kind,
    NodeFacts,
    Place,
    PortForwarding,
    PortKey,
    may_stray,
)


class Action(enum.Enum):
    """What happens to the first packet of a connection, and so to all of it."""

    UNTOUCHED = "untouched"
    DNAT = "dnat"
    REJECT = "reject"
    DROP = "drop"


class Packet(NamedTuple):
    """The first packet of a connection as the node sees it: from a pod, from outside, or its own (`from_node`).

    `interface` is where it came in, which matters where pods are known by that.
    """

    source: Packed
    destination: Packed
    protocol: Protocol
    port: int
    from_node: bool = False
    interface: str = ""

    def __str__(self) -> str:
        """Print `10.0.1.5 > 10.96.0.1:80/tcp`."""
        source = f"node {address.text(self.source)}" if self.from_node else address.text(self.source)
        where = f" on {self.interface}" if self.interface else ""
        return f"{source}{where} > {address.with_port(self.destination, self.port)}/{self.protocol}"


class Outcome(NamedTuple):
    """One place where a connection may end, and whether the node puts its own address as the source."""

    backend: Backend
    masquerade: bool

    def __str__(self) -> str:
        """Print `10.0.2.9:8080 masqueraded`."""
        return f"{self.backend} masqueraded" if self.masquerade else str(self.backend)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a packet. With DNAT each of `outcomes` is equally likely; `reason` says in words why."""

    action: Action
    outcomes: tuple[Outcome, ...] = ()
    reason: str = field(default="", compare=False)

    def __str__(self) -> str:
        """Print `dnat to 10.0.2.9:8080 (default/web:http has 1 backend)`."""
        goal = f" to {', '.join(map(str, self.outcomes))}" if self.outcomes else ""
        return f"{self.action.value}{goal} ({self.reason})"


class AffinityKey(NamedTuple):
    """What ClientIP affinity remembers a backend by: the client, the Service port, and which list it was taken from.

    A client that uses both the cluster's and the local backends of a port has one memory for each, so that Local policy
    never sends it to another node.
    """

    client: Packed
    port: PortKey
    is_local: bool


class Oracle:
    """Answers for one Forwarding."""

    def __init__(self, forwarding: Forwarding) -> None:
        """Index the rows by place."""
        self._node = forwarding.node
        self._rows = ledger.by_place(forwarding.ports)
        self._backends = {(row.key.protocol, one) for row in forwarding.ports.values() if row.frontends
                          for one in (*row.cluster, *row.local)}  # fmt: skip
        self._hairpin = frozenset(ip for row in forwarding.ports.values() for ip in row.hairpin)
        self._cluster_ips = {
            frontend.address
            for _, frontend in self._rows.values()
            if frontend.kind in (Kind.INTERNAL, Kind.INTERNAL_LOCAL)
        }

    def verdict(self, packet: Packet, *, affinity: Mapping[AffinityKey, Backend] | None = None) -> Verdict:
        """Say what becomes of the packet, given whom its client is bound to."""
        hit = self._frontend(packet)
        if hit is None:
            return self._unserved(packet)
        row, frontend = hit
        name = f"{row.key} at {frontend}"
        ranges = frontend.source_ranges
        if ranges is not None and not address.any_contains(ranges, packet.source):
            return Verdict(Action.DROP, reason=f"{name} lets only {', '.join(map(str, ranges))} in")
        is_local, masquerade, why = _policy(frontend.kind, packet, self._node)
        backends = row.local if is_local else row.cluster
        if not backends:
            return _without_backends(row, name)
        key = AffinityKey(packet.source, row.key, is_local)
        bound = (affinity or {}).get(key) if row.affinity_seconds else None
        if bound is not None and bound in backends:
            backends, why = (bound,), f"{why}, and the client is bound to {bound}"
        outcomes = tuple(
            Outcome(backend, masquerade or (packet.source == backend.ip and backend.ip in self._hairpin))
            for backend in backends
        )
        return Verdict(Action.DNAT, outcomes, f"{name}: {why}")

    def stray(self, sender: Backend, protocol: Protocol, *, interface: str = "") -> Verdict:
        """Say what becomes of a packet that connection tracking calls INVALID, by who sends it to whomever.

        Only the nftables backend does anything about it.
        """
        who = f"{sender}/{protocol}"
        if may_stray(protocol):
            if self._node.is_pod(sender.ip, interface):
                return Verdict(Action.DROP, reason=f"{who} is a pod's, and fits no connection")
            if (protocol, sender) in self._backends:
                return Verdict(Action.DROP, reason=f"{who} is a backend, and fits no connection")
        return Verdict(Action.UNTOUCHED, reason=f"{who} has no part in Services")

    def affinity_key(self, packet: Packet) -> AffinityKey | None:
        """Return by what the packet's client is remembered; None where it is not."""
        hit = self._frontend(packet)
        if hit is None or not hit[0].affinity_seconds:
            return None
        is_local, _, _ = _policy(hit[1].kind, packet, self._node)
        return AffinityKey(packet.source, hit[0].key, is_local)

    def _frontend(self, packet: Packet) -> tuple[PortForwarding, Frontend] | None:
        family = address.family(packet.destination)
        hit = self._rows.get((family, Place(packet.destination, packet.protocol, packet.port)))
        if hit is None and packet.destination in self._node.nodeport_addresses:
            hit = self._rows.get((family, Place(b"", packet.protocol, packet.port)))
        return hit

    def _unserved(self, packet: Packet) -> Verdict:
        where = address.text(packet.destination)
        aim = f"port {packet.port}/{packet.protocol}"
        if packet.destination in self._cluster_ips:
            return Verdict(Action.REJECT, reason=f"{where} is a cluster IP without {aim}")
        if address.any_contains(self._node.service_cidrs, packet.destination):
            return Verdict(Action.REJECT, reason=f"{where} is a Service address that nobody has")
        return Verdict(Action.UNTOUCHED, reason=f"{where} {aim} is no Service's")


def _policy(kind: Kind, packet: Packet, node: NodeFacts) -> tuple[bool, bool, str]:
    """Return whether the local backends serve, whether the source is replaced, and the reason."""
    knows_pods = node.knows_pods(address.family(packet.source))
    is_pod = node.is_pod(packet.source, packet.interface)
    if kind is Kind.EXTERNAL:
        return False, True, "external traffic goes to any backend, masqueraded"
    if kind is Kind.EXTERNAL_LOCAL:
        if is_pod:
            return False, False, "a pod goes to any backend, for it is inside"
        if packet.from_node:
            return False, True, "the node itself goes to any backend, masqueraded"
        return True, False, "externalTrafficPolicy Local keeps to this node's backends and the client's address"
    is_local = kind is Kind.INTERNAL_LOCAL
    whose = "this node's backends (internalTrafficPolicy Local)" if is_local else "any backend"
    if node.masquerade_all:
        return is_local, True, f"all go to {whose}, masqueraded as configured"
    if knows_pods and not is_pod:
        return is_local, True, f"one who is no pod goes to {whose}, masqueraded"
    return is_local, False, f"a pod goes to {whose}"


def _without_backends(row: PortForwarding, name: str) -> Verdict:
    if row.cluster:
        return Verdict(Action.DROP, reason=f"{name}: the policy is Local and no backend is on this node")
    return Verdict(Action.REJECT, reason=f"{name} has no backend")


def parse(text: str, node: NodeFacts) -> Packet:
    """Read `10.0.1.5 > 10.96.0.1:80/tcp`; the source `node` stands for the node's own address in that family.

    `10.0.1.5 on cbr0 > ...` says where it came in.
    """
    source, _, target = text.partition(" > ")
    source, _, interface = source.partition(" on ")
    where, _, protocol = target.partition("/")
    host, _, port = where.rpartition(":")
    destination = address.parse(host.strip("[]"))
    from_node = source.strip() == "node"
    if from_node:
        origin = next(ip for ip in node.node_ips if len(ip) == len(destination))
    else:
        origin = address.parse(source.strip().strip("[]"))
    return Packet(origin, destination, Protocol[protocol.upper()], int(port), from_node, interface.strip())
