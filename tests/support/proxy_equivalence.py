"""Compare what a kernel did with packets with what the oracle says. Which kernel, by which backend, is the tests'."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence

from netplane.model import address
from netplane_proxy.plan import oracle
from netplane_proxy.plan.forwarding import Backend, Forwarding
from netplane_proxy.plan.host import LOOPBACK
from tests.support.clusters import NODE
from tests.support.packet_lab import Left, PacketLab
from tests.support.random_clusters import packets

Scope = Callable[[oracle.Packet], Hashable]
"""Which frontends share what they remember of a client."""
Expected = Callable[[oracle.Verdict, oracle.Packet], oracle.Verdict]
"""What a backend does where it differs from the oracle by design."""


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
