"""Run something on one of several servers at a time: who holds the Lease runs, the others wait until it is free.

client-go's rules (tools/leaderelection): a lease counts as held for `leaseDurationSeconds` after *we* last saw it
change, whatever its own times say, so that clocks need not agree; a holder that could not renew it for ten seconds
stops what it runs, five seconds before another one may begin.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TypeVar

from netplane.kube import errors
from netplane.kube.api import Api
from netplane.kube.types import LEASES, Object
from netplane.lib import clock as clocks
from netplane.lib import log

_LOG = log.get("election")
_NAMESPACE = "kube-system"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Times:
    """How long a lease holds, when its holder gives up, how often it is asked for: in seconds."""

    holds: int = 15
    renew_within: float = 10.0
    retry: float = 2.0


class Lost(Exception):
    """The lease could not be renewed in time: another server may run now."""


async def lead(
    api: Api,
    name: str,
    *,
    identity: str,
    run: Callable[[], Coroutine[object, object, object]],
    times: Times = Times(),  # frozen
    clock: clocks.Clock = clocks.SYSTEM,
) -> None:
    """Wait for the Lease `kube-system/NAME`, then run as long as it is ours; raise Lost when it is no more.

    When this ends otherwise the lease is given back, so that another server need not wait for it to run out.
    """
    candidate = _Candidate(api, name, identity, times, clock)
    while not await candidate.acquires():
        await clock.sleep(times.retry)
    _LOG.info("leading", lease=name, identity=identity)
    is_lost = False
    try:
        async with asyncio.TaskGroup() as group:
            working = group.create_task(_whole(run))
            renewing = group.create_task(candidate.renew_for_ever())
            await asyncio.wait((working, renewing), return_when=asyncio.FIRST_COMPLETED)
            working.cancel()
            renewing.cancel()
    except* Lost:
        is_lost = True
    finally:
        await candidate.release()
    if is_lost:
        _LOG.warning("leading no more", lease=name, identity=identity)
        raise Lost(f"the lease {name} could not be renewed")


async def _whole(run: Callable[[], Coroutine[object, object, object]]) -> None:
    await run()


@dataclass(frozen=True, slots=True)
class _Raised:
    error: errors.ApiError | TimeoutError


async def _caught(work: Coroutine[object, object, T]) -> T | _Raised:
    """Keep what may be expected to fail from ending a group of tasks."""
    try:
        return await work
    except (errors.ApiError, TimeoutError) as error:
        return _Raised(error)


class _Candidate:
    """One server's view of the lease."""

    def __init__(self, api: Api, name: str, identity: str, times: Times, clock: clocks.Clock) -> None:
        self._api = api
        self._name = name
        self._identity = identity
        self._times = times
        self._clock = clock
        self._seen: tuple[str, str] = ("", "")
        self._seen_at = 0.0
        self._renewed_at = 0.0
        self._refused = ""

    async def acquires(self) -> bool:
        """Take the lease or renew it; return whether it is ours."""
        began = self._clock.monotonic()
        try:
            is_ours = await self._within(self._times.renew_within, self._try())
        except errors.Forbidden as error:
            if str(error) != self._refused:
                _LOG.warning("lease refused", lease=self._name, cause=str(error))
            self._refused = str(error)
            return False
        except (errors.ApiError, TimeoutError) as error:
            _LOG.debug("lease not reached", lease=self._name, cause=str(error))
            return False
        if is_ours:
            self._renewed_at = began
        return is_ours

    async def renew_for_ever(self) -> None:
        """Renew until that has failed for too long."""
        while True:
            await self._clock.sleep(self._times.retry)
            left = self._renewed_at + self._times.renew_within - self._clock.monotonic()
            is_ours = False
            if left > 0:
                try:
                    is_ours = await self._within(left, self.acquires())
                except TimeoutError:
                    is_ours = False
            is_late = self._clock.monotonic() >= self._renewed_at + self._times.renew_within
            if not is_ours and (is_late or self._seen[0] not in ("", self._identity)):
                raise Lost(f"the lease {self._name} could not be renewed")

    async def release(self) -> None:
        """Give the lease back, if it is ours."""
        if self._seen[0] != self._identity:
            return
        try:
            await self._within(self._times.retry, self._give_back())
        except (errors.ApiError, TimeoutError):
            return  # it runs out by itself

    async def _give_back(self) -> None:
        lease = await self._api.get(LEASES, self._name, namespace=_NAMESPACE)
        if lease["spec"].get("holderIdentity") == self._identity:
            lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
            await self._api.update(LEASES, lease)

    async def _within(self, seconds: float, work: Coroutine[object, object, T]) -> T:
        """Await something for so long by our clock; raise TimeoutError."""
        async with asyncio.TaskGroup() as group:
            working = group.create_task(_caught(work))
            waiting = group.create_task(self._clock.sleep(seconds))
            await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            working.cancel()
        if working.cancelled():
            raise TimeoutError
        result = working.result()
        if isinstance(result, _Raised):
            raise result.error
        return result

    async def _try(self) -> bool:
        try:
            lease = await self._api.get(LEASES, self._name, namespace=_NAMESPACE)
        except errors.NotFound:
            await self._api.create(LEASES, self._written({}, transitions=0))
            self._note(self._identity, "made")
            return True
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if (holder, str(spec.get("renewTime"))) != self._seen:
            self._note(holder, str(spec.get("renewTime")))
        ends = self._seen_at + float(spec.get("leaseDurationSeconds") or self._times.holds)
        if holder not in ("", self._identity) and self._clock.monotonic() < ends:
            return False
        changes = int(spec.get("leaseTransitions") or 0) + (holder != self._identity)
        made = await self._api.update(LEASES, self._written(lease, transitions=changes))
        self._note(self._identity, str(made["spec"].get("renewTime")))
        return True

    def _note(self, holder: str, renewed: str) -> None:
        self._seen, self._seen_at = (holder, renewed), self._clock.monotonic()

    def _written(self, lease: Object, *, transitions: int) -> Object:
        now = clocks.rfc3339_micro(self._clock.now())
        before = lease.get("spec") or {}
        is_new = before.get("holderIdentity") != self._identity
        spec = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": self._times.holds,
            "acquireTime": now if is_new else before.get("acquireTime", now),
            "renewTime": now,
            "leaseTransitions": transitions,
        }
        metadata = lease.get("metadata") or {"name": self._name, "namespace": _NAMESPACE}
        return {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": spec}
