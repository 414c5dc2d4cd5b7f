"""Build Services, EndpointSlices and nodes in a line, for tests of the proxy."""

from __future__ import annotations

from typing import Any

from netplane.model import address
from netplane.model.address import Family
from netplane.model.service import Endpoint, EndpointPort, EndpointSlice, Protocol, Service, ServicePort
from netplane.model.snapshot import Snapshot
from netplane_proxy.plan import ledger, oracle
from netplane_proxy.plan.forwarding import Backend, Forwarding, NodeFacts

HERE = "node-1"
NODE = NodeFacts(
    name=HERE,
    zone="zone-a",
    node_ips=(address.parse("172.30.0.11"), address.parse("fd00:30::11")),
    nodeport_addresses=(address.parse("172.30.0.11"), address.parse("fd00:30::11")),
    pod_cidrs=(address.prefix("10.244.0.0/16"), address.prefix("fd00:244::/48")),
    service_cidrs=(address.prefix("10.96.0.0/16"), address.prefix("fd00:96::/112")),
)


def service(name: str = "web", ips: str = "10.96.0.1", ports: str = "80/tcp", **fields: Any) -> Service:
    """A Service; `ports` reads `http=80/tcp:30080 dns=53/udp`: name, port, protocol and NodePort."""
    return Service("default", name, cluster_ips=ip_list(ips), ports=tuple(map(port, ports.split())), **fields)


def port(text: str) -> ServicePort:
    """Read `http=80/tcp:30080`."""
    name, _, rest = text.rpartition("=")
    number, _, tail = rest.partition("/")
    protocol, _, node_port = tail.partition(":")
    return ServicePort(name, Protocol[protocol.upper()], int(number), node_port=int(node_port or 0))


def endpoint(ip: str, **fields: Any) -> Endpoint:
    """An endpoint; on node-2 unless said otherwise."""
    return Endpoint((address.parse(ip),), **{"node_name": "node-2", **fields})


def local(ip: str, **fields: Any) -> Endpoint:
    """An endpoint on this node."""
    return endpoint(ip, node_name=HERE, **fields)


def draining(one: Endpoint) -> Endpoint:
    """The same endpoint while it terminates and still serves."""
    return Endpoint(one.addresses, ready=False, serving=True, terminating=True, node_name=one.node_name)


def piece(*endpoints: Endpoint, ports: str = "8080/tcp", of: str = "web", name: str = "") -> EndpointSlice:
    """A slice of the Service `of`; its family is that of its first endpoint."""
    rows = [port(text) for text in ports.split()]
    family = address.family(endpoints[0].addresses[0]) if endpoints else Family.V4
    return EndpointSlice(
        "default",
        name or f"{of}-{family.name.lower()}",
        service=of,
        family=family,
        ports=tuple(EndpointPort(row.name, row.protocol, row.port) for row in rows),
        endpoints=endpoints,
    )


def ip_list(text: str) -> tuple[bytes, ...]:
    """Read addresses separated by commas."""
    return tuple(address.parse(part) for part in text.split(",") if part)


def backend(text: str) -> Backend:
    """Read `10.0.0.1:80`."""
    host, _, number = text.rpartition(":")
    return Backend(address.parse(host.strip("[]")), int(number))


def decide(*facts: Service | EndpointSlice, node: NodeFacts = NODE) -> Forwarding:
    """The whole meaning of the facts on a node."""
    services = {fact.key: fact for fact in facts if isinstance(fact, Service)}
    slices = {(fact.namespace, fact.name): fact for fact in facts if isinstance(fact, EndpointSlice)}
    return ledger.of_snapshot(Snapshot("1", services, slices), node)


def ask(packet: str, *facts: Service | EndpointSlice, node: NodeFacts = NODE) -> oracle.Verdict:
    """What becomes of `10.244.1.5 > 10.96.0.1:80/tcp`."""
    return oracle.Oracle(decide(*facts, node=node)).verdict(oracle.parse(packet, node))


def dnat(*backends: str, masquerade: bool = False) -> oracle.Verdict:
    """The verdict that sends to one of these, each equally likely."""
    outcomes = tuple(oracle.Outcome(one, masquerade) for one in sorted(map(backend, backends)))
    return oracle.Verdict(oracle.Action.DNAT, outcomes)


REJECT = oracle.Verdict(oracle.Action.REJECT)
DROP = oracle.Verdict(oracle.Action.DROP)
UNTOUCHED = oracle.Verdict(oracle.Action.UNTOUCHED)
