"""NodePorts at the loopback addresses, for iptables and IPVS, which alone could do so only by route_localnet.

A loopback address can neither leave the node nor be answered to. So two nftables chains give connections to a
NodePort there the node's own address as source, before anything is tracked, and their answers the loopback address at
the very end. They are stateless, and every packet that is not sent from the loopback address passes at its first look.
Beside iptables they are a table of their own, where one more counts connections, as kube-proxy does; beside IPVS they
stand in the table that is there anyway.
"""

from __future__ import annotations

import hashlib

from netplane.kernel.nft.objects import IPV4, IPV6, PORT, PROTOCOL, Element, Set, Table
from netplane.model import address
from netplane.model.address import Family, Packed
from netplane_proxy.plan.forwarding import NodeFacts, PortForwarding
from netplane_proxy.plan.host import LOOPBACK

TABLE = "netplane_localhost"

PORTS = {
    family: Set(Table(number, TABLE), "nodeports", (PROTOCOL, PORT))
    for family, number in ((Family.V4, IPV4), (Family.V6, IPV6))
}
"""The set of NodePorts of each family's table."""


def speaker(node: NodeFacts, family: Family) -> Packed | None:
    """Return the address that connections get as source; None when NodePorts do not stand at the loopback address."""
    if LOOPBACK[family] not in node.nodeport_addresses:
        return None
    return next((ip for ip in node.node_ips if address.family(ip) is family and ip != LOOPBACK[family]), None)


def ports(row: PortForwarding) -> frozenset[Element]:
    """Return the elements of a Service port's NodePorts."""
    here = (frontend for frontend in row.frontends if frontend.address is None)
    return frozenset(Element(bytes((one.protocol, 0, 0, 0)) + one.port.to_bytes(2, "big") + b"\0\0") for one in here)


def chains(family: Family, own: Packed) -> dict[str, tuple[str, ...]]:
    """Return the chains, which ask a set `nodeports`; their names tell what they hold."""
    ip, here, node = ("ip" if family is Family.V4 else "ip6"), address.text(LOOPBACK[family]), address.text(own)
    mark = _mark(own)
    return {
        f"from_{mark}": (
            "type route hook output priority -350; policy accept;",
            f"{ip} saddr {here} {ip} daddr {here} meta l4proto . th dport @nodeports {ip} saddr set {node}",
        ),
        f"to_{mark}": (
            "type filter hook input priority 110; policy accept;",
            f"{ip} saddr {here} {ip} daddr {node} meta l4proto . th sport @nodeports {ip} daddr set {here}",
        ),
    }


def counter(own: Packed) -> str:
    """Return the name of the chain that counts connections."""
    return f"count_{_mark(own)}"


def counting(family: Family, own: Packed) -> dict[str, tuple[str, ...]]:
    """Return the chain that counts connections to NodePorts at the loopback address: of each its first packet."""
    ip, here = ("ip" if family is Family.V4 else "ip6"), address.text(LOOPBACK[family])
    return {
        counter(own): (
            "type nat hook output priority -110; policy accept;",
            f"{ip} daddr {here} meta l4proto . th dport @nodeports counter",
        )
    }


def _mark(own: Packed) -> str:
    return hashlib.sha256(f"1 {address.text(own)}".encode()).hexdigest()[:8]


def removal(family: Family) -> str:
    """Print what removes the table whether it is there or not."""
    table = PORTS[family].table
    return f"table {table} {{}}\ndelete table {table}\n"


def text(family: Family, own: Packed) -> str:
    """Print the table, without elements."""
    lines = [f"\t{PORTS[family].declaration}"]
    for name, rules in (chains(family, own) | counting(family, own)).items():
        lines += [f"\tchain {name} {{", *(f"\t\t{rule}" for rule in rules), "\t}"]
    return "\n".join([f"table {PORTS[family].table} {{", *lines, "}\n"])
