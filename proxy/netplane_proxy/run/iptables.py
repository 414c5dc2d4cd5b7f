"""The iptables backend as the daemon sees it (run/target.Target). What to write is plan/iptables'.

The tables are the kernel's own (`nat`, `filter`), shared with others: ours are the chains whose names begin with
NETPLANE-, and the rules that lead to them.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import time
from collections.abc import AsyncIterator, Mapping

from netplane.kernel.errors import CommandFailed, KernelError
from netplane.kernel.xtables import diff, objects, run, stamp, walk
from netplane.kernel.xtables.objects import Change, Rules, Variant
from netplane.kernel.xtables.run import Kernel, Xtables
from netplane.kernel.xtables.walk import Jump, Walker
from netplane.lib import log
from netplane.model.address import Family
from netplane_proxy.plan import host
from netplane_proxy.plan.forwarding import Forwarding
from netplane_proxy.plan.iptables import book, layout
from netplane_proxy.plan.iptables.book import Book
from netplane_proxy.plan.ledger import Changes
from netplane_proxy.run import localhost, telemetry
from netplane_proxy.run.localhost import Localhost
from netplane_proxy.run.target import Result

_LOOK_EVERY = 0.3
_LOOK_SHARE, _LOOK_REST = 5, 2.0
"""After a look at all rules that was in vain, rest so many times as long as it took, but no more seconds than that:
others may change theirs as often as they like."""
_HASH_EVERY, _HASH_SHARE = 0.3, 50
"""How often the tables are hashed where the kernel does not count changes, in seconds; at most one part in so many of
a processor."""
_HEARD_SHARE = 20
"""The same after we wrote, and when a tool has been at work."""
_WALK_EVERY, _WALK_AGAIN = 2.0, 60.0
"""How often what leads to our chains is counted, in seconds, and how long after that has failed."""

_LOG = log.get("proxy")
LOOPBACK = frozenset(host.LOOPBACK.values())

Observed = dict[Family, dict[str, dict[str, Rules]]]
Differences = dict[Family, dict[str, Change]]
"""What is to do in each table, in the order in which to do it."""


def open_target(variant: Variant | None = None) -> IptablesTarget:
    """Open the backend in the network namespace of this thread, for a variant or the one that the host uses.

    KernelError without the tools, CAP_NET_ADMIN or CAP_NET_RAW.
    """
    found = variant or run.detect(layout.PREFIX)
    kernel = Xtables(found)
    walker = Walker(layout.PREFIX, kernel.namespace) if found == "legacy" and walk.is_possible() else None
    try:
        clock = stamp.opened(found, layout.TABLES)
        return IptablesTarget(kernel, clock, variant=found, walker=walker, loopback=localhost.opened())
    except BaseException:
        kernel.close()
        raise


class IptablesTarget:
    """Our chains in the tables `nat` and `filter` of iptables and ip6tables."""

    def __init__(
        self,
        kernel: Kernel,
        clock: stamp.Clock,
        *,
        variant: Variant,
        walker: Walker | None = None,
        loopback: Localhost | None = None,
    ) -> None:
        """Take the kernel, what tells that its tables changed, what counts, and what brings NodePorts to loopback."""
        self._loopback = loopback
        self.variant = variant
        self.jumps: tuple[Jump, ...] = ()
        self._walker = walker
        self._walk_at = 0.0
        self._counting: asyncio.Future[tuple[Jump, ...]] | None = None
        self._hash_at = self._heard_at = 0.0
        self._was_heard = False
        self._found: tuple[int, Differences] | None = None
        self._hashes: tuple[int, stamp.Stamp] | None = None
        self._kernel = kernel
        self._clock = clock
        self._book: Book | None = None
        self._stamp: stamp.Stamp = ()
        self._turn = 0

    async def replace(self, forwarding: Forwarding) -> Result:
        """Make the kernel hold exactly this: write the chains that differ from it, and no others.

        What differs is known already when `drift` has just told so, and nothing was written or decided since.
        """
        began = time.perf_counter()
        wanted, made, found = self._reachable(forwarding), self._book, self._found
        is_known = found is not None and found[0] == self._turn
        self._begin()
        if made is None or not made.holds(wanted):
            made, is_known = await asyncio.to_thread(book.of, wanted), False
        operations = await self._loopback.replace(forwarding) if self._loopback is not None else 0
        differences = found[1] if is_known and found else _differences(made, await _observe(self._kernel))
        for family, change in differences.items():
            operations += await _write(self._kernel, family, change)
        self._end(made, differences)
        return Result(operations, time.perf_counter() - began)

    async def commit(self, changes: Changes, revision: str) -> Result:
        """Write the chains that these changes make other: one transaction for each table. After an error: `replace`."""
        began = time.perf_counter()
        made = self._book
        if made is None:
            raise KernelError(errno.ESTALE, "change our iptables chains", "what they hold is not known; compare first")
        self._begin()
        operations = self._loopback.commit(changes) if self._loopback is not None else 0
        differences = made.change(changes)
        for family, change in differences.items():
            operations += await _write(self._kernel, family, change)
        self._end(made, differences)
        return Result(operations, time.perf_counter() - began)

    async def drift(self) -> AsyncIterator[str]:
        """Yield a line when our rules are not as we left them. Tables tell that they changed, but not who did it."""
        seen = self._stamp
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            made, turn = self._book, self._turn
            if made is not None and self._loopback is not None and (strange := self._loopback.strange()):
                yield strange
                continue
            now = self._clock.read() if made is not None else seen
            self._count()
            if made is None or (now in (seen, self._stamp) and not await self._is_exchanged()):
                continue
            began = time.perf_counter()
            found = _differences(made, await _observe(self._kernel))
            rest = _LOOK_SHARE * (time.perf_counter() - began)
            if turn == self._turn:  # Else we wrote meanwhile, and have to look again.
                seen = now
                if found:
                    self._found = turn, found
                    yield _told(found)
                    continue
            await asyncio.sleep(min(rest, _LOOK_REST))

    async def cleanup(self) -> None:
        """Remove our chains and what leads to them."""
        self._begin()
        await _clean(self._kernel)
        if self._loopback is not None:
            await self._loopback.cleanup()

    async def look(self) -> None:
        """Read for the metrics what the kernel counts by itself."""
        kernel = self._kernel
        if not isinstance(kernel, Xtables):
            return
        found = {}
        with contextlib.suppress(KernelError):
            found[telemetry.STRAYS] = await asyncio.to_thread(_strays, kernel)
        if self._loopback is not None:
            with contextlib.suppress(KernelError):
                found[telemetry.LOCALHOST] = await asyncio.to_thread(kernel.inside, self._loopback.accepted)
        telemetry.packets(found)

    def account(self) -> dict[str, object]:
        """Say how it stands with what leads to our chains, as JSON values; the packets where they were looked at."""
        counted = {f"{one.tool} {one.table} {one.chain} {one.position}": one.packets for one in self.jumps}
        loopback = {"localhostNodePorts": self._loopback is not None}
        return {"iptablesVariant": self.variant, **loopback, **({"baseJumps": counted} if counted else {})}

    def close(self) -> None:
        """Let go of the kernel and leave everything in place."""
        if self._walker is not None:
            self._walker.close()
        self._clock.close()
        if self._loopback is not None:
            self._loopback.closing.close()
        if isinstance(self._kernel, Xtables):
            self._kernel.close()

    async def _is_exchanged(self) -> bool:
        """Tell whether our rules may be others than at the last look. Legacy tables change without growing, too."""
        if self.variant != "legacy":
            return False
        turn, moment = self._turn, time.perf_counter()
        has_base = self._hashes is not None and self._hashes[0] == turn
        self._was_heard |= self._clock.heard()
        if moment < (self._heard_at if self._was_heard or not has_base else self._hash_at):
            return False
        was_heard, self._was_heard = self._was_heard, False
        now, took = await asyncio.to_thread(_timed, self._clock)
        moment = time.perf_counter() - _LOOK_EVERY / 2
        self._hash_at = moment + max(_HASH_EVERY, _HASH_SHARE * took)
        self._heard_at = moment + _HEARD_SHARE * took
        if turn != self._turn:
            return False
        former, self._hashes = self._hashes, (turn, now)
        # With nothing to compare with, whoever was at work after us may have changed what is ours.
        return former[1] != now if has_base and former is not None else was_heard

    def _count(self) -> None:
        """Take the count of what leads to our chains when there is one, and begin another when it is time.

        Nobody waits for it: the process that counts takes a while to start.
        """
        if self._walker is None:
            return
        if self._counting is not None and self._counting.done():
            try:
                self.jumps = self._counting.result()
            except KernelError as error:
                _LOG.warning("cannot look into iptables", reason=error)
                self._walk_at = time.perf_counter() + _WALK_AGAIN
            self._counting = None
        if self._counting is None and time.perf_counter() >= self._walk_at:
            self._walk_at = time.perf_counter() + _WALK_EVERY
            self._counting = asyncio.get_running_loop().run_in_executor(None, self._walker.look)

    def _reachable(self, forwarding: Forwarding) -> Forwarding:
        """Leave out NodePorts at the loopback addresses where nothing brings them there: DNAT alone cannot."""
        node = forwarding.node
        if self._loopback is not None or LOOPBACK.isdisjoint(node.nodeport_addresses):
            return forwarding
        _LOG.warning("NodePorts do not answer at loopback addresses", reason="that takes nft and nf_tables")
        rest = tuple(ip for ip in node.nodeport_addresses if ip not in LOOPBACK)
        return dataclasses.replace(forwarding, node=dataclasses.replace(node, nodeport_addresses=rest))

    def _begin(self) -> None:
        self._book = self._found = None
        self._turn += 1

    def _end(self, made: Book, written: Differences) -> None:
        for family, side in made.sides.items():
            for table, there in side.sizes.items():
                change = written.get(family, {}).get(table, Change())
                telemetry.rules(family, table, there=there, written=sum(map(len, change.written.values())))
        self._stamp = self._clock.read()
        self._clock.heard()  # It was us.
        self._was_heard = False
        self._turn += 1
        self._book = made


def _strays(kernel: Xtables) -> int:
    """Count the packets of no known connection that were dropped; there is no chain for them where none may be."""
    dropped = 0
    for command in map(layout.command, Family):
        try:
            dropped += kernel.packets(command, layout.FILTER, layout.STRAYS).get("DROP", 0)
        except CommandFailed as error:
            if error.returncode != 1:
                raise
    return dropped


def _timed(clock: stamp.Clock) -> tuple[stamp.Stamp, float]:
    """Look, and say how much of a processor's time it took."""
    began = time.thread_time()
    return clock.look(), time.thread_time() - began


