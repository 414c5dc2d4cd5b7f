"""Follow the cluster and make the engine follow; keep the engine alive. What it shall hold is decided in `plan`."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

from netplane.edge import pem
from netplane.edge.gateway.facts import Door as GatewayDoor
from netplane.edge.gateway.listeners import Pair
from netplane.edge.gateway.run import Follower
from netplane.edge.ingress.plan import desired, ingress, slots, tls
from netplane.edge.ingress.plan.state import MAPS, State, digest
from netplane.edge.ingress.plan.view import Door
from netplane.edge.ingress.run import telemetry
from netplane.edge.ingress.run.admin import EngineError
from netplane.edge.ingress.run.engine import Engine
from netplane.edge.ingress.run.facts import QUERIES, Facts, ports_of
from netplane.edge.ingress.run.passwords import Passwords
from netplane.edge.ingress.run.status import Publisher
from netplane.kube import election
from netplane.kube.api import Api
from netplane.kube.events import Recorder
from netplane.kube.informer import Informers
from netplane.kube.types import Key
from netplane.lib import clock as clocks
from netplane.lib import log
from netplane.model import address
from netplane.model import routing as model
from netplane.model.routing import Listener, Routing
from netplane.reconcile.loop import Cause, Loop, Pace
from netplane.reconcile.report import Outcome

_LOG = log.get("ingress")
_FORGET_SECONDS = 2.0
_SETTLE_SECONDS = 0.2
_STATS_AT_ONCE = 32
_UNREAD_SECONDS = 60.0
"""How long after metrics were read last they are kept up to date."""
_REST = 3.0
"""After everything was read, how many times as long to wait before the next time: endpoints never wait for it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Wishes:
    """What this door was asked to be."""

    door: Door
    addresses: tuple[str, ...] = ()
    """Where clients reach it, for statuses."""
    publish_service: Key | None = None
    default_certificate: Key | None = None
    serves_gateways: bool = True
    installs_definitions: bool = False
    reserved_ports: frozenset[int] = frozenset()
    identity: str = "door"
    """Which of the replicas of this door it is; the same after a restart."""


