"""Write the nftables text that translates addresses of pods: masquerade to the outside, host ports to pods.

One table per family, `netplane_cni`, wholly ours and replaced as one: what is in it follows from the facts alone.
Addresses come in packed and ports as numbers, so nothing a user wrote is ever in the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from netplane.model import address
from netplane_cni.plan.ipam import Lease

TABLE = "netplane_cni"
_WORD = {address.Family.V4: "ip", address.Family.V6: "ip6"}
_TYPE = {address.Family.V4: "ipv4_addr", address.Family.V6: "ipv6_addr"}
_MULTICAST = {address.Family.V4: "224.0.0.0/4", address.Family.V6: "ff00::/8"}


@dataclass(frozen=True, slots=True)
class Facts:
    """What the tables follow from: our pods' networks, the networks that are inside, and the leases with host ports."""

    pods: tuple[address.Prefix, ...]
    inside: tuple[address.Prefix, ...]
    leases: tuple[Lease, ...] = ()
    masquerades: bool = True


@dataclass(frozen=True, slots=True, order=True)
class HostPort:
    """One translation: packets to a port of the node go to a pod. `host_ip` is empty for all the node's addresses."""

    protocol: str
    host_ip: address.Packed
    host_port: int
    pod: address.Packed
    port: int

    @property
    def frontend(self) -> tuple[str, address.Packed, int, address.Family]:
        """What no two may share."""
        return self.protocol, self.host_ip, self.host_port, address.family(self.pod)


def host_ports(leases: Iterable[Lease]) -> list[HostPort]:
    """Return the translations that the leases ask for, in order; of two that clash the first lease's."""
    found: dict[tuple[str, address.Packed, int, address.Family], HostPort] = {}
    for lease in sorted(leases, key=lambda lease: lease.key):
        for port in _of(lease):
            found.setdefault(port.frontend, port)
    return sorted(found.values())


def clash(lease: Lease, leases: Iterable[Lease]) -> str:
    """Say which host port of the lease another container holds; "" when none."""
    held = {port.frontend: other for other in leases if other.key != lease.key for port in _of(other)}
    for port in _of(lease):
        other = held.get(port.frontend)
        if other is not None:
            return f"{port.protocol} host port {port.host_port} is held by {other.pod or other.container}"
    return ""


def _of(lease: Lease) -> Iterator[HostPort]:
    if lease.is_leaving:
        return
    for ip in lease.addresses:
        for port in lease.ports:
            if not port.host_ip or len(port.host_ip) == len(ip):
                yield HostPort(port.protocol, port.host_ip, port.host_port, ip, port.container_port)


def text(facts: Facts) -> str:
    """Return nft's text that replaces both tables in one transaction."""
    ports = host_ports(facts.leases)
    parts = []
    for family in address.Family:
        parts.append(_replacement(family, facts, [p for p in ports if address.family(p.pod) is family]))
    return "".join(parts)


def removal() -> str:
    """Return nft's text after which neither table is there."""
    return "".join(f"table {_WORD[f]} {TABLE}\ndelete table {_WORD[f]} {TABLE}\n" for f in address.Family)


def _replacement(family: address.Family, facts: Facts, ports: Sequence[HostPort]) -> str:
    # Naming the table makes it if it is not there, so that deleting it cannot fail.
    word = _WORD[family]
    head = f"table {word} {TABLE}\ndelete table {word} {TABLE}\n"
    pods = [cidr for cidr in facts.pods if cidr.family is family]
    if not pods:
        return head
    inside = [cidr for cidr in (*facts.pods, *facts.inside) if cidr.family is family]
    return head + "\n".join((f"table {word} {TABLE} {{", *_body(family, pods, inside, ports, facts.masquerades), "}\n"))


def _body(
    family: address.Family,
    pods: Sequence[address.Prefix],
    inside: Sequence[address.Prefix],
    ports: Sequence[HostPort],
    masquerades: bool,
) -> Iterator[str]:
    word, kind = _WORD[family], _TYPE[family]
    everywhere = [f"{p.protocol} . {p.host_port} : {_target(p)}" for p in ports if not p.host_ip]
    somewhere = [f"{address.text(p.host_ip)} . {p.protocol} . {p.host_port} : {_target(p)}" for p in ports if p.host_ip]
    hairpins = sorted({f"{address.text(p.pod)} . {address.text(p.pod)}" for p in ports})
    yield from _set("set pods", f"{kind}; flags interval", merged(pods))
    yield from _set("set inside", f"{kind}; flags interval", merged(inside))
    yield from _set("map hostports", f"inet_proto . inet_service : {kind} . inet_service", everywhere)
    yield from _set("map hostports_at", f"{kind} . inet_proto . inet_service : {kind} . inet_service", somewhere)
    yield from _set("set hairpin", f"{kind} . {kind}", hairpins)
    for hook in ("prerouting", "output"):
        # After the Services' own translation: a Service that owns the address and port comes first.
        yield f"  chain {hook} {{"
        yield f"    type nat hook {hook} priority -90; policy accept;"
        if ports:
            # No 127.0.0.1: it would need route_localnet, which lets the link's neighbours reach loopback services.
            yield f"    {word} daddr {'127.0.0.0/8' if family is address.Family.V4 else '::1'} return"
            yield "    fib daddr type local jump to_pods"
        yield "  }"
    yield "  chain to_pods {"
    yield f"    dnat {word} to {word} daddr . meta l4proto . th dport map @hostports_at"
    yield f"    dnat {word} to meta l4proto . th dport map @hostports"
    yield "  }"
    yield "  chain postrouting {"
    yield "    type nat hook postrouting priority 100; policy accept;"
    # A pod that reaches itself through its host port must not see itself as the peer: it would answer past us.
    yield f"    {word} saddr . {word} daddr @hairpin masquerade fully-random"
    if masquerades:
        # fully-random: two flows that pick the same port at once would lose a packet, by DNS's 5 seconds.
        outside = f"{word} daddr != @inside {word} daddr != {_MULTICAST[family]}"
        yield f"    {word} saddr @pods {outside} masquerade fully-random"
    yield "  }"


def _set(name: str, kind: str, elements: Sequence[str]) -> Iterator[str]:
    yield f"  {name} {{"
    yield f"    type {kind};"
    if elements:
        yield f"    elements = {{ {', '.join(elements)} }}"
    yield "  }"


def _target(port: HostPort) -> str:
    return f"{address.text(port.pod)} . {port.port}"


def merged(prefixes: Iterable[address.Prefix]) -> list[str]:
    """Return the networks without those inside others and with neighbours joined, as nft and people write them.

    5,000 nodes' networks that fill one cluster network become one element.
    """
    left = sorted(set(prefixes), key=lambda p: (p.network, p.length))
    joined: list[address.Prefix] = []
    for prefix in left:
        if joined and prefix.network in joined[-1]:
            continue
        joined.append(prefix)
        while len(joined) > 1 and (whole := _union(joined[-2], joined[-1])):
            joined[-2:] = [whole]
    return [str(prefix) for prefix in joined]


def _union(low: address.Prefix, high: address.Prefix) -> address.Prefix | None:
    if low.length != high.length or low.length == 0:
        return None
    whole = address.Prefix(low.network, low.length - 1)
    width = len(low.network) * 8
    is_aligned = int.from_bytes(low.network, "big") % (1 << (width - whole.length)) == 0
    return whole if is_aligned and high.network in whole else None