async def cleanup() -> None:
    """Remove every trace of this backend from both variants' tables, in the network namespace of this thread."""
    loopback = localhost.opened()
    if loopback is not None:
        with loopback.closing:
            await loopback.cleanup()
    for variant in run.installed():
        with contextlib.closing(Xtables(variant)) as kernel:
            await _clean(kernel)


async def _clean(kernel: Kernel) -> None:
    for family, have in (await _observe(kernel)).items():
        gone = diff.tables({}, have)
        await _write(kernel, family, {table: gone[table] for table in (*layout.TABLES, *gone) if table in gone})


async def _observe(kernel: Kernel) -> Observed:
    return {family: await kernel.save(layout.command(family), layout.PREFIX) for family in Family}


async def _write(kernel: Kernel, family: Family, change: Mapping[str, Change]) -> int:
    if not change:
        return 0
    await kernel.load(layout.command(family), objects.text(change))
    return sum(map(len, change.values()))


def _differences(made: Book, seen: Observed) -> Differences:
    """Return what turns the tables that were seen into those wanted; only families in which something differs."""
    found: Differences = {}
    for family, have in seen.items():
        # Where another mode forwards still, what is not translated shall not be refused before it is.
        order = layout.TABLES if have.get(layout.FILTER) else layout.TABLES[::-1]
        change = diff.tables(made.sides[family].chains, have)
        if change:
            found[family] = {table: change[table] for table in (*order, *change) if table in change}
    return found


def _told(found: Differences) -> str:
    """Say which chains were not as wanted."""
    said = []
    for family, tables in found.items():
        for table, change in tables.items():
            chains = [*change.written, *change.removed]
            more = f" and {len(chains) - 3} more" if len(chains) > 3 else ""
            said.append(f"{layout.command(family)} -t {table}: {', '.join(chains[:3])}{more}")
    return f"somebody changed {'; '.join(said)}"
