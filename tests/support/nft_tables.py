"""Compile a meaning to nftables and hold the elements as the kernel would, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable

from netplane.kernel.nft.objects import Batch, Element, Set
from netplane.model.address import Family
from netplane_proxy.plan import oracle
from netplane_proxy.plan.forwarding import Backend, Forwarding
from netplane_proxy.plan.ledger import Changes
from netplane_proxy.plan.nftables import adopt, balance, book, skeleton
from netplane_proxy.plan.nftables.layout import LAYOUTS
from tests.support.nft_simulator import Simulator


class Tables:
    """The elements of both families' tables, and the book that says what they shall be."""

    def __init__(self) -> None:
        self.elements: dict[Set, dict[bytes, Element]] = {}
        self.book: book.Book | None = None
        self._chains: dict[Family, tuple[str, ...]] = {}

    def replace(self, forwarding: Forwarding) -> int:
        """Adopt what is there and make it mean `forwarding`, as at a start; return how many elements changed."""
        seen = adopt.Observed({target: dict(rows) for target, rows in self.elements.items()}, dict(self._chains))
        made, standing = adopt.book(forwarding.node, seen)
        adopt.place(made, standing, forwarding)
        self.book = made
        self._chains = {family: tuple(self.chains(family)) for family in Family}
        return sum(self._apply(change.batch()) for change in adopt.compare(made, seen))

    def commit(self, changes: Changes) -> int:
        """Make single changes, as the daemon does while it runs."""
        assert self.book is not None
        change = self.book.change(changes)
        self._chains = {family: tuple(self.chains(family)) for family in Family}
        count = self._apply(change.batch())
        for sets in LAYOUTS.values():  # the chains that the change needs come with their verdicts
            for target, element in skeleton.verdicts(sets, self.book.parameters(sets.family)):
                self.elements.setdefault(target, {})[element.key] = element
        return count

    def chains(self, family: Family) -> dict[str, tuple[str, ...]]:
        """Return the chains that the book asks for."""
        assert self.book is not None
        sets = LAYOUTS[family]
        found = skeleton.chains(sets, self.book.parameters(family))
        for count in self.book.counts[family]:
            found |= {chain.name: tuple(rule.text for rule in chain.rules) for chain in balance.chains(sets, count)}
        return found

    def simulator(self, family: Family) -> Simulator:
        """Return what runs packets through one family's table."""
        sets = LAYOUTS[family].sets
        found: dict[Set, Iterable[Element]] = {one: self.elements.get(one, {}).values() for one in sets}
        return Simulator.of(family, self.chains(family), found)

    def _apply(self, batch: Batch) -> int:
        """Do as the kernel does: removing what is not there, or adding another of the same key, fails."""
        for verb, target, elements in batch.runs:
            rows = self.elements.setdefault(target, {})
            for element in elements:
                if verb == "remove":
                    assert element.key in rows, f"no {target.text(element)} in {target} to remove"
                    del rows[element.key]
                else:
                    assert rows.get(element.key, element) == element, f"{target.text(element)} is in {target} already"
                    rows[element.key] = element
        return len(batch)


def judge(simulator: Simulator, packet: oracle.Packet) -> oracle.Verdict:
    """Return the verdict that the rules come to, in the oracle's terms."""
    seen = simulator.outcomes(
        packet.source, packet.destination, packet.protocol, packet.port, from_node=packet.from_node
    )
    ends = {(one.end, one.is_translated) for one in seen}
    assert len(ends) == 1, f"{packet} ends in several ways: {seen}"
    ((end, is_translated),) = ends
    if end != "accept":
        return oracle.Verdict(oracle.Action.REJECT if end == "reject" else oracle.Action.DROP)
    if not is_translated:
        assert not seen[0].is_masqueraded, f"{packet} is masqueraded without being translated"
        return oracle.Verdict(oracle.Action.UNTOUCHED)
    outcomes = [oracle.Outcome(Backend(one.destination, one.port), one.is_masqueraded) for one in seen]
    return oracle.Verdict(oracle.Action.DNAT, tuple(sorted(outcomes)))
