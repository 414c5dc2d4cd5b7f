"""Follow the API and make the kernel follow: facts in, one transaction out, and repair when somebody else interferes.

What to do is decided in `plan`, doing it is the target's, when to act is `reconcile.loop`'s; here they meet.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from netplane.kernel.errors import KernelError
from netplane.kube import decode, informer, quick
from netplane.kube.api import Api
from netplane.kube.informer import Batch, Query
from netplane.kube.types import ENDPOINTSLICES, NODES, SERVICES
from netplane.lib import clock as clocks
from netplane.lib import log, notify
from netplane.model.address import Family, Packed
from netplane.model.node import Node
from netplane.reconcile.loop import Cause, Loop, Pace
from netplane.reconcile.report import Outcome
from netplane.reconcile.target import Unsettled
from netplane_proxy.plan import host, ledger
from netplane_proxy.plan.forwarding import Forwarding, PortForwarding
from netplane_proxy.plan.ledger import Steps
from netplane_proxy.plan.meaning import Meaning
from netplane_proxy.run import telemetry
from netplane_proxy.run.flows import Sweeper
from netplane_proxy.run.health import Pulse, ServiceHealth
from netplane_proxy.run.memory import Memory
from netplane_proxy.run.target import Result, Target

_LOG = log.get("proxy")
_OURS = f"!{decode.HEADLESS_LABEL},!{decode.PROXY_NAME_LABEL}"
_PATIENCE_WITH_API = 3.0
_RECORD_FIRST, _RECORD_EVERY = 1.0, 30.0
_ADDRESSES_REST = 0.1
"""Of addresses several come at once: a link's, of both families."""
_NAMES_LOGGED = 5
_BURST, _BURST_SECONDS = 4, 0.1
"""What comes within so many seconds after so many changes at once is taken together: reading and commits in small
parts cost more than half as much again, a millisecond for each part.
"""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the daemon is wired from; None for what it shall do without."""

    api: Api
    target: Target
    sweeper: Sweeper | None = None
    memory: Memory | None = None
    addresses: Callable[[], tuple[Packed, ...]] = tuple
    addresses_changed: Callable[[], Awaitable[None]] | None = None
    mode: str = "nftables"
    clock: clocks.Clock = clocks.SYSTEM


@dataclass(slots=True)
class _Uncommitted:
    """What was decided since the last commit, when its first bytes came, and which slices it is owed to."""

    steps: Steps
    received: float | None = None
    triggers: tuple[tuple[Family, str], ...] = ()

    def and_then(self, newer: _Uncommitted) -> _Uncommitted:
        """Return both as one."""
        received = newer.received if self.received is None else self.received
        return _Uncommitted(ledger.merge(self.steps, newer.steps), received, self.triggers + newer.triggers)


class Daemon:
    """One proxy of one node."""

    def __init__(
        self,
        settings: host.Settings,
        parts: Parts,
        *,
        resync_seconds: float = 600.0,
        on_ready: Callable[[], None] = notify.ready,
    ) -> None:
        """Wire the parts; nothing runs before `run`. `on_ready` is called once, when everything is forwarded."""
        self._settings = settings
        self._parts = parts
        self._clock = parts.clock
        self._informers = informer.Informers(parts.api, queries(settings.node_name), clock=parts.clock)
        self._addresses = parts.addresses()
        self._meaning = Meaning(host.facts(settings, None, self._addresses))
        self._loop = Loop(
            self._act,
            name="rules",
            clock=parts.clock,
            # No gap: what comes while a transaction runs waits for it, and that is all the batching there is.
            pace=Pace(gap=0.0, resync=resync_seconds, first_backoff=0.05, longest_backoff=5.0),
            expected=(KernelError, Unsettled),
        )
        telemetry.begin(parts.mode)
        self._gaps = telemetry.LocalGaps()
        self._uncommitted = _Uncommitted({})
        self._kernel = asyncio.Lock()
        self._must_compare = True
        self._is_proving = False
        self._on_ready = on_ready
        self._backends = 0
        self._has_news_to_record = asyncio.Event()
        self._node: Node | None = None
        self._is_informed = False
        self._recalled: Forwarding | None = None
        self.pulse = Pulse(parts.clock)
        self.service_health = ServiceHealth(self.pulse, parts.clock)
        self.is_ready = False

    async def run(self) -> None:
        """Serve until cancelled; then leave everything in place."""
        _LOG.info("reading the cluster", node=self._settings.node_name)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._informers.run())
                group.create_task(self._follow())
                group.create_task(self._loop.run())
                group.create_task(self._watch_drift())
                group.create_task(self.service_health.run())
                if self._settings.nodeport_prefixes is not None and self._parts.addresses_changed is not None:
                    group.create_task(self._watch_addresses(self._parts.addresses_changed))
                if self._parts.sweeper is not None:
                    group.create_task(self._parts.sweeper.run(self._forwarding))
                if self._parts.memory is not None:
                    group.create_task(self._start_from_memory(self._parts.memory))
                    group.create_task(self._record(self._parts.memory))
        finally:
            notify.stopping()
            await self.service_health.close()

    def report(self) -> dict[str, Any]:
        """Say how things are, as JSON values."""
        return {
            "node": self._settings.node_name,
            "ready": self.is_ready,
            **dict(self._loop.report.lines()),
            "failure": self._loop.report.failure,
            "servicePorts": len(self._meaning.ports),
            "backends": self._backends,
            "nodePortAddresses": len(self._meaning.node.nodeport_addresses),
            "notFollowing": {key.group_resource: why for key, why in self._informers.failures.items()},
        }

    async def settled(self, revision: str) -> None:
        """Wait until this revision of the cluster, or a newer one, is in the kernel."""
        await self._loop.settled(revision)

    async def _follow(self) -> None:
        async for batch in self._informers.batches():
            self._take(batch)
            self._loop.wake(newest(batch))
            is_burst = self.is_ready and len(batch.changes) >= _BURST
            del batch  # The first names every object: not to be kept until the next, which would have to free it.
            if is_burst:
                await self._informers.rest(_BURST_SECONDS)

    def _take(self, batch: Batch) -> None:
        self._is_informed = True
        services = slices = 0
        for resource, key, _, new in batch.changes:
            if resource is SERVICES:
                services += 1
                self._meaning.take_service(key, new)
            elif resource is ENDPOINTSLICES:
                slices += 1
                self._meaning.take_slice(key, new)
            else:
                self._node = host.follow(self._node, new)
                self.pulse.take_node(new)
                self._take_host()
        telemetry.seen(services=services, slices=slices)
        if self._uncommitted.received is None:
            self._uncommitted.received = batch.received
        self._uncommitted.triggers += triggers(batch)
        self.pulse.wanted()

    def _take_host(self) -> bool:
        facts = host.facts(self._settings, self._node, self._addresses)
        if not self._meaning.take_node(facts):
            return False
        self._must_compare = True  # The node's own sets change too, which only a whole comparison covers.
        _LOG.info("node facts changed", zone=facts.zone, nodeport_addresses=len(facts.nodeport_addresses))
        return True

    async def _act(self, cause: Cause) -> Outcome:
        revision = self._loop.report.wanted
        todo, self._uncommitted = self._uncommitted, _Uncommitted({})
        todo.steps = ledger.merge(todo.steps, self._meaning.settle())
        is_full = cause != "change" or self._must_compare
        try:
            async with self._kernel:
                outcome = await self._write(todo.steps, revision, cause)
        except OSError:
            telemetry.failed(self._parts.mode, _families(todo.steps, is_full=is_full), is_full=is_full)
            self._must_compare = True
            self._uncommitted = todo.and_then(self._uncommitted)
            raise
        self._committed(todo, revision)
        if self._meaning.has_new_checks or is_full:
            self._meaning.has_new_checks = False
            await self.service_health.serve(self._meaning.health_checks, self._meaning.node.nodeport_addresses)
        return outcome

    async def _write(self, steps: Steps, revision: str, cause: Cause) -> Outcome:
        """Bring the kernel to what is meant now: by the changes alone, or by comparing everything."""
        began = self._clock.monotonic()
        is_full = cause != "change" or self._must_compare
        if is_full:
            self._must_compare = False
            result = await self._parts.target.replace(self._forwarding(revision))
            self._prove(result, is_expected=bool(steps) or cause != "resync")
        elif steps:
            result = await self._parts.target.commit({key: step.now for key, step in steps.items()}, revision)
        else:
            return Outcome(revision)
        seconds = self._clock.monotonic() - began
        telemetry.synced(_families(steps, is_full=is_full), seconds, is_full=is_full)
        telemetry.OPERATIONS.inc(result.operations)
        return Outcome(revision, result.operations, is_verified=is_full and not result.operations)

    def _prove(self, result: Result, *, is_expected: bool) -> None:
        """Ask for another comparison after one that found something to do; an empty one is the proof.

        Twice in a row without a reason means that somebody fights with us: then the loop's back-off keeps the peace.
        """
        is_fight = bool(result.operations) and self._is_proving and not is_expected
        self._is_proving = bool(result.operations)
        if is_fight:
            raise Unsettled(f"{result.operations} elements differ right after a commit: does somebody else write here?")
        if result.operations:
            self._loop.verify()

    def _committed(self, done: _Uncommitted, revision: str) -> None:
        if not self._uncommitted.received:
            self.pulse.committed()
            telemetry.SERVICE_CHANGES_PENDING.set(0)
            telemetry.ENDPOINT_CHANGES_PENDING.set(0)
        self._gaps.follow(done.steps)
        for step in done.steps.values():
            self._backends += _backends(step.now) - _backends(step.former)
        telemetry.PORTS.set(len(self._meaning.ports))
        if self._parts.sweeper is not None:
            self._parts.sweeper.note(done.steps)
        if done.steps:
            self._has_news_to_record.set()
        if not self.is_ready:
            self._begin(revision)
        elif done.steps:
            self._tell(done, revision)

    def _begin(self, revision: str) -> None:
        self.is_ready = True
        self._on_ready()
        _LOG.info("forwarding", service_ports=len(self._meaning.ports), backends=self._backends, revision=revision)
        if self._parts.sweeper is not None:
            self._parts.sweeper.look()

    def _tell(self, done: _Uncommitted, revision: str) -> None:
        elapsed = self._clock.monotonic() - (done.received or self._clock.monotonic())
        telemetry.REACTION_SECONDS.observe(elapsed)
        telemetry.programmed(done.triggers, self._clock.now())
        keys = {key[:3]: key for key in done.steps}  # One for both families.
        names = [str(keys[name]) for name in heapq.nsmallest(_NAMES_LOGGED, keys)]
        more = f" and {len(keys) - len(names)} more" if len(keys) > len(names) else ""
        ports = ", ".join(names) + more
        _LOG.info("rules follow", ports=ports, revision=revision, ms=round(elapsed * 1000, 2))

    async def _watch_drift(self) -> None:
        """Compare everything as soon as the kernel tells that somebody else changed our tables."""
        async for line in self._parts.target.drift():
            if self._kernel.locked():
                # Maybe our own nft(8) at work, and maybe a change of what was read already: look again, in silence.
                async with self._kernel:
                    pass
            else:
                _LOG.warning("foreign change of our rules", what=line)
                telemetry.DRIFT.inc()
            await self._repair()

    async def _repair(self) -> None:
        """Compare everything soon: with what is known already, for a cluster that nobody told of looks empty."""
        if self._is_informed:
            self._loop.verify()
        elif self._recalled is not None:
            await self._restore(self._recalled)

    async def _watch_addresses(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Follow addresses that come to and go from the node's links, where NodePorts depend on them."""
        while True:
            try:
                self._addresses = self._parts.addresses()
            except KernelError as error:  # They change faster than they can be read.
                _LOG.warning("addresses of the node not read", reason=error)
            else:
                if self._take_host():
                    await self._repair()
                await changed()
            await self._clock.sleep(_ADDRESSES_REST)

    async def _start_from_memory(self, memory: Memory) -> None:
        """Forward what a former boot knew when no API server answers soon."""
        await self._clock.sleep(_PATIENCE_WITH_API)
        if self._informers.synced:
            return
        known = memory.recall()
        if known is None:
            _LOG.warning("no API server answers; the rules in the kernel stay as they are")
        elif await self._restore(known):
            ports = len(known.ports)
            _LOG.warning("no API server answers; forwarding as last known", revision=known.revision, ports=ports)

    async def _restore(self, known: Forwarding) -> bool:
        """Forward what a former boot knew, and go by it until an API server answers; return whether that is done."""
        async with self._kernel:
            if self._is_informed:
                return False
            try:
                await self._parts.target.replace(known)
            except KernelError as error:
                _LOG.error("last known state not loaded", reason=error)
                return False
            self._recalled = known
        return True

    async def _record(self, memory: Memory) -> None:
        """Write down what is forwarded: soon after the start, then now and then, and when the process ends."""
        pause = _RECORD_FIRST
        try:
            while True:
                await self._has_news_to_record.wait()
                await self._clock.sleep(pause)
                self._has_news_to_record.clear()
                await memory.keep(self._forwarding())
                pause = _RECORD_EVERY
        finally:
            if self._has_news_to_record.is_set():
                memory.keep_now(self._forwarding())

    def _forwarding(self, revision: str | None = None) -> Forwarding:
        return self._meaning.forwarding(self._loop.report.committed if revision is None else revision)


