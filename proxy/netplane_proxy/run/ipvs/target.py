"""The IPVS backend as the daemon sees it (run/target.Target). What to hold is plan/ipvs'.

IPVS knows no transactions, so order keeps the promise: servers and destinations first, then their addresses, then the
table that lets packets there; what goes away goes in the opposite order, and no destination before its connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass

from netplane.kernel.errors import KernelError
from netplane.kernel.ipvs import diff
from netplane.kernel.ipvs import run as ipvs
from netplane.kernel.ipvs.objects import Change, Destination, Held, Load, Server, Virtual
from netplane.kernel.link import run as links
from netplane.kernel.nft import events
from netplane.kernel.nft import run as nft
from netplane.kernel.nft.objects import Element
from netplane.model import address
from netplane.model.address import Packed
from netplane_proxy.plan.forwarding import Forwarding
from netplane_proxy.plan.ipvs import book, rows
from netplane_proxy.plan.ipvs.book import Book, Pair
from netplane_proxy.plan.ipvs.tables import LAYOUTS, TABLE
from netplane_proxy.plan.ledger import Changes
from netplane_proxy.run.ipvs import leave, table
from netplane_proxy.run.ipvs.drain import drain
from netplane_proxy.run.ipvs.host import LINK, Host, Sysctls
from netplane_proxy.run.target import Result

TICK = 0.5
"""How often the destinations that wait for their connections are looked at, and whether servers changed, in seconds."""
LOOK_SHARE = 30
"""Such looks, for IPVS tells nobody of its changes, take at most one part in so many of a processor."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What speaks to the kernel. `listener` hears others change our table; None in tests."""

    ipvs: ipvs.Kernel
    nft: nft.Kernel
    host: Host
    listener: events.Listener | None = None


def open_target(scheduler: str = "rr") -> IpvsTarget:
    """Open the backend in the network namespace of this thread. KernelError without CAP_NET_ADMIN or ip_vs."""
    with contextlib.ExitStack() as stack:
        servers = stack.enter_context(contextlib.closing(ipvs.Socket()))
        tables = stack.enter_context(contextlib.closing(nft.Socket()))
        listener = stack.enter_context(contextlib.closing(events.Listener(TABLE, tables.port)))
        host = Host(stack.enter_context(links.Socket()), Sysctls())
        parts = Parts(servers, tables, host, listener)
        return IpvsTarget(parts, scheduler=scheduler, closing=stack.pop_all())


