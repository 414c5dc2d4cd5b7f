"""Do what a runtime asks: ADD, DEL, CHECK, STATUS, GC, VERSION. Addresses are given by addresses, kept by leases."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

from netplane.kernel import netns
from netplane.lib import log
from netplane.lib.clock import Clock
from netplane.model import address
from netplane_cni import spec
from netplane_cni.plan import attach, bridge, masquerade
from netplane_cni.plan.attach import Wiring
from netplane_cni.plan.ipam import Lease, LeaseKey, Pool
from netplane_cni.run import worker
from netplane_cni.run.addresses import Addresses
from netplane_cni.run.attach import Found, opened
from netplane_cni.run.leases import Journal
from netplane_cni.run.translation import Translation
from netplane_cni.spec import CniError, Request


class Cables(Protocol):
    """Whatever lays cables: `attach.Wirer`, or a test's stand-in. What is asked for begins at once or when awaited."""

    def wire(self, wiring: Wiring, namespace: int) -> Awaitable[None]:
        """Lay the cable into the namespace (an open file). After a failure nothing of it is left."""

    def leave(self, lease: Lease) -> Awaitable[None]:
        """Cut the pod off, quickly; its cable stays until `sweep`."""

    def sweep(self) -> Awaitable[None]:
        """Remove all cables that were left."""

    def remove(self, name: str, lease: Lease | None = None) -> Awaitable[None]:
        """Remove one cable now, and what a bridge holds for the lease."""

    def found(self) -> Awaitable[dict[str, Found]]:
        """Return our cables that are there."""

    def faults(self, wiring: Wiring, namespace: int) -> Awaitable[list[str]]:
        """Return what is not as `wire` left it."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the node gives its pods; with `gateways` on its bridge. Nothing can be added before it is known."""

    pools: tuple[Pool, ...]
    mtu: int
    gateways: tuple[attach.Gateway, ...] = ()


