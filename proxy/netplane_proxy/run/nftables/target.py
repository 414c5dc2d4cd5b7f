"""The nftables backend as the daemon sees it (run/target.Target). What to write is plan/nftables'."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from netplane.kernel.errors import CommandFailed, KernelError
from netplane.kernel.nft import events
from netplane.kernel.nft.objects import Batch, command
from netplane.kernel.nft.run import Kernel, Socket
from netplane.model.address import Family
from netplane_proxy.plan.forwarding import Forwarding
from netplane_proxy.plan.ledger import Changes
from netplane_proxy.plan.nftables import adopt, balance, skeleton
from netplane_proxy.plan.nftables.book import Book, Change
from netplane_proxy.plan.nftables.layout import LAYOUTS, TABLE, Pairs
from netplane_proxy.plan.nftables.skeleton import Parameters
from netplane_proxy.run import telemetry
from netplane_proxy.run.nftables import affinity, tables
from netplane_proxy.run.nftables.tables import State
from netplane_proxy.run.target import Result

_LARGE = 1000
"""From how many elements on a batch is worth a thread of its own."""


def open_target() -> NftablesTarget:
    """Open the backend in the network namespace of this thread. KernelError without CAP_NET_ADMIN or nf_tables."""
    kernel = Socket()
    try:
        return NftablesTarget(kernel, events.Listener(TABLE, kernel.port), close=kernel.close)
    except BaseException:
        kernel.close()
        raise


class NftablesTarget:
    """The two tables `ip netplane` and `ip6 netplane`."""

    def __init__(self, kernel: Kernel, listener: events.Listener | None, *, close: Callable[[], None]) -> None:
        """Take the kernel and an ear; `close` closes the kernel."""
        self._kernel = kernel
        self._listener = listener
        self._close = close
        self._book: Book | None = None
        self._loaded: dict[Family, Parameters] = {}

    async def replace(self, forwarding: Forwarding) -> Result:
        """Make the kernel hold exactly this, adopting what is there."""
        began = time.perf_counter()
        self._book = None
        about = {family: tables.read_about(self._kernel, sets) for family, sets in LAYOUTS.items()}
        seen = self._observe(about)
        made, standing = adopt.book(forwarding.node, seen)
        adopt.place(made, standing, forwarding)
        wanted = _parameters(made)
        states = {
            family: tables.state(self._kernel, about[family] if family in seen.chains else _lost(about[family]), sets,
                                 wanted[family])
            for family, sets in LAYOUTS.items()
        }  # fmt: skip
        operations = await self._bring(made, seen, states, wanted)
        operations += self._purge_all(made)
        await self._drop(aside=True)  # A former run was killed in the middle of an exchange.
        self._loaded = wanted
        self._book = made
        return Result(operations, time.perf_counter() - began)

    async def commit(self, changes: Changes, revision: str) -> Result:
        """Make these changes in one transaction. After a KernelError only `replace` helps."""
        began = time.perf_counter()
        made = self._current()
        demand, before = made.demand, self._loaded
        self._book = None
        change = made.change(changes)
        if made.demand != demand:
            await self._reload(made)
            change.added += _new_verdicts(before, self._loaded)
        batch = change.batch()
        self._kernel.commit(batch)
        if change.chains or made.demand != demand:
            self._sign(self._loaded)
        operations = len(batch) + self._purge(change)
        self._book = made
        return Result(operations, time.perf_counter() - began)

    async def drift(self) -> AsyncIterator[str]:
        """Yield a line for each change of our tables by somebody else."""
        if self._listener is None:
            return
        async for change in self._listener.changes():
            yield str(change)

    async def cleanup(self) -> None:
        """Remove both tables, once no packet is inside: it would find the rules without elements, and be refused."""
        self._book = None
        await self._drop(aside=True)
        await self._drop(aside=False)

    def close(self) -> None:
        """Let go of the kernel and leave everything in place."""
        if self._listener is not None:
            self._listener.close()
        self._close()

    def _current(self) -> Book:
        if self._book is None:
            raise KernelError(errno.ESTALE, "change table netplane", "what it holds is not known; compare first")
        return self._book

    def _observe(self, about: Mapping[Family, tables.About | None]) -> adopt.Observed:
        try:
            return tables.observe(self._kernel, about)
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
            return adopt.Observed()  # Somebody deleted a set: nothing left to adopt.

    async def _bring(
        self,
        made: Book,
        seen: adopt.Observed,
        states: Mapping[Family, State],
        wanted: Mapping[Family, Parameters],
    ) -> int:
        """Load what chains need it, then commit what elements differ, in several transactions with room between."""
        operations = 0
        is_signed = all(was == "ours" for was in states.values())
        if not is_signed:
            await self._load(made, seen, states, wanted)
            operations += 1
        running: asyncio.Future[None] | None = None
        try:
            for change in adopt.compare(made, seen):
                batch = change.batch()
                operations += len(batch)
                if running is not None:
                    await running
                    running = None
                must_sign = bool(change.chains) or not is_signed
                if len(batch) < _LARGE or must_sign:
                    self._kernel.commit(batch)
                else:
                    # While the kernel takes this batch, which is half of the time, the next one is compiled.
                    running = asyncio.get_running_loop().run_in_executor(None, self._kernel.commit, batch)
                if must_sign:
                    self._sign(wanted)
                    is_signed = True
                await asyncio.sleep(0)
        finally:
            if running is not None:
                await asyncio.wait([running])
        if running is not None:
            running.result()
        return operations

    async def _load(
        self,
        made: Book,
        seen: adopt.Observed,
        states: Mapping[Family, State],
        wanted: Mapping[Family, Parameters],
    ) -> None:
        foreign = [family for family, was in states.items() if was == "foreign"]
        stale = [family for family, was in states.items() if was == "stale"]
        try:
            await self._load_text(made, seen, foreign, states, wanted)
        except CommandFailed:
            if not stale:
                raise
            # Chains of ours that cannot be changed in place, for somebody built on them: replace the tables whole.
            again: dict[Family, State] = {**states, **dict.fromkeys(stale, "foreign")}
            await self._load_text(made, seen, foreign + stale, again, wanted)
            return
        batch = Batch()
        for family in stale:
            for count in sorted(made.counts[family]):
                for chain in balance.chains(LAYOUTS[family], count):
                    batch.replace_chain(chain)
        self._kernel.commit(batch)

    async def _load_text(
        self,
        made: Book,
        seen: adopt.Observed,
        foreign: list[Family],
        states: Mapping[Family, State],
        wanted: Mapping[Family, Parameters],
    ) -> None:
        """Load the text; what a replaced table was filled with counts as seen."""
        elements = _filling(made, foreign)
        filling = {family: _text(made, family, elements) for family in foreign}
        if foreign:
            await self._stand_in(wanted, filling)
        await self._by_nft(tables.load(self._kernel, states, wanted, filling))
        if foreign:
            await self._drop(aside=True)
        for family in foreign:
            sets = LAYOUTS[family]
            seen.elements |= {target: {} for target in sets.compiled}
            seen.chains[family] = tuple(chain.name for n in made.counts[family] for chain in balance.chains(sets, n))
        for target, element in elements:
            seen.of(target)[element.key] = element

    async def _stand_in(self, wanted: Mapping[Family, Parameters], filling: Mapping[Family, str]) -> None:
        """Let tables of another name serve while those of ours are exchanged, and no packet be inside these.

        The kernel ends a table's elements at once, but lets a packet go on in the rules that it is in.
        """
        texts = [f"{skeleton.text(LAYOUTS[family], wanted[family])}{filling[family]}" for family in filling]
        await self._drop(aside=True)
        await self._kernel.load("".join(map(tables.aside, texts)))
        await self._by_nft(self._kernel.load("".join(tables.emptying(LAYOUTS[family].table) for family in filling)))

    async def _drop(self, *, aside: bool) -> None:
        """Remove our tables, or those that stood in for them: empty first."""
        wanted = [tables.ASIDE[family] if aside else sets.table for family, sets in LAYOUTS.items()]
        gone = [table for table in wanted if table in self._kernel.tables()]
        try:
            for make in (tables.emptying, tables.removal) if gone else ():
                load = self._kernel.load("".join(map(make, gone)))
                await (load if aside else self._by_nft(load))
        except KernelError:
            if aside:
                telemetry.not_cleaned(family for family, table in tables.ASIDE.items() if table in gone)
            raise

    async def _reload(self, made: Book) -> None:
        """Bring the skeletons up to date with what the book asks of them."""
        wanted = _parameters(made)
        await self._by_nft(tables.load(self._kernel, dict.fromkeys(wanted, "stale"), wanted, {}))
        self._loaded = wanted

    def _sign(self, wanted: Mapping[Family, Parameters]) -> None:
        for family, sets in LAYOUTS.items():
            tables.sign(self._kernel, sets, wanted[family])

    async def _by_nft(self, load: Awaitable[None]) -> None:
        """Wait for a transaction that nft(8) makes for us, which is no drift."""
        if self._listener is None:
            await load
            return
        self._listener.expect(1)
        try:
            await load
        except BaseException:
            self._listener.expect(-1)
            raise

    def _purge(self, change: Change) -> int:
        freed = 0
        for family in LAYOUTS:
            left = {list_id: backends for (where, list_id), backends in change.bereaved.items() if where is family}
            if left:
                freed += affinity.purge(self._kernel, family, left, lists=left.keys())
        return freed

    def _purge_all(self, made: Book) -> int:
        return sum(affinity.purge(self._kernel, family, made.backends(family)) for family in LAYOUTS)


def _lost(about: tables.About | None) -> tables.About | None:
    """Return what to make of a table whose sets could not be read: one of another frame."""
    return None if about is None else tables.About()


def _parameters(made: Book) -> dict[Family, Parameters]:
    return {family: made.parameters(family) for family in LAYOUTS}


def _filling(made: Book, families: list[Family]) -> Pairs:
    """Return all elements of some tables, in an order in which they can be loaded."""
    if not families:
        return []
    of = {LAYOUTS[family].table for family in families}
    return [pair for change in adopt.compare(made, adopt.Observed()) for pair in change.added if pair[0].table in of]


def _text(made: Book, family: Family, elements: Pairs) -> str:
    """Print what a new table of a family shall hold: the chains of endpoint counts, and elements."""
    sets = LAYOUTS[family]
    chains = "".join(balance.text(sets, count) for count in sorted(made.counts[family]))
    lines = (f"{command('add', *pair)}\n" for pair in elements if pair[0].table == sets.table)
    return f"{chains}{''.join(lines)}"


def _new_verdicts(before: Mapping[Family, Parameters], after: Mapping[Family, Parameters]) -> Pairs:
    found: Pairs = []
    for family, sets in LAYOUTS.items():
        known = {(target, element.key) for target, element in skeleton.verdicts(sets, before[family])}
        found += [pair for pair in skeleton.verdicts(sets, after[family]) if (pair[0], pair[1].key) not in known]
    return found