class IpvsTarget:
    """The virtual servers, the link `netplane-ipvs`, and the tables `ip netplane_ipvs` and `ip6 netplane_ipvs`."""

    def __init__(self, parts: Parts, *, scheduler: str = "rr", closing: contextlib.ExitStack | None = None) -> None:
        """Take what speaks to the kernel; `closing` closes it."""
        self._ipvs = parts.ipvs
        self._nft = parts.nft
        self._host = parts.host
        self._listener = parts.listener
        self._scheduler = scheduler
        self._closing = closing or contextlib.ExitStack()
        self._book: Book | None = None
        self._held: dict[Virtual, Held] = {}
        self._uses: Counter[Packed] = Counter()
        self._kept: set[Pair] = set()
        self._draining: set[Virtual] = set()
        self._kernel = asyncio.Lock()
        self._stamp: int | None = None
        self._look_again = 0.0
        self._turn = 0

    async def replace(self, forwarding: Forwarding) -> Result:
        """Make the kernel hold exactly this, adopting what is there."""
        began = time.perf_counter()
        async with self._kernel:
            self._book = None
            seen = table.observe(self._nft)
            made = _book(forwarding, seen, self._scheduler)
            there = await asyncio.to_thread(self._ipvs.servers)
            ours = _ours(seen)
            self._held = {one: held for one, held in there.items() if one in made.servers or _is_ours(one, ours)}
            self._uses = Counter(one.address for one in self._held)
            operations = self._host.prepare()
            delta = self._compare(diff.everything(made.servers, self._held))
            operations += self._change(delta.grow)
            operations += self._host.gain(element.key for target, element in made.elements() if target in _ADDRESSES)
            operations += await self._bring_tables(forwarding, made, seen)
            former = list(self._held)
            operations += self._change(delta.shrink) + self._change(diff.idle(made.servers, self._held))
            operations += self._release(made, former, list(self._host.addresses))
            self._draining = diff.draining(self._held)
            self._book = made
        return Result(operations, time.perf_counter() - began)

    async def commit(self, changes: Changes, revision: str) -> Result:
        """Make these changes. After a KernelError only `replace` helps."""
        began = time.perf_counter()
        async with self._kernel:
            made = self._book
            if made is None:
                raise KernelError(errno.ESTALE, "change virtual servers", "what is there is not known; compare first")
            self._book = None
            demand = made.change(changes)
            delta = self._compare(demand.servers)
            operations = self._change(delta.grow)
            operations += self._host.gain(element.key for target, element in demand.added if target in _ADDRESSES)
            pairs = [book.owned(one) for one in demand.servers if one in self._held]
            pairs += [pair for pair in demand.added if pair[0] in _ADDRESSES]
            new = [pair for pair in pairs if pair is not None and pair not in self._kept]
            self._kept.update(new)
            batch = table.batch(_not_kept(demand.removed), [*new, *_not_kept(demand.added)])
            self._nft.commit(batch)
            operations += len(batch) + self._change(delta.shrink)
            parting = [element.key for target, element in demand.removed if target in _ADDRESSES]
            operations += self._release(made, demand.servers, parting)
            self._draining |= diff.draining({one: self._held[one] for one in demand.servers if one in self._held})
            self._book = made
        return Result(operations, time.perf_counter() - began)

    async def drift(self) -> AsyncIterator[str]:
        """Yield a line for each change by somebody else; meanwhile remove what waits for its connections to end."""
        while True:
            heard = await self._heard()
            if heard:
                yield heard
            async with self._kernel:
                strange = self._tend()
            strange = strange or await self._looked()
            if strange:
                yield strange

    async def cleanup(self) -> None:
        """Remove servers, tables and link, and set the kernel's parameters back."""
        async with self._kernel:
            self._book = None
            ours = _ours(table.observe(self._nft))
            gone = [Change("remove", one) for one in sorted(self._ipvs.servers()) if _is_ours(one, ours)]
            self._ipvs.commit(gone)
            there = self._nft.tables()
            text = "".join(table.removal(sets) for sets in LAYOUTS.values() if sets.table in there)
            await self._load(text)
            self._host.cleanup()

    async def empty(self, *, limit: float) -> None:
        """Leave the field to another backend, which forwards already: let connections end, so that `cleanup` cuts none.

        Those of IPVS are in its own table, so without its servers they would be cut. After `limit` seconds they are.
        """
        async with self._kernel:
            self._book = None
            there = self._nft.tables()
            ours = _ours(table.observe(self._nft))
            # New connections are no longer ours, and the way out passes here before the other one translates it.
            await self._load("".join(f"flush chain {s.table} guard\n" for s in LAYOUTS.values() if s.table in there))
            self._held = {}
            servers = await asyncio.to_thread(self._ipvs.servers)
        await drain(self._ipvs, [one for one in servers if _is_ours(one, ours)], limit=limit)

    def close(self) -> None:
        """Let go of the kernel and leave everything in place."""
        self._closing.close()

    async def _load(self, text: str) -> None:
        if text:
            self._expect()
            await self._nft.load(text)

    def _compare(self, want: dict[Virtual, Server | None]) -> diff.Delta:
        return diff.servers(want, self._held, lingers=rows.lingers)

    def _change(self, changes: list[Change]) -> int:
        """Change servers, and what is known of them."""
        if not changes:
            return 0
        self._turn += 1
        self._ipvs.commit(changes)
        diff.apply(changes, self._held)
        for change in changes:
            if change.destination is None and change.verb != "set":
                self._uses[change.virtual.address] += 1 if change.verb == "add" else -1
        return len(changes)

    async def _bring_tables(self, forwarding: Forwarding, made: Book, seen: table.Seen) -> int:
        """Make the tables hold their rules and elements, those of servers that still wait to go included."""
        elements = made.elements()
        addresses = {pair for pair in elements if pair[0] in _ADDRESSES}
        addresses |= {_address(one) for one in self._host.addresses if self._uses[one]}
        self._kept = addresses | {pair for pair in map(book.owned, self._held) if pair is not None}
        wanted = [*_not_kept(elements), *self._kept]
        stale = [sets for sets in LAYOUTS.values() if not table.is_whole(self._nft, seen, sets, forwarding.node)]
        for sets in stale:
            self._expect()
            await table.load(self._nft, seen, sets, forwarding.node, wanted)
        batch = table.difference(seen, wanted)
        self._nft.commit(batch)
        for sets in stale:
            table.sign(self._nft, sets, forwarding.node)
        return len(stale) + len(batch)

    def _release(self, made: Book, virtuals: Iterable[Virtual], addresses: Iterable[Packed]) -> int:
        """Take away the addresses and elements of servers that are gone, of those that may be."""
        left = [one for one in virtuals if one not in self._held]
        candidates = {*addresses, *(one.address for one in left)}
        gone = [pair for pair in map(book.owned, left) if pair is not None and pair in self._kept]
        lost = sorted(
            one for one in candidates & self._host.addresses if not self._uses[one] and not made.has(_address(one))
        )
        gone += [pair for pair in map(_address, lost) if pair in self._kept]
        if gone:
            self._nft.commit(table.batch(gone, []))
            self._kept.difference_update(gone)
        return len(gone) + self._host.lose(lost)

    def _tend(self) -> str:
        """Look at the destinations that wait for their connections, and remove those that have none left.

        Returns what somebody else changed there, and does nothing then.
        """
        made = self._book
        if made is None or not self._draining:
            return ""
        for virtual in sorted(self._draining):
            held, loads = self._held.get(virtual), self._ipvs.loads(virtual)
            if held is None:
                continue
            if _weights(loads) != _weights(held.loads):
                return _changed(virtual)
            held.loads = loads
        waiting = {one: self._held[one] for one in self._draining if one in self._held}
        self._change(diff.idle(made.servers, waiting))
        self._release(made, list(waiting), ())
        self._draining = diff.draining({one: self._held[one] for one in waiting if one in self._held})
        return ""

    async def _looked(self) -> str:
        """See whether the servers are as they were, without keeping anybody waiting; say what somebody changed.

        They are compared one by one only where their stamp is another than when they last were as wanted.
        """
        turn = self._turn
        if self._book is None or time.perf_counter() < self._look_again:
            return ""
        there, stamp, took = await asyncio.to_thread(_look, self._ipvs, self._stamp)
        self._look_again = time.perf_counter() + LOOK_SHARE * took
        if there is None or self._kernel.locked() or turn != self._turn:
            return ""  # All is well, or we wrote meanwhile: the next look will tell.
        for virtual, held in self._held.items():
            if _weights(there.get(virtual, {})) != _weights(held.loads):
                return _changed(virtual)
        self._stamp = stamp
        return ""

    async def _heard(self) -> str:
        """Wait a moment for changes of our tables."""
        if self._listener is None:
            await asyncio.sleep(TICK)
            return ""
        try:
            async with asyncio.timeout(TICK):
                return str(await anext(self._listener.changes()))
        except TimeoutError:
            return ""

    def _expect(self) -> None:
        """Say that nft(8) is about to work for us, which is no drift."""
        if self._listener is not None:
            self._listener.expect(1)


