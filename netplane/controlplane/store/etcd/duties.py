"""Do what one server must for all: forget old revisions now and then, and lend leases to objects that shall go."""

from __future__ import annotations

from typing import Never

from netplane.controlplane.store import protocol
from netplane.controlplane.store.etcd import client, keys, wire
from netplane.lib import clock as clocks
from netplane.lib import log

_LOG = log.get("store")
_LEASE_SHARED_SECONDS = 60
_LEASE_SHARED_KEYS = 1000


async def compact_for_ever(
    members: client.Client, layout: keys.Layout, *, every: float, clock: clocks.Clock = clocks.SYSTEM
) -> Never:
    """Forget, every so many seconds, what was changed before the last time.

    The servers agree by the version of one key: who writes it first does the work, the others look at what it says.
    After k8s.io/apiserver/pkg/storage/etcd3/compact.go.
    """
    version, revision = 0, 0
    while True:
        await clock.sleep(every)
        try:
            version, current, is_ours = await _claim(members, layout, version)
            if is_ours and revision:
                await members.compact(revision)
                _LOG.debug("compacted", revision=revision)
            revision = current
        except protocol.StoreError as error:
            _LOG.warning("compaction failed; again later", cause=error)


async def _claim(members: client.Client, layout: keys.Layout, version: int) -> tuple[int, int, bool]:
    key = layout.compaction
    request = wire.txn(
        [wire.is_version(key, version)],
        [wire.doing_put(wire.put(key, b""))],
        [wire.doing_range(wire.range_(key))],
    )
    decided = (await members.txn(request)).decided
    if decided.succeeded:
        return version + 1, decided.revision, True
    found = decided.found[0] if decided.found else ()
    return (found[0].version if found else 0), decided.revision, False


class Leases:
    """Leases for objects that go by themselves. One serves what is written within a minute: they are not free."""

    def __init__(self, members: client.Client, *, clock: clocks.Clock = clocks.SYSTEM) -> None:
        self._members = members
        self._clock = clock
        self._lent: dict[int, tuple[int, float, int]] = {}

    async def lease(self, seconds: int) -> int:
        """Return a lease that lives so long at least, and a minute more at most."""
        number, until, count = self._lent.get(seconds, (0, 0.0, 0))
        if self._clock.monotonic() >= until or count >= _LEASE_SHARED_KEYS:
            number = await self._members.grant(seconds + _LEASE_SHARED_SECONDS)
            until, count = self._clock.monotonic() + _LEASE_SHARED_SECONDS, 0
        self._lent[seconds] = (number, until, count + 1)
        return number
