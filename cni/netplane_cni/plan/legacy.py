"""Write plan/masquerade's rules for iptables: the same facts and meaning, for hosts that use its legacy variant.

What nft's maps are, chains are here: NP-CNI-AT and NP-CNI-ALL hold a rule per host port, NP-CNI-HAIRPIN one per pod.
A packet walks those of its protocol one by one, which for the host ports of a node's pods is bearable.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from netplane.kernel.xtables import diff, objects
from netplane.kernel.xtables.objects import Command, Rules, Tables
from netplane.model import address
from netplane_cni.plan import masquerade
from netplane_cni.plan.masquerade import Facts, HostPort

PREFIX = "NP-CNI-"
PORTS, AT, ALL = f"{PREFIX}PORTS", f"{PREFIX}AT", f"{PREFIX}ALL"
POSTROUTING, HAIRPIN, OUTSIDE = f"{PREFIX}POSTROUTING", f"{PREFIX}HAIRPIN", f"{PREFIX}OUTSIDE"
SEGMENTS, SOURCES = f"{PREFIX}SEGMENTS", f"{PREFIX}SOURCES"

UNORDERED = frozenset((AT, ALL, HAIRPIN))
"""Chains in which no two rules meet the same packet: they come and go one by one."""

COMMAND: Mapping[address.Family, Command] = {address.Family.V4: "iptables", address.Family.V6: "ip6tables"}
_LOOPBACK = {address.Family.V4: "127.0.0.0/8", address.Family.V6: "::1/128"}
_MASQUERADE = "-j MASQUERADE --random-fully"

Row = tuple[str, str]
"""A chain of the table nat, and a rule of it."""


def tables(facts: Facts) -> dict[Command, Tables]:
    """Return all that shall be ours, by tool; nothing for a family without pods."""
    return {COMMAND[family]: _tables(family, facts) for family in address.Family}


def rows(ports: Iterable[HostPort]) -> dict[Command, set[Row]]:
    """Return the rules that these translations are."""
    found: dict[Command, set[Row]] = {}
    for port in ports:
        own, there = _host(port.pod), f"-d {_host(port.host_ip)} " if port.host_ip else ""
        match = f"-p {port.protocol} -m {port.protocol} --dport {port.host_port}"
        leads = f"{there}{match} -j DNAT --to-destination {address.with_port(port.pod, port.port)}"
        its = found.setdefault(COMMAND[address.family(port.pod)], set())
        its.add((AT if port.host_ip else ALL, leads))
        # A pod that reaches itself through its host port must not see itself as the peer: it would answer past us.
        its.add((HAIRPIN, f"-s {own} -d {own} {_MASQUERADE}"))
    return found


def changes(want: Tables, have: Tables) -> tuple[str, int]:
    """Return the text that turns `have` into `want`, and how many chains it touches."""
    found = diff.tables(_settled(want), _settled(have))
    # Behind the Services' own translation: a Service that owns the address and port comes first.
    text = re.sub(r"^-I (\S+) 1 ", r"-A \1 ", objects.text(found), flags=re.MULTILINE)
    return text, sum(len(change) for change in found.values())


def exchange(gone: Iterable[Row], added: Iterable[Row]) -> str:
    """Return the text that takes rules out and others in, in one transaction; "" for none."""
    lines = [f"-D {chain} {rule}" for chain, rule in sorted(gone)]
    lines += [f"-A {chain} {rule}" for chain, rule in sorted(added)]
    return "".join(f"{line}\n" for line in ("*nat", *lines, "COMMIT")) if lines else ""


def _tables(family: address.Family, facts: Facts) -> Tables:
    pods = masquerade.merged(prefix for prefix in facts.pods if prefix.family is family)
    if not pods:
        return {}
    found = {"nat": dict(_translation(family, pods, facts))}
    if facts.clamps:
        found["mangle"] = dict(_segments(pods))
    if family is address.Family.V6:
        found["raw"] = {"PREROUTING": (f"-i np+ -j {SOURCES}",), SOURCES: tuple(_sources())}
    return found


def _translation(family: address.Family, pods: list[address.Prefix], facts: Facts) -> Iterator[tuple[str, Rules]]:
    for hook in ("PREROUTING", "OUTPUT"):
        yield hook, (f"-m addrtype --dst-type LOCAL -j {PORTS}",)
    # No 127.0.0.1: it would need route_localnet, which lets the link's neighbours reach loopback services.
    yield PORTS, (f"-d {_LOOPBACK[family]} -j RETURN", f"-j {AT}", f"-j {ALL}")
    held = rows(port for port in masquerade.host_ports(facts.leases)).get(COMMAND[family], set())
    for chain in (AT, ALL, HAIRPIN):
        yield chain, tuple(sorted(rule for at, rule in held if at == chain))
    outside = [f"{_from(pod)}-j {OUTSIDE}" for pod in pods if facts.masquerades]
    yield "POSTROUTING", (f"-j {POSTROUTING}",)
    yield POSTROUTING, (f"-j {HAIRPIN}", *outside)
    if outside:
        inside = masquerade.merged(one for one in (*facts.pods, *facts.inside) if one.family is family)
        multicast = masquerade.MULTICAST[family]
        stays = [f"{f'-d {one} ' if one.length else ''}-j RETURN" for one in inside]
        yield OUTSIDE, (*stays, f"-d {multicast} -j RETURN", _MASQUERADE)


def _segments(pods: list[address.Prefix]) -> Iterator[tuple[str, Rules]]:
    # Both ends learn what the smallest link on the way through this node takes, also where no ICMP comes back.
    clamp = "-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu"
    yield "FORWARD", (f"-j {SEGMENTS}",)
    yield SEGMENTS, tuple(f"{f'{end} {pod} ' if pod.length else ''}{clamp}" for pod in pods for end in ("-s", "-d"))


def _sources() -> Iterator[str]:
    """What rp_filter does for IPv4 and the kernel does not for IPv6: a pod speaks with its own address only."""
    for name in masquerade.TUNNELS:
        yield f"-i {name} -j RETURN"
    yield "-s ::/128 -j RETURN"
    yield "-s fe80::/10 -j RETURN"
    yield "-m rpfilter --invert -j DROP"


def _settled(found: Tables) -> Tables:
    return {
        table: {chain: tuple(sorted(rules)) if chain in UNORDERED else rules for chain, rules in chains.items()}
        for table, chains in found.items()
    }


def _from(prefix: address.Prefix) -> str:
    return f"-s {prefix} " if prefix.length else ""


def _host(ip: address.Packed) -> str:
    return f"{address.text(ip)}/{len(ip) * 8}"
