"""Name chains and spell rules, as iptables-save prints them (netplane.kernel.xtables.objects).

nat     PREROUTING, OUTPUT -> SERVICES -> D-10.96 -> D-10.96.3 -> D-10.96.3.16 -> I-(port) -> DNAT
                                       -> NODEPORTS -> N-tcp-29952-30207 -> N-tcp-30080-30095 -> X-(port) -> DNAT
        POSTROUTING -> POSTROUTING -> HAIRPIN -> S-10.244 .. -> mark;  what is marked is masqueraded
filter  INPUT, FORWARD, OUTPUT (new connections) -> REFUSE -> D-10.96 .. -> REJECT or DROP
                               (of no known connection) -> STRAYS -> DROP, when a pod sent it

Of a Service port, I is a cluster IP's policy, X that of NodePorts, externalIPs and balancers, F lets a balancer's
source ranges in. C chooses among all its backends and L among those on this node, where several chains lead there; else
the choice stands at the end of the one that does. The filter sees what nat did not translate.
"""

from __future__ import annotations

import hashlib

from netplane.kernel.xtables.objects import Command
from netplane.model import address
from netplane.model.address import Family, Packed, Prefix
from netplane.model.service import Protocol
from netplane_proxy.plan.forwarding import Backend, Place, PortKey

PREFIX = "NETPLANE-"
NAT, FILTER = "nat", "filter"
TABLES = (FILTER, NAT)
"""In the order in which they change: what is refused before what is translated."""

SERVICES = f"{PREFIX}SERVICES"
NODEPORTS = f"{PREFIX}NODEPORTS"
OUTSIDE = f"{PREFIX}OUTSIDE"
HAIRPIN = f"{PREFIX}HAIRPIN"
POSTROUTING = f"{PREFIX}POSTROUTING"
REFUSE = f"{PREFIX}REFUSE"
REFUSED_NODEPORTS = f"{PREFIX}REFUSE-NODEPORTS"
REJECT = f"{PREFIX}REJECT"
STRAYS = f"{PREFIX}STRAYS"

DROP = "-j DROP"
TRANSLATED = "-m conntrack --ctstate DNAT"
FROM_NODE = "-m addrtype --src-type LOCAL"

_DRAWS = 1 << 31
"""Of how many numbers the statistic match draws one (net/netfilter/xt_statistic.c)."""

_HOST_MASK = {Family.V4: "255.255.255.255", Family.V6: ":".join(["ffff"] * 8)}


def command(family: Family) -> Command:
    """Return the tool of a family."""
    return "iptables" if family is Family.V4 else "ip6tables"


def digest(*words: object) -> str:
    """Return 64 bits of hash, as a chain's name has room for."""
    return hashlib.sha256("\0".join(map(str, words)).encode()).hexdigest()[:16]


def port_digest(key: PortKey) -> str:
    """Return what a Service port's chains are named by."""
    return digest(key.namespace, key.service, key.port, key.protocol, key.family)


def chain(kind: str, mark: str) -> str:
    """Return the name of a Service port's chain."""
    return f"{PREFIX}{kind}-{mark}"


def jump(name: str) -> str:
    """Go to a chain, and come back when it has nothing to say."""
    return f"-j {name}"


def join(*parts: str) -> str:
    """Put a rule together from its matches and its target; empty matches match everything."""
    return " ".join(filter(None, parts))


def source(prefix: Prefix) -> str:
    """Match a network as source. iptables-save leaves out the one that everybody is in."""
    return f"-s {prefix}" if prefix.length else ""


def interface(names: str) -> str:
    """Match what comes in by an interface, or by one whose name begins so: `veth*`, which is `veth+` here."""
    return f"-i {names.removesuffix('*')}{'+' * names.endswith('*')}"


def destination(prefix: Prefix) -> str:
    """Match a network as destination."""
    return f"-d {prefix}" if prefix.length else ""


def host(ip: Packed) -> str:
    """Print one address as a network."""
    return f"{address.text(ip)}/{len(ip) * 8}"


def port(protocol: Protocol, first: int, last: int | None = None) -> str:
    """Match a destination port, or a range of them."""
    number = f"{first}" if last in (None, first) else f"{first}:{last}"
    return f"-p {protocol} -m {protocol} --dport {number}"


def place(where: Place) -> str:
    """Match a frontend's place; that of a NodePort has no address."""
    ports = port(where.protocol, where.port)
    return f"-d {host(where.address)} {ports}" if where.address else ports


def mark(bits: int) -> str:
    """Ask for masquerading."""
    return f"-j MARK --set-xmark {bits:#x}/{bits:#x}"


def odds(left: int) -> str:
    """Match one of `left` times; always when there is one left.

    The kernel compares 31 random bits with a number, which is printed as that number's share of 2^31, with as many
    digits as iptables-save has. Rounded once, each of n backends has 1/n to within 2^-31.
    """
    if left <= 1:
        return ""
    return f"-m statistic --mode random --probability {round(_DRAWS / left) / _DRAWS:.11f}"


def dnat(backend: Backend) -> str:
    """Send to a backend."""
    return f"-j DNAT --to-destination {address.with_port(backend.ip, backend.port)}"


def recall(name: str, seconds: int, family: Family) -> str:
    """Match a client that chose this backend less than `seconds` ago, and count it as chosen now."""
    return f"-m recent --update --seconds {seconds} --reap --name {name} --mask {_HOST_MASK[family]} --rsource"


def remember(name: str, family: Family) -> str:
    """Remember that the client chose this backend."""
    return f"-m recent --set --name {name} --mask {_HOST_MASK[family]} --rsource"
