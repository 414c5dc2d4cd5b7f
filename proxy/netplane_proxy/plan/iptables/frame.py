"""The chains that every node has: where packets enter, and how they leave. They follow from the node's facts alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from netplane.kernel.xtables.objects import Rules
from netplane.model import address
from netplane.model.address import Family, Packed, Prefix
from netplane.model.service import Protocol
from netplane_proxy.plan.forwarding import NodeFacts, may_stray
from netplane_proxy.plan.iptables import layout
from netplane_proxy.plan.iptables.layout import FILTER, NAT, TRANSLATED, join, jump

Masquerade = Literal["outside", "all", "never"]

_RESET = "-p tcp -j REJECT --reject-with tcp-reset"
_UNREACHABLE = {
    Family.V4: "-j REJECT --reject-with icmp-port-unreachable",
    Family.V6: "-j REJECT --reject-with icmp6-port-unreachable",
}


@dataclass(frozen=True, slots=True)
class Frame:
    """What a family's rules depend on beside the Services. `pods` are matches of which a pod's packet fits one."""

    family: Family
    mark: int
    masquerade: Masquerade
    pods: tuple[str, ...]
    service_cidrs: tuple[Prefix, ...]
    nodeport_addresses: tuple[Packed, ...]

    @property
    def mark_outside(self) -> str:
        """The rule that marks those who are no pods; "" when there is nobody to mark."""
        if self.masquerade != "outside" or not all(self.pods):
            return ""
        if len(self.pods) == 1:
            return f"! {self.pods[0]} {layout.mark(self.mark)}"
        return jump(layout.OUTSIDE)


def of_node(node: NodeFacts, family: Family) -> Frame:
    """Say what a node's facts are for one family."""
    pods = tuple(map(layout.source, _of(family, node.pod_cidrs)))
    if node.pod_interfaces:
        pods = (layout.interface(node.pod_interfaces),)
    return Frame(
        family,
        1 << node.masquerade_bit,
        "all" if node.masquerade_all else "outside" if pods else "never",
        pods,
        _of(family, node.service_cidrs),
        tuple(ip for ip in node.nodeport_addresses if address.family(ip) is family),
    )


def _of(family: Family, prefixes: Iterable[Prefix]) -> tuple[Prefix, ...]:
    return tuple(dict.fromkeys(prefix for prefix in prefixes if prefix.family is family))


def chains(frame: Frame) -> dict[str, dict[str, Rules]]:
    """Return the chains by table. Of SERVICES and REFUSE, what follows after their trees."""
    to_nodeports, to_refused = (
        tuple(f"-d {layout.host(ip)} {jump(chain)}" for ip in frame.nodeport_addresses)
        for chain in (layout.NODEPORTS, layout.REFUSED_NODEPORTS)
    )
    nobodys = tuple(join(layout.destination(prefix), jump(layout.REJECT)) for prefix in frame.service_cidrs)
    nat = {
        "PREROUTING": (jump(layout.SERVICES),),
        "OUTPUT": (jump(layout.SERVICES),),
        "POSTROUTING": (jump(layout.POSTROUTING),),
        layout.SERVICES: to_nodeports,
        layout.NODEPORTS: (),
        layout.HAIRPIN: (),
        layout.POSTROUTING: _postrouting(frame.mark),
    }
    if frame.mark_outside == jump(layout.OUTSIDE):
        pods = (join(match, "-j RETURN") for match in frame.pods)
        nat[layout.OUTSIDE] = (*pods, layout.mark(frame.mark))
    looks = [f"-m conntrack --ctstate NEW {jump(layout.REFUSE)}"]
    strays = tuple(_strays(frame.pods))
    if strays:
        looks.append(f"-m conntrack --ctstate INVALID {jump(layout.STRAYS)}")
    filtered = {
        **dict.fromkeys(("INPUT", "FORWARD", "OUTPUT"), tuple(looks)),
        **({layout.STRAYS: strays} if strays else {}),
        layout.REFUSE: (*to_refused, *nobodys),
        layout.REFUSED_NODEPORTS: (),
        layout.REJECT: (_RESET, _UNREACHABLE[frame.family]),
    }
    return {FILTER: filtered, NAT: nat}


def _strays(pods: Iterable[str]) -> Iterator[str]:
    """Yield what keeps pods' packets of no known connection from clients: see forwarding.may_stray."""
    for match in pods:
        for protocol in filter(may_stray, Protocol):
            yield join(match, f"-p {protocol}", layout.DROP)


def before(chain: str) -> Rules:
    """Return what stands in a chain before its tree."""
    return (f"{TRANSLATED} -j RETURN",) if chain == layout.REFUSE else ()


def _postrouting(mark: int) -> Rules:
    return (
        f"{TRANSLATED} {jump(layout.HAIRPIN)}",
        f"-m mark ! --mark {mark:#x}/{mark:#x} -j RETURN",
        f"-j MARK --set-xmark {mark:#x}/0x0",
        "-j MASQUERADE --random-fully",
    )
