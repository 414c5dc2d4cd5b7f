"""Give the node's addresses out: who holds which, which of them rest, which are free. plan/ipam chooses among these."""

from __future__ import annotations

from collections.abc import Iterable

from netplane.lib.clock import Clock
from netplane.model import address
from netplane_cni import spec
from netplane_cni.plan import ipam
from netplane_cni.plan.book import Book, Both
from netplane_cni.plan.ipam import Lease, Pool
from netplane_cni.run.leases import Journal
from netplane_cni.spec import CniError, Request


class Addresses:
    """The node's addresses, as the journal's leases and those on their way into it (`given`) hold them."""

    def __init__(self, journal: Journal, *, clock: Clock, cool_down: float) -> None:
        self.given = Book()
        self._journal = journal
        self._clock = clock
        self._cool_down = cool_down
        self._cooling: dict[address.Packed, float] = {}

    @property
    def all(self) -> Both:
        """Every lease there is, those under way and those leaving too."""
        return Both(self._journal.state.book, self.given)

    def cooling(self) -> dict[address.Packed, float]:
        """Return the addresses that rest, and until when by the monotonic clock."""
        now = self._clock.monotonic()
        # In the order in which they are free again: who asks pays for those that are, not for all.
        while self._cooling and next(iter(self._cooling.values())) <= now:
            del self._cooling[next(iter(self._cooling))]
        return self._cooling

    def free(self, pools: tuple[Pool, ...]) -> dict[address.Family, int]:
        """Return how many addresses of each family could be given now."""
        # Each attachment has one address of each family; who has one of an earlier range counts, too.
        taken = len(self._journal.state.leases) + len(self._cooling) // max(1, len(pools))
        return {pool.prefix.family: max(0, pool.capacity - taken) for pool in pools}

    def choose(self, request: Request, pools: tuple[Pool, ...]) -> tuple[address.Packed, ...]:
        """Return one address of each pool, those that were asked for if there are any; raises CniError."""
        try:
            asked = ipam.asked(pools, request.ips)
        except ValueError as error:
            raise CniError(spec.INVALID_CONFIG, f"the address asked for cannot be given: {error}") from error
        for ip in asked.values():
            holder = self.all.by_address(ip)
            if holder is not None and holder.key != (request.container, request.ifname):
                whose = holder.pod or holder.container
                raise CniError(spec.TRY_AGAIN_LATER, f"{address.text(ip)} was asked for and is held by {whose}")
        return tuple(asked.get(pool.prefix.family) or self.next(pool) for pool in pools)

    def next(self, pool: Pool, *, otherwise: int = spec.TRY_AGAIN_LATER) -> address.Packed:
        """Return the address that is given next; raises CniError with the code `otherwise` when none is free."""
        last = self._journal.state.last.get(pool.prefix.family, b"")
        newest = [ip for ip in self.given.by_address if ip in pool]
        after = newest[-1] if newest else last
        try:
            return ipam.choose(pool, held=self.all.held, cooling=self.cooling(), after=after)
        except ipam.Exhausted as error:
            raise CniError(otherwise, str(error), self._why_exhausted(error)) from error

    def _why_exhausted(self, error: ipam.Exhausted) -> str:
        if error.until is None:
            return f"all {error.pool.size} are held by pods: the node is full"
        wait = max(0.0, error.until - self._clock.monotonic())
        return f"some rest after their last holder: the next is free in {wait:.0f} s"

    def rest(self, leases: Iterable[Lease]) -> None:
        """Let the addresses of leases that have ended rest for a cool-down from now on."""
        until = self._clock.monotonic() + self._cool_down
        for ip in (ip for lease in leases for ip in lease.addresses):
            self._cooling.pop(ip, None)
            self._cooling[ip] = until

    def restore_rest(self) -> None:
        """Go on after a start with what rested before it, by the journal."""
        # The wall clock may have jumped: nothing rests for longer than one whole cool-down.
        now, monotonic = self._clock.now().timestamp(), self._clock.monotonic()
        for ip, at in sorted(self._journal.state.freed.items(), key=lambda one: one[1]):
            left = min(self._cool_down, at + self._cool_down - now)
            if left > 0:
                self._cooling[ip] = monotonic + left
