"""Keep our nftables tables as plan/masquerade writes them, one transaction at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from netplane.kernel.errors import KernelError
from netplane.kernel.nft import diff
from netplane.kernel.nft.objects import Batch, Element, Set, Table
from netplane.lib import log
from netplane_cni.plan import masquerade
from netplane_cni.plan.masquerade import HostPort
from netplane_cni.run.stale import Facts
from netplane_cni.run.translation import Changed

Held = dict[Set, dict[bytes, Element]]
"""The elements that the kernel holds, by set and key."""


class Kernel(Protocol):
    """What is needed of nf_tables: `nft.run.Socket`, or `nft.fake.Kernel`."""

    async def load(self, text: str) -> None:
        """Run nft commands in one transaction."""

    def commit(self, batch: Batch) -> None:
        """Make all changes of the batch in one transaction, or none."""

    def dump(self, target: Set) -> list[Element]:
        """List a set's elements."""

    def fingerprint(self, table: Table) -> str:
        """Return a hash of a table's chains and rules as the kernel holds them."""


class Rules:
    """The tables of this node. Rules are loaded as text, whole; host ports come and go as elements, in microseconds."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._skeleton = ""
        self._prints: tuple[str, ...] = ()
        self._held: Held = {}

    async def bring(self, facts: masquerade.Facts, *, must_look: bool) -> int:
        """Return once the kernel holds what the facts want, and how many changes that took.

        With `must_look` the kernel is asked whether somebody else has changed anything since.
        """
        want = _by_key(masquerade.elements(facts))
        if masquerade.skeleton(facts) != self._skeleton or (must_look and self._has_drifted(want)):
            return await self._load(facts, want)
        batch = Batch()
        for target, elements in want.items():
            batch.runs += diff.elements(target, elements.values(), self._held.get(target, {}).values()).runs
        if not self._committed(batch):
            return await self._load(facts, want)
        self._held = want
        return len(batch)

    async def exchange(self, wanted: Iterable[HostPort], former: Iterable[HostPort], facts: Facts) -> None:
        """Return once the kernel holds the host ports of a lease in the place of those it had."""
        if not self._skeleton or not self._exchange(wanted, former):
            now = facts()
            await self._load(now, _by_key(masquerade.elements(now)))

    async def follow_networks(self, changed: Changed, facts: Facts) -> int:
        """Return once the kernel holds blocks of the networks inside, or no more, and how many changes that took."""
        batch = Batch()
        for block, is_there in changed().items():
            target = masquerade.SETS[block.family].inside
            have = self._held.get(target)
            element = masquerade.block_element(block)
            if have is None or (have.get(element.key) == element) == is_there:
                continue
            (batch.add if is_there else batch.remove)(target, [element])
        # What goes must be out before what comes: blocks that are joined lie within the one that takes their place.
        batch.runs.sort(key=lambda run: run[0] == "add")
        if not self._skeleton or not self._committed(batch):
            now = facts()
            return await self._load(now, _by_key(masquerade.elements(now)))
        self._note(batch)
        return len(batch)

    def _exchange(self, want: Iterable[HostPort], have: Iterable[HostPort]) -> bool:
        """Take a lease's elements out and in; tell whether the kernel took them."""
        wanted, former = _by_key(masquerade.elements_of(want)), _by_key(masquerade.elements_of(have))
        batch = Batch()
        for target in sorted(wanted.keys() | former.keys(), key=str):
            new, old = wanted.get(target, {}), former.get(target, {})
            there = self._held.setdefault(target, {})
            # What is there may be more than this lease's: a look at all of them was faster, or a clash was settled.
            concerned = new.keys() | {key for key, element in old.items() if there.get(key) == element}
            batch.runs += diff.elements(target, new.values(), [there[k] for k in concerned if k in there]).runs
        if not self._committed(batch):
            return False
        self._note(batch)
        return True

    def _note(self, batch: Batch) -> None:
        for verb, target, elements in batch.runs:
            for element in elements:
                self._held[target].pop(element.key, None)
                if verb == "add":
                    self._held[target][element.key] = element

    def _committed(self, batch: Batch) -> bool:
        try:
            self._kernel.commit(batch)
        except KernelError as error:
            log.get("cni").warning("elements met foreign ones, loading all anew", why=str(error))
            return False
        return True

    async def _load(self, facts: masquerade.Facts, want: Held) -> int:
        self._skeleton = ""  # Until it is loaded, nobody knows.
        await self._kernel.load(masquerade.text(facts))
        self._skeleton, self._held, self._prints = masquerade.skeleton(facts), want, self._seen(want)
        return 1

    def _has_drifted(self, want: Held) -> bool:
        try:
            have = _by_key({t: [e._replace(comment="") for e in self._kernel.dump(t)] for t in want})
            return have != self._held or self._seen(want) != self._prints
        except KernelError:
            return True

    def _seen(self, want: Held) -> tuple[str, ...]:
        return tuple(self._kernel.fingerprint(table) for table in sorted({t.table for t in want}, key=str))


def _by_key(found: Mapping[Set, Sequence[Element]]) -> Held:
    return {target: {element.key: element for element in elements} for target, elements in found.items()}
