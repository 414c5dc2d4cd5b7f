"""Keep the paths to the other nodes' pods as plan/fabric wants them: the tunnel device, routes, neighbours, entries."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from netplane.kernel import offload, sysctl
from netplane.kernel.errors import KernelError
from netplane.kernel.link import diff, events
from netplane.kernel.link import run as link
from netplane.kernel.link.objects import (
    Address,
    Command,
    Link,
    LinkChange,
    LinkName,
    Vxlan,
    WireGuard,
    add,
    change,
    remove,
    replace,
)
from netplane.lib import log
from netplane.lib.cli import UserError
from netplane.model import address
from netplane.model.node import Node
from netplane.reconcile.loop import Cause
from netplane.reconcile.report import Outcome
from netplane_cni.plan import fabric, wireguard
from netplane_cni.plan import underlay as underlays
from netplane_cni.plan.neighbourhood import Neighbourhood, place
from netplane_cni.plan.settling import Settling
from netplane_cni.run.encryption import Encryption
from netplane_cni.run.probes import Paths
from netplane_cni.run.reach import Reach

Ready = Callable[[Node, int], None]
"""Called with this node and the MTU for pods, each time the paths are in place."""

LOOSE = 2
UNLIMITED: Mapping[address.Packed, int] = {}


@dataclass(frozen=True, slots=True)
class _Known:
    """What the last act left in the kernel, and for which place of this node."""

    me: object
    local: underlays.Local
    underlay: fabric.Underlay
    index: int
    encrypted: int
    paths: diff.Paths | None
    """None after steps of which only the kernel knows the sum."""
    answered: Collection[underlays.Question] = frozenset()


@dataclass(frozen=True, slots=True)
class _Done:
    """What an act came to: this node, the MTU of its pods, how many changes, and whether the kernel was asked."""

    me: Node
    mtu: int
    count: int
    has_looked: bool


class Fabric:
    """The act of a reconcile loop. `offer` the nodes; it works in the namespace in which it was made."""

    def __init__(
        self,
        name: str,
        settings: fabric.Settings,
        ready: Ready,
        encryption: Encryption | None = None,
        probes: Paths | None = None,
        reach: Reach | None = None,
        is_sound: Callable[[], bool] = lambda: True,
        *,
        mtu: int = 0,
    ) -> None:
        """`ready` hears of the paths; `is_sound` tells whether the kernel gets offloaded checksums in tunnels right.

        `mtu` is that of pods' links, 0 where it follows from the paths.
        """
        self._is_sound = is_sound
        self._name = name
        self._probes = probes
        self._reach = reach
        self._encryption = encryption
        self._settings = settings
        self._ready = ready
        self._socket = link.Socket()
        self._thread = ThreadPoolExecutor(1, "fabric")
        self._nodes: Mapping[str, Node] = {}
        self._changes: dict[str, Node | None] = {}
        self._settled: Mapping[str, Node] = {}
        self._revision = ""
        self._is_unasked = True
        self._mtu = mtu
        self._widths = (0, fabric.UNBOUNDED)
        self.is_exceeded = False
        """Whether pods' links take more than some way through this node does."""
        self._have: _Known | None = None
        self._around: Neighbourhood | None = None
        self._report: Callable[[], None] | None = None
        self._problems: dict[str, str] = {}
        self._log = log.get("cni")

    def close(self) -> None:
        """Wait for what is being done and let go. The paths stay."""
        self._thread.shutdown()
        self._socket.close()

    def is_concerned(self, event: events.Event) -> bool:
        """Tell whether somebody else's change may have broken the paths: then `act` must look."""
        known = self._have
        if event.port == self._socket.port:
            return False
        if known is None:
            return True
        if event.kind == "route":
            return event.protocol == fabric.FABRIC_PROTOCOL
        return event.kind == "lost" or event.index in (known.index, known.encrypted, known.underlay.index)

    def offer(self, nodes: Mapping[str, Node], changes: Mapping[str, Node | None], revision: str) -> None:
        """Say which nodes there are, and which of them changed since, None for those gone."""
        self._nodes, self._revision = nodes, revision
        self._changes |= changes

    @property
    def settled(self) -> tuple[Mapping[str, Node], fabric.Underlay] | None:
        """The nodes with the addresses to use, and the link to them; None before the first act."""
        return (self._settled, self._have.underlay) if self._have else None

    @property
    def problems(self) -> Mapping[str, str]:
        """Why there is no path to some nodes, by name."""
        return self._problems

    async def act(self, cause: Cause) -> Outcome:
        """Bring the kernel where the newest nodes want it; look first unless only the nodes changed."""
        nodes, revision = self._nodes, self._revision
        listed = nodes.get(self._name)
        if listed is None or not fabric.is_placed(listed):
            return Outcome(revision)
        changes, self._changes = self._changes, {}
        limits = self._probes.take() if self._probes else {}
        loop, done = asyncio.get_running_loop(), None
        if cause == "change":
            done = await loop.run_in_executor(self._thread, lambda: self._follow(changes, limits))
        if done is None:
            done = await self._look(dict(nodes), listed, must_look=cause != "change")
        if self._report is not None:
            self._report()
        widest, narrowest = self._widths
        is_narrow = bool(self._probes and self._probes.limits)
        self.is_exceeded = is_narrow or max(self._mtu or done.mtu, widest) > narrowest
        self._ready(done.me, done.mtu)
        return Outcome(revision, operations=done.count, is_verified=done.has_looked)

    async def _look(self, nodes: Mapping[str, Node], listed: Node, *, must_look: bool) -> _Done:
        """Bring the kernel where all nodes want it. `nodes` are a copy: others come meanwhile."""
        loop = asyncio.get_running_loop()
        if self._reach is not None and len(listed.internal_ips) > 1 and (must_look or self._is_unasked):
            asked = await loop.run_in_executor(self._thread, lambda: self._questions(nodes))
            self._is_unasked = not asked
            await self._reach.offer(asked)
        limits = dict(self._probes.limits) if self._probes else UNLIMITED
        return await loop.run_in_executor(self._thread, lambda: self._converge(nodes, limits, must_look=must_look))

    def _questions(self, nodes: Mapping[str, Node]) -> dict[underlays.Question, int]:
        links = {a.address: a.index for a in self._socket.addresses()}
        return {
            (by, to): links[by]
            for by, to in underlays.questions(nodes, self._name, _local(self._socket))
            if by in links
        }

    def _converge(self, nodes: Mapping[str, Node], limits: Mapping[address.Packed, int], *, must_look: bool) -> _Done:
        known, self._have, self._around = self._have, None, None  # Until the commit returned, nobody knows.
        local = _local(self._socket) if must_look or known is None else known.local
        answered = self._reach.answered if self._reach else frozenset()
        settling = Settling(nodes, self._name, local, answered)
        self._settled, me = settling.nodes, settling.nodes[self._name]
        count = 0
        if must_look or known is None or known.me != place(me):
            underlay = find_underlay(self._socket, me)
            plan = fabric.plan(self._settled, me, underlay=underlay, settings=self._settings)
            index, made = self._ensure_tunnel(plan)
            encrypted, count = self._ensure_encrypted(plan)
            count, known = count + made, None
            self._widths = fabric.widths(self._socket.links())
        else:
            underlay, index, encrypted = known.underlay, known.index, known.encrypted
            plan = fabric.plan(self._settled, me, underlay=underlay, settings=self._settings)
        have = known.paths if known is not None else None
        if have is None:
            have = self._socket.paths(protocol=fabric.FABRIC_PROTOCOL, index=index)
        if self._encryption is not None and encrypted:
            peers = wireguard.peers(plan.sealed, fabric.underlay_family(me))
            count += self._encryption.bring(encrypted, peers, must_look=known is None)
        where = fabric.Where(underlay, index, encrypted, limits)
        want = fabric.paths(plan, me, where)
        commands = diff.paths(want, have)
        self._socket.commit(commands)
        self._have = _Known(place(me), local, underlay, index, encrypted, want, answered)
        self._around = Neighbourhood(settling, plan, me, self._settings, where)
        self._tell(plan.problems)
        addresses, probes = fabric.reached(plan, me), self._probes
        self._report = (lambda: probes.offer(addresses, underlay.mtu)) if probes else None
        return _Done(me, plan.mtu, count + len(commands), known is None)

    def _follow(self, changes: Mapping[str, Node | None], limits: Mapping[address.Packed, int | None]) -> _Done | None:
        """Do what a few nodes' change takes, whatever the number of the others; None where that is not all."""
        around, self._around = self._around, None  # Until the commit returned, nobody knows.
        known = self._have
        if around is None or known is None or (self._reach and self._reach.answered != known.answered):
            return None
        step = around.follow(changes, limits)
        if step is None or (self._is_unasked and self._reach is not None and around.settling.has_choice):
            return None
        count = 0
        if step.peers and self._encryption is not None:
            told = self._encryption.follow(known.encrypted, step.peers)
            if told is None:
                return None
            count = told
        commands = diff.paths(step.want, step.have)
        self._have = None
        self._socket.commit(commands)
        self._have = dataclasses.replace(known, paths=None) if commands else known
        self._around = around
        self._tell_news(step.problems)
        probes = self._probes
        self._report = (lambda: probes.change(step.come, step.gone)) if probes else None
        return _Done(around.me, around.plan.mtu, count + len(commands), has_looked=False)

    def _ensure_tunnel(self, plan: fabric.Plan) -> tuple[int, int]:
        """Return the tunnel device's index (0 in direct mode) and how many things were done to have it."""
        there = self._socket.link(fabric.DEVICE)
        if plan.tunnel is None:
            if there is None:
                return 0, 0
            self._socket.commit([remove(LinkName(fabric.DEVICE))])
            return 0, 1
        count = 0
        if there is None or not _is_like(there, plan.tunnel):
            self._socket.commit([remove(LinkName(fabric.DEVICE))])
            self._make(plan.tunnel)
            there, count = self._socket.link(fabric.DEVICE), 1
            if there is None:
                raise UserError(f"{fabric.DEVICE} vanished right after it was made: does somebody else manage links?")
        done = self._adjust(there, plan.tunnel, plan.tunnel_addresses)
        chosen = self._settings.checksum
        is_on = chosen == "offload" or (chosen == "auto" and self._is_sound())
        count += offload.ensure_checksum(fabric.DEVICE, is_on=is_on)
        return there.index, count + done

    def _ensure_encrypted(self, plan: fabric.Plan) -> tuple[int, int]:
        """Return the WireGuard device's index (0 where nothing is encrypted) and how much was done to have it."""
        there = self._socket.link(wireguard.DEVICE)
        if plan.encrypted is None:
            gone = [remove(LinkName(wireguard.DEVICE))] if there else []
            self._socket.commit(gone)
            return 0, len(gone)
        count = 0
        if there is None or there.kind != "wireguard":
            self._socket.commit([remove(LinkName(wireguard.DEVICE))])
            try:
                self._socket.commit([add(plan.encrypted)])
            except KernelError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                raise UserError("this kernel has no WireGuard (CONFIG_WIREGUARD): choose another --fabric") from error
            there, count = self._socket.link(wireguard.DEVICE), 1
            if there is None:
                raise UserError(
                    f"{wireguard.DEVICE} vanished right after it was made: does somebody else manage links?"
                )
        return there.index, count + self._adjust(there, plan.encrypted, plan.tunnel_addresses)

    def _make(self, tunnel: Vxlan) -> None:
        try:
            self._socket.commit([add(tunnel)])
        except KernelError as error:
            if "VNI already exists" not in error.detail:
                raise
            what = f"VXLAN {tunnel.vni} on port {tunnel.port}"
            raise UserError(f"{what} is in use on this node: choose another --vxlan-id or --vxlan-port") from error

    def _adjust(self, there: Link, want: Vxlan | WireGuard, addresses: Sequence[address.Packed]) -> int:
        """Give a tunnel device its MTU, MAC address and addresses; return how many changes that took."""
        mac = want.mac if isinstance(want, Vxlan) else None
        commands: list[Command] = []
        if (mac is not None and there.mac != mac) or there.mtu != want.mtu:
            commands.append(change(LinkChange(index=there.index, mac=mac, mtu=want.mtu)))
        if not there.is_up:
            inet = (("forwarding", 1), ("rp_filter", LOOSE))
            commands.append(change(LinkChange(index=there.index, inet=inet, addr_gen_none=True)))
            commands.append(change(LinkChange(index=there.index, is_up=True)))
        wanted = {(ip, len(ip) * 8): Address(there.index, ip, len(ip) * 8) for ip in addresses}
        have = {(a.address, a.length): a for a in self._socket.addresses(there.index)}
        commands += [replace(a) for key, a in sorted(wanted.items()) if key not in have]
        commands += [remove(a) for key, a in sorted(have.items()) if key not in wanted]
        self._socket.commit(commands)
        if commands:
            # Loose: a packet from a pod's peer may come by another way than its answer goes. The kernel takes the
            # larger of this and conf.all, so a strict conf.all does not win.
            sysctl.ensure(f"net/ipv4/conf/{want.name}/rp_filter", LOOSE)
        return len(commands)

    def _tell(self, problems: Mapping[str, str]) -> None:
        over = {name: "" for name in self._problems if name not in problems}
        self._tell_news(over | {name: why for name, why in problems.items() if self._problems.get(name) != why})

    def _tell_news(self, problems: Mapping[str, str]) -> None:
        for name, why in problems.items():
            self._problems.pop(name, None)
            if why:
                self._problems[name] = why
                self._log.warning("no path to the pods of a node", node=name, why=why)