@dataclass(slots=True)
class _Turn:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Verbs:
    """The plugin's state on this node, and what changes it. `recover` first, `sweeping` beside."""

    def __init__(
        self, journal: Journal, cables: Cables, rules: Translation, *, clock: Clock, boot: str, cool_down: float
    ) -> None:
        self.prepared: Prepared | None = None
        self.not_ready = "it has not learnt the node's pod network yet"
        self.addresses = Addresses(journal, clock=clock, cool_down=cool_down)
        self._journal = journal
        self._cables = cables
        self._rules = rules
        self._clock = clock
        self._boot = boot
        self._turns: dict[LeaseKey, _Turn] = {}
        self._doubtful: list[Lease] = []
        self._left = asyncio.Event()
        self._log = log.get("cni")

    @property
    def leases(self) -> list[Lease]:
        """Every lease there is, those under way and those leaving too."""
        return self.addresses.all.leases

    def free(self) -> dict[address.Family, int]:
        """Return how many addresses of each family could be given now."""
        return self.addresses.free(self.prepared.pools if self.prepared is not None else ())

    async def call(self, request: Request, namespace: int | None) -> bytes:
        """Do what is asked and return the answer; raises CniError."""
        match request.command:
            case "VERSION":
                return spec.encode_version()
            case "STATUS":
                self._status()
            case "GC":
                await self._collect(request)
            case "ADD" | "DEL" | "CHECK":
                with self._turn((request.container, request.ifname)) as turn, opened(request.netns, namespace) as place:
                    async with turn:
                        return await self._on_attachment(request, place)
        return b""

    async def _on_attachment(self, request: Request, opened: int | None) -> bytes:
        if request.command == "DEL":
            await self._delete((request.container, request.ifname))
            return b""
        if opened is None:
            raise CniError(spec.INVALID_ENVIRONMENT, f"CNI_NETNS {request.netns} cannot be opened")
        if request.command == "ADD":
            return await self._add(request, opened)
        await self._check(request, opened)
        return b""

    async def _add(self, request: Request, namespace: int) -> bytes:
        prepared = self._ready()
        before = self._journal.state.leases.get((request.container, request.ifname))
        lease = self._choose(request, namespace, prepared, before)
        clash = masquerade.clash(lease, self.addresses.all.by_port)
        if clash:
            raise CniError(spec.INVALID_CONFIG, f"the host port cannot be given: {clash}")
        wiring = Wiring(lease, prepared.mtu, self._gets_default_route(request), prepared.gateways)
        self.addresses.given.put(lease)
        try:
            await self._hold_and_lay(wiring, namespace, is_new=before is None)
            await self._open_ports(wiring.lease, before)
        except OSError as error:
            await self._give_back(lease)
            raise CniError(spec.TRY_AGAIN_LATER, f"{lease.ifname} was not attached: {error}") from error
        finally:
            self.addresses.given.drop(lease.key)
        layout = bridge if wiring.gateways else attach
        return spec.encode_result(layout.result(wiring, request.netns, dict(request.dns)), request)

    async def _hold_and_lay(self, wiring: Wiring, namespace: int, *, is_new: bool) -> None:
        """Return once the lease is on disk and the cable is there; after a failure the cable is not.

        For a new container both at once, as the disk takes its time: a start finds the one without the other.
        """
        holding = self._journal.hold(wiring.lease)
        if not is_new:
            await holding
            await self._cables.wire(wiring, namespace)
            return
        laying = self._cables.wire(wiring, namespace)
        laid, held = await worker.outcome(laying), await worker.outcome(holding)
        if held is not None and laid is None:
            await self._cables.remove(wiring.lease.link, wiring.lease)
        for failure in (held, laid):
            if failure is not None:
                raise failure

    async def _open_ports(self, lease: Lease, before: Lease | None) -> None:
        if lease.ports or (before is not None and before.ports):
            try:
                await self._rules.follow(before, lease)
            except OSError:
                await self._cables.remove(lease.link, lease)
                raise

    async def _delete(self, key: LeaseKey) -> None:
        """Begin the end of an attachment; its address is free when `sweeping` has seen the cable gone."""
        lease = self._journal.state.leases.get(key)
        try:
            if lease is None:
                await self._cables.remove(attach.link_name(*key))
                return
            if lease.is_leaving:
                return
            leaving = replace(lease, is_leaving=True)
            await self._journal.hold(leaving)
            if lease.ports:
                await self._rules.follow(lease, leaving)
            await self._cables.leave(leaving)
        except OSError as error:
            raise CniError(spec.TRY_AGAIN_LATER, f"{key[1]} was not detached: {error}") from error
        self._left.set()

    async def _check(self, request: Request, namespace: int) -> None:
        lease = self._journal.state.leases.get((request.container, request.ifname))
        if lease is None or lease.is_leaving:
            raise CniError(spec.UNKNOWN_CONTAINER, f"container {request.container} has no lease for {request.ifname}")
        prepared = self._ready()
        wiring = Wiring(lease, prepared.mtu, self._gets_default_route(request, of=lease), prepared.gateways)
        untold = spec.untold(request, map(address.text, lease.addresses))
        faults = untold + await self._cables.faults(wiring, namespace)
        if faults:
            raise CniError(spec.MISMATCH, f"{request.ifname} is not as ADD left it: {faults[0]}", "; ".join(faults[1:]))

    def _status(self) -> None:
        for pool in self._ready(spec.NOT_AVAILABLE).pools:
            self.addresses.next(pool, otherwise=spec.NOT_AVAILABLE)

    async def _collect(self, request: Request) -> None:
        """Free what the runtime no longer knows of (section 3, GC): leases of this network that it does not list."""
        for lease in list(self._journal.state.leases.values()):
            if lease.network == request.network and lease.key not in request.valid_attachments:
                self._log.info("collected", container=lease.container, ifname=lease.ifname, pod=lease.pod)
                with self._turn(lease.key) as turn:
                    async with turn:
                        await self._delete(lease.key)

    def _choose(self, request: Request, namespace: int, prepared: Prepared, before: Lease | None) -> Lease:
        key = request.container, request.ifname
        known = before.addresses if before and not request.ips else ()
        addresses = known or self.addresses.choose(request, prepared.pools)
        return Lease(
            *key,
            attach.link_name(*key),
            addresses,
            request.mac or attach.pod_mac(*key),
            self._boot,
            network=request.network,
            netns=request.netns,
            namespace=netns.identity(namespace),
            pod=request.pod,
            ports=request.ports,
            bandwidth=request.bandwidth,
        )

    def _gets_default_route(self, request: Request, *, of: Lease | None = None) -> bool:
        """Only the container's first interface gets it: another plugin's or ours."""
        if of is None and any(
            route.get("dst") in ("0.0.0.0/0", "::/0") for route in spec.previous_result(request)["routes"]
        ):
            return False
        return request.ifname == min(
            (request.ifname, *(lease.ifname for lease in self.addresses.all.of(request.container)))
        )

    def _ready(self, code: int = spec.TRY_AGAIN_LATER) -> Prepared:
        if self.prepared is None:
            raise CniError(code, "netplane's CNI daemon is not ready", self.not_ready)
        return self.prepared

    async def _give_back(self, lease: Lease) -> None:
        try:
            await self._journal.free(lease)
            self.addresses.rest([lease])
        except OSError as error:
            self._log.warning("a lease could not be given back; DEL will", container=lease.container, why=str(error))

    @contextlib.contextmanager
    def _turn(self, key: LeaseKey) -> Iterator[asyncio.Lock]:
        """Yield the lock by which one call at a time works on an attachment."""
        turn = self._turns.setdefault(key, _Turn())
        turn.users += 1
        try:
            yield turn.lock
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[key]

    async def sweeping(self) -> None:
        """For ever remove the cables that DEL left, together, and then free their addresses."""
        while True:
            await self._left.wait()
            self._left.clear()
            try:
                await self.sweep()
            except OSError as error:
                self._log.warning("cables could not be removed, will retry", why=str(error))
                await self._clock.sleep(1.0)
                self._left.set()

    async def sweep(self) -> None:
        """Remove the cables that DEL left, and free their addresses."""
        leaving = [lease for lease in self._journal.state.leases.values() if lease.is_leaving]
        await self._cables.sweep()
        # An ADD of the same container may have taken its lease over meanwhile.
        gone = [
            lease
            for lease in leaving
            if self._journal.state.leases.get(lease.key) is lease and lease.key not in self.addresses.given.leases
        ]
        if gone:
            await self._journal.free(*gone)
            self.addresses.rest(gone)

    async def recover(self) -> None:
        """Make leases and cables agree after a start: see `_is_dead`."""
        self.addresses.restore_rest()
        cables = await self._cables.found()
        leases = dict(self._journal.state.leases)
        dead = {key: lease for key, lease in leases.items() if self._is_dead(lease, cables)}
        for lease in dead.values():
            self._log.info("lease of a container that is gone", container=lease.container, pod=lease.pod)
            await self._cables.remove(lease.link, lease)
        await self._journal.free(*dead.values())
        self.addresses.rest(lease for lease in dead.values() if lease.boot == self._boot)
        alive = [lease for key, lease in leases.items() if key not in dead]
        self._doubtful = [lease for lease in alive if not netns.is_at(lease.netns, lease.namespace)]
        for lease in alive:
            if lease.is_leaving:
                await self._cables.leave(lease)
        known = {lease.link for lease in leases.values()}
        for name, found in cables.items():
            if name not in known:
                await self._adopt_or_remove(name, found)
        await self.sweep()

    def _is_dead(self, lease: Lease, cables: dict[str, Found]) -> bool:
        """Tell by two proofs: another boot; or the cable is gone and the container's namespace is not there either.

        A namespace takes its end of the cable along, and a cable's ends go together.
        """
        if lease.boot != self._boot:
            return True
        return lease.link not in cables and not netns.is_at(lease.netns, lease.namespace)

    async def doubting(self) -> None:
        """Look again at those whose namespace had gone at the start, but not their cable: the kernel takes a while."""
        for pause in (0.1, 0.4, 1.5, 6.0, 24.0):
            if not self._doubtful:
                return
            await self._clock.sleep(pause)
            cables = await self._cables.found()
            for lease in self._doubtful:
                with self._turn(lease.key) as turn, contextlib.suppress(CniError):  # else GC will
                    async with turn:
                        if self._journal.state.leases.get(lease.key) is lease and self._is_dead(lease, cables):
                            await self._delete(lease.key)
            self._doubtful = [one for one in self._doubtful if one.link in cables]

    async def _adopt_or_remove(self, name: str, found: Found) -> None:
        """Take care of a cable that no lease tells of: with addresses it is in use, and the journal was lost."""
        owner = attach.owner(found.link.alias)
        if owner is None or not found.addresses or found.link.group == attach.LEAVING_GROUP:
            self._log.warning("removing a cable without lease", link=name, alias=found.link.alias)
            await self._cables.remove(name)
            return
        self._log.warning("adopting a cable without lease: was the state lost?", link=name, container=owner[0])
        await self._journal.hold(Lease(*owner, name, found.addresses, attach.pod_mac(*owner), self._boot))