def _look(kernel: ipvs.Kernel, former: int | None) -> tuple[dict[Virtual, dict[Destination, Load]] | None, int, float]:
    """Return the servers if they are not as at a former stamp, the stamp of now, and the processor time it took."""
    began = time.thread_time()
    stamp = kernel.stamp()
    there = kernel.listing() if stamp != former else None
    return there, stamp, time.thread_time() - began


_ADDRESSES = frozenset(sets.addresses for sets in LAYOUTS.values())
_KEPT = _ADDRESSES | {sets.owned for sets in LAYOUTS.values()}
"""The sets whose elements outlive the Service ports, as long as there are connections."""


def _book(forwarding: Forwarding, seen: table.Seen, scheduler: str) -> Book:
    marks = [element for sets in LAYOUTS.values() for element in seen.get(sets.marks, ())]
    made = Book(forwarding.node, scheduler=scheduler, numbers=book.numbers(marks))
    made.change(dict(forwarding.ports))
    return made


def _ours(seen: table.Seen) -> set[Pair]:
    return {(target, element) for target, elements in seen.items() if target in _KEPT for element in elements}


def _is_ours(virtual: Virtual, ours: set[Pair]) -> bool:
    pair = book.owned(virtual)
    return rows.number_of(virtual.mark) is not None if pair is None else pair in ours


def _not_kept(pairs: Iterable[Pair]) -> list[Pair]:
    return [pair for pair in pairs if pair[0] not in _KEPT]


def _address(one: Packed) -> Pair:
    return LAYOUTS[address.family(one)].addresses, Element(one)


def _changed(virtual: Virtual) -> str:
    return f"somebody changed virtual server {virtual}"


def _weights(loads: Mapping[Destination, Load]) -> dict[Destination, int]:
    return {one: load.weight for one, load in loads.items()}


async def cleanup() -> None:
    """Remove every trace of this backend. Where there is none, the kernel's IPVS is not even asked for."""
    if _is_here():
        with contextlib.closing(open_target()) as target:
            await target.cleanup()


async def retire(*, limit: float = 900.0) -> None:
    """Do as `cleanup` does once the connections have ended, for another backend has taken over."""
    if not _is_here():
        return
    with contextlib.closing(open_target()) as target, links.Socket() as found:
        link = found.link(LINK)
        addresses = {one.address for one in found.addresses(link.index)} if link is not None else set()
        end = time.monotonic() + limit
        leave.prefer_other_sources(LINK)
        await target.empty(limit=limit)
        await leave.until_unused(addresses, limit=max(0.0, end - time.monotonic()))
        await target.cleanup()


def _is_here() -> bool:
    with contextlib.closing(nft.Socket()) as tables, links.Socket() as found:
        return found.link(LINK) is not None or any(sets.table in tables.tables() for sets in LAYOUTS.values())