def find_underlay(socket: link.Socket, me: Node) -> fabric.Underlay:
    """Return the link that has this node's address; UserError when none has."""
    wanted = me.ip(fabric.underlay_family(me))
    index = next((a.index for a in socket.addresses() if a.address == wanted), 0)
    found = socket.link(index) if index else None
    if wanted is None or found is None:
        text = address.text(wanted) if wanted else "none"
        raise UserError(
            f"no link of this machine has the address {text} of Node {me.name}: correct the Node's InternalIP"
        )
    networks = {_network(a) for a in socket.addresses(index) if a.length < len(a.address) * 8 and not _is_link_local(a)}
    return fabric.Underlay(found.index, found.mtu, tuple(sorted(networks, key=lambda p: (p.network, p.length))))


def _local(socket: link.Socket) -> underlays.Local:
    return {a.address: _network(a) for a in socket.addresses()}


def _network(found: Address) -> address.Prefix:
    width = len(found.address) * 8
    number = int.from_bytes(found.address, "big") >> (width - found.length) << (width - found.length)
    return address.Prefix(number.to_bytes(width // 8, "big"), found.length)


def _is_link_local(found: Address) -> bool:
    return found.address.startswith((b"\xfe\x80", b"\xa9\xfe"))


def prepare_node(families: Sequence[address.Family]) -> None:
    """Let packets pass through this node. Kernel parameters that are right already are not written."""
    if address.Family.V4 in families:
        # Pods' packets are not for the node itself: without it none leaves or arrives.
        sysctl.ensure("net.ipv4.ip_forward", 1)
    if address.Family.V6 in families:
        # Forwarding turns off what routers announced, and so the node's own default route, unless told otherwise.
        with contextlib.suppress(KernelError):
            if sysctl.read("net.ipv6.conf.default.accept_ra") == "1":
                _keep_router_advertisements()
        sysctl.ensure("net.ipv6.conf.all.forwarding", 1)


def _keep_router_advertisements() -> None:
    with link.Socket() as socket:
        for one in socket.links():
            name = f"net/ipv6/conf/{one.name}/accept_ra"
            with contextlib.suppress(KernelError):
                if not one.kind and sysctl.read(name) == "1":
                    sysctl.write(name, 2)


def remove_all() -> None:
    """Take the tunnel devices and every path of ours away."""
    with link.Socket() as socket:
        names = [name for name in (fabric.DEVICE, wireguard.DEVICE) if socket.link(name)]
        socket.commit([remove(LinkName(name)) for name in names])
        socket.commit(diff.paths(diff.Paths(), socket.paths(protocol=fabric.FABRIC_PROTOCOL)))


def _is_like(there: Link, want: Vxlan) -> bool:
    """Tell whether the device can become the wanted one: only these parameters are fixed at its birth."""
    have = there.vxlan
    return have is not None and (have.vni, have.port, have.local, have.underlay) == (
        want.vni,
        want.port,
        want.local,
        want.underlay,
    )