class Daemon:
    """One controller of one door."""

    def __init__(
        self,
        wishes: Wishes,
        api: Api,
        engine: Engine,
        passwords: Passwords,
        *,
        resync_seconds: float = 300.0,
        clock: clocks.Clock = clocks.SYSTEM,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        """Wire the parts; nothing runs before `run`. `on_ready` is called once, when everything is served."""
        self._wishes = wishes
        self._engine = engine
        self._passwords = passwords
        self._clock = clock
        self._informers = Informers(api, QUERIES, clock=clock)
        self._facts = Facts(self._informers)
        self._recorder = Recorder(api, "netplane-ingress", clock)
        self._api = api
        self._publisher = Publisher(api, self._recorder, clock)
        self._gateways = Follower(api, installs_definitions=wishes.installs_definitions, clock=clock)
        self._pace = Pace(gap=0.0, resync=resync_seconds, first_backoff=0.05, longest_backoff=5.0)
        self._loop = Loop(self._act, name="engine", clock=clock, pace=self._pace, expected=(EngineError, TimeoutError))
        self._have: State | None = None
        self._plan: desired.Plan | None = None
        self._routing = Routing()
        self._leaving: frozenset[tuple[str, str]] = frozenset()
        self._received: float | None = None
        self._on_ready = on_ready
        self._lock = asyncio.Lock()
        self._next_read = 0.0
        self._is_put_off = asyncio.Event()
        self._metrics = telemetry.EngineMetrics(engine.counts, clock)
        self.is_ready = False
        self._lead(leads=False)

    async def run(self) -> None:
        """Serve until cancelled; then leave the engine as it is."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._recorder.run())
            group.create_task(self._publisher.run())
            group.create_task(self._informers.run())
            group.create_task(self._passwords.run())
            if self._wishes.serves_gateways:
                group.create_task(self._gateways.run(self._gateways_changed))
            group.create_task(self._follow())
            group.create_task(self._loop.run())
            group.create_task(self._keep_alive())
            group.create_task(self._forget())
            group.create_task(self._catch_up())
            group.create_task(self._stand_for_leader())

    def report(self) -> dict[str, Any]:
        """Return how things are, for /status."""
        counts = dataclasses.asdict(self._engine.counts)
        return {
            **dict(self._loop.report.lines()),
            "engine": {"pid": self._engine.pid, **counts},
            "routes": len(self._routing.routes),
            "leaving": len(self._leaving),
            "ready": self.is_ready,
            "leads": self._gateways.leads,
        }

    async def refresh_metrics(self) -> None:
        """Ask the engine for its counts, of slots that are in use, while somebody reads them.

        To print a line of counts costs the engine as much as several requests, and it has many slots that are empty.
        """
        if self._clock.monotonic() - self._metrics.read_at > _UNREAD_SECONDS:
            return
        slots = dict((self._have or State()).maps.get("slots", {}))
        try:
            table = await self._engine.admin.ask("show table owners")
            asked, stats = [telemetry.stat_of(slot) for slot in slots], list[str]()
            for at in range(0, len(asked), _STATS_AT_ONCE):  # Changes go between.
                stats += await self._engine.admin.run(asked[at : at + _STATS_AT_ONCE])
        except EngineError:
            return
        self._metrics.update(table, stats, slots)

    async def _follow(self) -> None:
        if self._wishes.serves_gateways:
            await clocks.wait(self._gateways.looked, 10.0, self._clock)
        async for batch in self._informers.batches():
            self._facts.take(batch)
            self._received = batch.received if self._received is None else self._received
            numbers = [int(each) for each in batch.resource_version.values() if each.isdigit()]
            self._loop.wake(str(max(numbers, default=0)))

    def _gateways_changed(self) -> None:
        self._facts.must_read = True
        if self._informers.synced:
            self._loop.wake(self._loop.report.wanted or "0")

    async def _act(self, cause: Cause) -> Outcome:
        async with self._lock:
            revision, received, self._received = self._loop.report.wanted, self._received, None
            must_look = cause != "change" or self._have is None
            if must_look:
                await self._look(cause)
            is_late = not must_look and self._facts.must_read and self._clock.monotonic() < self._next_read
            statuses = self._decide(must_read=must_look or (self._facts.must_read and not is_late))
            if is_late:
                revision = self._loop.report.committed
                self._is_put_off.set()
            operations = await self._commit()
            if received is not None:
                telemetry.COMMIT.observe(self._clock.monotonic() - received)
            for publish in statuses:
                await publish()
            if not self.is_ready:
                self.is_ready = True
                self._on_ready()
            return Outcome(revision, operations=operations, is_verified=must_look)

    async def _look(self, cause: Cause) -> None:
        """Find out what the engine holds; nothing when none runs."""
        had, self._have = self._have, None
        if not await self._engine.running():
            self._leaving = frozenset()
            return
        seen = await self._engine.observe()
        self._leaving = seen.leaving
        if self._plan is None:
            self._engine.counts.adoptions += 1
            _LOG.info("went on with the engine that runs", pid=self._engine.pid)
        elif cause == "resync" and had is not None and _differ(seen, had):
            telemetry.REPAIRS.inc()
            _LOG.warning("the engine was not as it was left; mending it")
        self._have = seen

    def _decide(self, *, must_read: bool) -> list[Callable[[], Any]]:
        """Bring the plan up to date; return what is to be written to the API once the engine has it."""
        if not must_read and self._plan is not None:
            moved = self._facts.moved(self._routing.servers)
            self._routing = dataclasses.replace(self._routing, servers={**self._routing.servers, **moved})
            self._plan = self._plan.with_moved(moved)
            return []
        began = self._clock.monotonic()
        self._facts.must_read = False
        view = self._facts.view()
        read = ingress.read(view, self._wishes.door)
        gateways = self._gateways.read(view.services, self._pair, self._gateway_door())
        findings = (*read.findings, *tls.outlived(read.routing.certificates, gateways.routing.certificates))
        routing = model.merge(Routing(listeners=self._own_listeners()), read.routing, gateways.routing)
        self._facts.moved(())
        self._routing = dataclasses.replace(routing, servers=self._facts.servers(ports_of(routing)))
        self._plan = self._compile()
        self._passwords.offer(self._plan.users)
        ended = self._clock.monotonic()
        self._next_read = ended + _REST * (ended - began)
        telemetry.READ.observe(ended - began)
        telemetry.ROUTES.set(len(routing.routes))
        telemetry.FINDINGS.set(len(findings))

        async def publish() -> None:
            self._publisher.offer(view.ingresses, read.mine, findings, self._addresses())
            await self._gateways.write(gateways.statuses)

        return [publish]

    def _compile(self) -> desired.Plan:
        listeners = tuple(sorted(self._routing.listeners, key=lambda one: one.port))
        if listeners != self._engine.settings.listeners:
            self._engine.settings = dataclasses.replace(self._engine.settings, listeners=listeners)
        kept = self._have.maps.get("slots", {}) if self._have else {}
        while True:
            busy = frozenset(slot for slot, _ in self._leaving) - set(kept)
            try:
                return desired.compile_plan(self._routing, self._engine.settings, kept=kept, busy=busy)
            except slots.SlotsExhausted as error:
                self._grow(error)

    def _grow(self, error: slots.SlotsExhausted) -> None:
        have = self._engine.settings.slots
        number = max(2 * have.get(error.kind, 0), error.wanted + error.wanted // 4 + 1)
        self._engine.settings = dataclasses.replace(self._engine.settings, slots={**have, error.kind: number})
        _LOG.info("more slots are needed", kind=error.kind, slots=number)

    async def _commit(self) -> int:
        assert self._plan is not None
        if self._have is self._plan.state:
            return 0
        want, have, self._have = self._plan.state, self._have, None  # Until it returned, nobody knows.
        pem_text = self._default_pem()
        if have is None or await self._engine.running() != self._engine.mark():
            await self._engine.start(want, default_pem=pem_text)
            self._leaving, operations = frozenset(), 1
        else:
            operations = await self._engine.apply(dataclasses.replace(want, leaving=self._leaving), have)
            operations += await self._engine.set_default_certificate(pem_text)
            moved = [slot for slot, held in want.servers.items() if have.servers.get(slot) is not held]
            moved += [slot for slot in have.servers if slot not in want.servers]
            gone = {(slot, name) for slot in moved for name in have.servers.get(slot, {})}
            wanted = {(slot, name) for slot in moved for name in want.servers.get(slot, {})}
            self._leaving = (self._leaving | gone) - wanted
        self._have = want
        return operations

    async def _keep_alive(self) -> None:
        """Start the engine anew when it ends, at once."""
        while True:
            if not self.is_ready or self._lock.locked():
                await self._clock.sleep(_SETTLE_SECONDS)
            elif await self._engine.running():
                await self._engine.ended()
            elif not self._lock.locked():
                _LOG.warning("the engine has ended; starting it anew")
                self._loop.verify()
                await self._clock.sleep(_SETTLE_SECONDS)

    async def _catch_up(self) -> None:
        """Read what was put off while much was made at once."""
        while True:
            await self._is_put_off.wait()
            self._is_put_off.clear()
            await self._clock.sleep(max(0.0, self._next_read - self._clock.monotonic()))
            self._loop.wake(self._loop.report.wanted)

    async def _stand_for_leader(self) -> None:
        """Write statuses and Events while no other replica does. The engine is everybody's own."""
        name = lease_name(self._wishes.door.controller)
        while True:
            with contextlib.suppress(election.Lost):
                await election.lead(self._api, name, identity=self._wishes.identity, run=self._write, clock=self._clock)

    async def _write(self) -> None:
        self._lead(leads=True)
        self._facts.must_read = True
        if self._informers.synced:
            self._loop.wake(self._loop.report.wanted or "0")
        try:
            await asyncio.Event().wait()
        finally:
            self._lead(leads=False)

    def _lead(self, *, leads: bool) -> None:
        self._gateways.leads = leads
        self._publisher.lead(leads=leads)

    async def _forget(self) -> None:
        while True:
            await self._clock.sleep(_FORGET_SECONDS)
            async with self._lock:
                if self._leaving and self._have is not None:
                    try:
                        self._leaving = await self._engine.forget(self._leaving)
                    except EngineError:
                        self._loop.verify()

    def _own_listeners(self) -> tuple[Listener, ...]:
        door = self._wishes.door
        return tuple(
            Listener(port, protocol)  # type: ignore[arg-type]  # the two literals
            for port, protocol in ((door.http, "HTTP"), (door.https, "HTTPS"))
            if port
        )

    def _gateway_door(self) -> GatewayDoor:
        ports = {one.port: str(one.protocol) for one in self._own_listeners()}
        return GatewayDoor(self._addresses(), ports, self._wishes.reserved_ports)

    def _addresses(self) -> tuple[str, ...]:
        found = list(self._wishes.addresses)
        service = self._facts.services.get(self._wishes.publish_service) if self._wishes.publish_service else None
        if service is not None:
            vips = service.load_balancer_vips or service.external_ips or service.cluster_ips
            found += [address.text(one) for one in vips]
        return tuple(dict.fromkeys(found))

    def _pair(self, key: Key) -> Pair | str:
        secret = self._facts.secrets.get(key)
        if secret is None:
            return f"there is no Secret {key[0]}/{key[1]}"
        try:
            found = pem.pair(secret)
        except ValueError as error:
            return f"Secret {key[0]}/{key[1]}: {error}"
        return Pair(found.pem, found.names)

    def _default_pem(self) -> str:
        key = self._wishes.default_certificate
        found = self._pair(key) if key else ""
        if isinstance(found, Pair):
            return found.pem
        if found:
            _LOG.warning("the default certificate cannot be served; one of our own is", reason=found)
        return ""


def lease_name(controller: str) -> str:
    """Return the Lease that the replicas of a door share: those with the same name for IngressClasses."""
    return "netplane-ingress" if controller == Door().controller else f"netplane-ingress-{digest(controller)}"


def _differ(seen: State, had: State) -> bool:
    servers = [{slot: set(held) for slot, held in one.servers.items() if held} for one in (seen, had)]
    maps = [{name: dict(one.maps.get(name, {})) for name in MAPS} for one in (seen, had)]
    return servers[0] != servers[1] or maps[0] != maps[1] or set(seen.certificates) != set(had.certificates)