def _families(steps: Steps, *, is_full: bool) -> Iterable[Family]:
    """Return which families a sync is about."""
    return Family if is_full else {key.family for key in steps}


def _backends(row: PortForwarding | None) -> int:
    return len(row.cluster) if row is not None else 0


def queries(node_name: str) -> tuple[Query, ...]:
    """Return what the proxy needs to know of the cluster."""
    return (
        Query(SERVICES, label_selector=_OURS, transform=decode.service, reader=quick.SERVICES),
        Query(ENDPOINTSLICES, label_selector=_OURS, transform=decode.endpoint_slice, reader=quick.ENDPOINT_SLICES),
        Query(NODES, field_selector=f"metadata.name={node_name}", transform=decode.node),
    )


def newest(batch: Batch) -> str:
    """Return the newest revision a batch brings things to; servers count all resources on one scale."""
    return max(batch.resource_version.values(), key=lambda text: int(text) if text.isdigit() else 0, default="")


def triggers(batch: Batch) -> tuple[tuple[Family, str], ...]:
    """Return when the pods behind the slices of a batch changed, and the family of each slice."""
    slices = (change.new for change in batch.changes if change.resource is ENDPOINTSLICES)
    return tuple((piece.family, piece.triggered) for piece in slices
                 if piece is not None and piece.triggered and piece.family is not None)  # fmt: skip
