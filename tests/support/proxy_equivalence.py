"""Compare what a kernel did with packets with what the oracle says. Which kernel, by which backend, is the tests'."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Hashable, Iterable, Sequence
from typing import Any, TypeVar

from netplane.kernel import netns
from netplane.model import address
from netplane.model.address import Family
from netplane.model.service import Endpoint, Protocol
from netplane.model.snapshot import Snapshot
from netplane_proxy.plan import ledger, oracle
from netplane_proxy.plan.forwarding import Backend, Forwarding
from netplane_proxy.plan.host import LOOPBACK
from netplane_proxy.plan.meaning import Meaning
from netplane_proxy.run.target import Target
from tests.support.clusters import NODE, decide, piece, service
from tests.support.packet_lab import Left, PacketLab
from tests.support.random_clusters import at, loopback_packets, packets

T = TypeVar("T")

Scope = Callable[[oracle.Packet], Hashable]
"""Which frontends share what they remember of a client."""
Expected = Callable[[oracle.Verdict, oracle.Packet], oracle.Verdict]
"""What a backend does where it differs from the oracle by design."""


class Node:
    """A backend on the lab's node, driven from any thread."""

    def __init__(self, lab: PacketLab, open_target: Callable[[], Target]) -> None:
        """Open the backend in the node's namespace."""
        self.lab = lab
        self._target = netns.run_in(lab.node, open_target)

    def replace(self, forwarding: Forwarding) -> int:
        """Make the kernel hold this; return how many operations it took."""
        return self._run(lambda: self._target.replace(forwarding)).operations

    def commit(self, changes: ledger.Changes) -> int:
        """Change the kernel by this alone."""
        return self._run(lambda: self._target.commit(changes, "1")).operations

    def clear(self) -> None:
        """Remove everything of the backend."""
        self._run(self._target.cleanup)

    def walk(self, course: Iterable[Snapshot], rng: random.Random) -> Forwarding:
        """Bring the kernel to each of these clusters, one event at a time in any order; return where it ends."""
        meaning = Meaning(NODE)
        self.replace(meaning.forwarding("0"))
        for snapshot in course:
            keys = [*{*meaning.services, *snapshot.services}, *[("default", f"s{index}") for index in range(6)]]
            rng.shuffle(keys)
            for key in keys:
                if key[1].startswith("s"):
                    meaning.take_slice(key, snapshot.slices.get(key))
                else:
                    meaning.take_service(key, snapshot.services.get(key))
                self.commit({port: step.now for port, step in meaning.settle().items()})
        return meaning.forwarding("1")

    def close(self) -> None:
        """Let go of the kernel."""
        self._target.close()

    def _run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        # Programs are started from this thread, and must find the node's namespace.
        return netns.run_in(self.lab.node, lambda: asyncio.run(make()))


def assert_shares_are_fair(node: Node, family: Family) -> None:
    """Send 2,000 connections to a Service of four backends, and see that each gets its quarter."""
    ends = [Endpoint((at(family, "away", number),)) for number in range(1, 5)]
    cluster_ip = at(family, "cluster", 1)
    node.replace(decide(service(ips=address.text(cluster_ip)), piece(*ends)))
    packet = oracle.Packet(at(family, "here", 9), cluster_ip, Protocol.TCP, 80)
    counts = Counter(left.destination for left in node.lab.send([packet] * 2000) if left)
    assert sum(counts.values()) == 2000
    assert len(counts) == 4
    # Five standard deviations of a fair draw, about 19 each: one failure in a million runs.
    assert all(abs(count - 500) < 100 for count in counts.values()), counts


def assert_agree_at_loopback(lab: PacketLab, forwarding: Forwarding) -> None:
    """Send all that the node may send to its own loopback addresses, and compare."""
    sent = loopback_packets(forwarding)
    left = lab.send(sent)
    found = differences(oracle.Oracle(forwarding), zip(sent, left, strict=True), scope=lambda packet: packet)
    assert not found, "\n".join(found)
    assert all(one.source in NODE.node_ips for one in left if one is not None and one.end == "sent")


def assert_agree(
    lab: PacketLab,
    forwarding: Forwarding,
    rng: random.Random,
    *,
    count: int,
    again: int = 0,
    expected: Expected = lambda said, _: said,
    scope: Scope = lambda _: None,
) -> None:
    """Send a random part of all packets worth sending, `again` of them twice, and compare."""
    asked = oracle.Oracle(forwarding)
    chosen = packets(forwarding)
    rng.shuffle(chosen)
    chosen = chosen[:count]
    chosen += chosen[:again]
    found = differences(asked, zip(chosen, lab.send(chosen), strict=True), expected=expected, scope=scope)
    assert not found, "\n".join(found)


def differences(
    asked: oracle.Oracle,
    sent: Iterable[tuple[oracle.Packet, Left | None]],
    *,
    expected: Expected = lambda said, _: said,
    scope: Scope = lambda _: None,
) -> Sequence[str]:
    """Return a line for each packet that did not leave as the oracle says. Affinity is taken note of."""
    bound: dict[Hashable, dict[oracle.AffinityKey, Backend]] = defaultdict(dict)
    found = []
    for packet, left in sent:
        known = bound[scope(packet)]
        said = expected(asked.verdict(packet, affinity=known), packet)
        wrong = wrong_with(said, packet, left)
        if wrong:
            found.append(f"{packet}: the oracle says {said}, the kernel: {wrong}")
        key = asked.affinity_key(packet)
        if key is not None and left is not None and left.end == "sent":
            known[key] = Backend(left.destination, left.port)
    return sorted(found)


def wrong_with(said: oracle.Verdict, packet: oracle.Packet, left: Left | None) -> str:
    """Return what is wrong with how a packet left; "" when that is what was said."""
    if said.action is oracle.Action.DROP:
        return "" if left is None else f"{left}"
    if left is None:
        return "vanished"
    if said.action is oracle.Action.REJECT:
        return "" if left.end == "refused" else f"{left}"
    if said.action is oracle.Action.UNTOUCHED:
        is_own = packet.destination in (*NODE.node_ips, *LOOPBACK.values())
        as_is = Left("sent", packet.source, packet.destination, packet.port)
        return "" if (left.end == "delivered" if is_own else left == as_is) else f"{left}"
    outcome = {one.backend: one for one in said.outcomes}.get(Backend(left.destination, left.port))
    if left.end != "sent" or outcome is None:
        return f"{left}"
    is_masqueraded = left.source != packet.source
    # The node's own packets carry the address that masquerading would give them.
    if is_masqueraded != outcome.masquerade and not packet.from_node:
        return f"source {address.text(left.source)}"
    return ""
