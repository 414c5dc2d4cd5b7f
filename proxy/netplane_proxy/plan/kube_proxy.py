"""Tell what on a host is kube-proxy's, of all its modes, and what removes it. The kubelet's and others' is not touched.

Names are those of kube-proxy's pkg/proxy/iptables, pkg/proxy/ipvs and pkg/proxy/nftables, up to version 1.33.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from netplane.kernel.ipvs.objects import Virtual

LINK = "kube-ipvs0"
NFT_TABLE = "kube-proxy"

# KUBE-FIREWALL, KUBE-KUBELET-CANARY and KUBE-IPTABLES-HINT are the kubelet's; KUBE-ROUTER- and the like are others'.
_CHAIN = re.compile(
    r"KUBE-((SVC|SEP|SVL|EXT|FW|XLB)-[A-Z2-7]{16}|SERVICES|EXTERNAL-SERVICES|NODEPORTS|POSTROUTING|FORWARD|MARK-MASQ"
    r"|MARK-DROP|PROXY-CANARY|PROXY-FIREWALL|NODE-PORT|LOAD-BALANCER|SOURCE-RANGES-FIREWALL|IPVS-FILTER"
    r"|IPVS-OUT-FILTER)"
)
_SET = re.compile(
    r"KUBE-(6-)?(LOOP-BACK|CLUSTER-IP|EXTERNAL-IP(-LOCAL)?|LOAD-BALANCER(-FW|-LOCAL|-SOURCE-IP|-SOURCE-CIDR)?"
    r"|NODE-PORT(-LOCAL)?-(TCP|UDP|SCTP|SCTP-HASH)|HEALTH-CHECK-NODE-PORT|IPVS-IPS)"
)
_NODE_PORT = re.compile(r"add KUBE-(?:6-)?NODE-PORT-(TCP|UDP|SCTP)(?:-HASH)? (?:[^ ]*:)?(\d+)\b")
_PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
_TARGET = re.compile(r"(?:^| )(?:-j|-g) (\S+)")


@dataclass(slots=True)
class _Table:
    name: str
    built_in: set[str] = field(default_factory=set)
    chains: list[str] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)


def sets(names: Iterable[str]) -> list[str]:
    """Return which ipsets are kube-proxy's."""
    return sorted(name for name in names if _SET.fullmatch(name))


def node_ports(listing: str) -> set[tuple[int, int]]:
    """Return protocol and port of all its NodePorts, given what `ipset save` printed."""
    return {(_PROTOCOLS[protocol], int(port)) for protocol, port in _NODE_PORT.findall(listing)}


def servers(
    there: Iterable[Virtual], addresses: Collection[bytes], ports: Collection[tuple[int, int]]
) -> list[Virtual]:
    """Return which virtual servers are its own: those at the addresses of its link, and at NodePorts."""
    return [one for one in there if not one.mark and (one.address in addresses or (one.protocol, one.port) in ports)]


def removal(listing: str) -> str:
    """Return what iptables-restore --noflush shall do, given what iptables-save printed; empty for nothing.

    What a chain that is neither built in nor kube-proxy's jumps to (a CNI plugin told to use KUBE-MARK-MASQ) stays.
    """
    return "".join(line for table in _tables(listing) for line in _removal(table))


def _removal(table: _Table) -> Iterator[str]:
    kept = _kept(table)
    gone = [chain for chain in table.chains if _CHAIN.fullmatch(chain) and chain not in kept]
    if not gone:
        return
    yield f"*{table.name}\n"
    for rule in table.rules:
        chain, target = _ends(rule)
        if target in gone and chain not in gone:
            yield f"-D{rule[2:]}\n"
    yield from (f"-F {chain}\n" for chain in gone)
    yield from (f"-X {chain}\n" for chain in gone)
    yield "COMMIT\n"


def _kept(table: _Table) -> set[str]:
    jumps = [_ends(rule) for rule in table.rules]
    kept = {
        target
        for chain, target in jumps
        if _CHAIN.fullmatch(target) and chain not in table.built_in and not _CHAIN.fullmatch(chain)
    }
    while more := {target for chain, target in jumps if chain in kept and _CHAIN.fullmatch(target)} - kept:
        kept |= more
    return kept


def _ends(rule: str) -> tuple[str, str]:
    # A comment may say anything; what follows -j outside of one is the target.
    bare = re.sub(r'"(\\.|[^"\\])*"', '""', rule)
    target = _TARGET.search(bare)
    return rule.split()[1], target[1] if target else ""


def _tables(listing: str) -> Iterator[_Table]:
    table = _Table("")
    for line in listing.splitlines():
        if line.startswith("*"):
            table = _Table(line[1:])
        elif line.startswith(":"):
            name, policy = line[1:].split()[:2]
            table.chains.append(name)
            if policy != "-":
                table.built_in.add(name)
        elif line.startswith("-A "):
            table.rules.append(line)
        elif line == "COMMIT":
            yield table
