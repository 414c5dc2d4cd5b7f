"""Keep the paths to the other nodes' pods as plan/fabric wants them: the tunnel device, routes, neighbours, entries."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
from collections.abc import Callable, Mapping, Sequence
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
from netplane_cni.plan.neighbourhood import Neighbourhood, Step, Where, place
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
    ) -> None:
        """`ready` hears of the paths; `is_sound` tells whether the kernel gets offloaded checksums in tunnels right."""
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
        self._settled: Mapping[str, Node] = {}
        self._revision = ""
        self._is_unasked = True
        self._have: _Known | None = None
        self._around: Neighbourhood | None = None
        self._report: Callable[[], None] | None = None
        self._problems: Mapping[str, str] = {}
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

    def offer(self, nodes: Mapping[str, Node], revision: str) -> None:
        """Put newer nodes in place of those not taken yet."""
        self._nodes, self._revision = nodes, revision

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
        loop, must_look = asyncio.get_running_loop(), cause != "change"
        if self._reach is not None and len(listed.internal_ips) > 1 and (must_look or self._is_unasked):
            asked = await loop.run_in_executor(self._thread, lambda: self._questions(nodes))
            self._is_unasked = not asked
            await self._reach.offer(asked)
        plan, me, count, has_looked = await loop.run_in_executor(self._thread, lambda: self._converge(nodes, must_look))
        self._tell(plan)
        if self._report is not None:
            self._report()
        self._ready(me, plan.mtu)
        return Outcome(revision, operations=count, is_verified=has_looked)

    def _questions(self, nodes: Mapping[str, Node]) -> dict[underlays.Question, int]:
        links = {a.address: a.index for a in self._socket.addresses()}
        return {
            (by, to): links[by]
            for by, to in underlays.questions(nodes, self._name, _local(self._socket))
            if by in links
        }

    def _converge(self, nodes: Mapping[str, Node], must_look: bool) -> tuple[fabric.Plan, Node, int, bool]:
        around, self._around = self._around, None  # Until the commit returned, nobody knows.
        limits = self._probes.limits if self._probes else UNLIMITED
        if around is not None and not must_look and around.where.limits is limits:
            step = around.follow(nodes)
            if step is not None:
                return self._follow(around, step, nodes)
        known, self._have = self._have, None
        if must_look or known is None:
            local, known = _local(self._socket), None
        else:
            local = known.local
        original, nodes = nodes, underlays.settle(nodes, self._name, local, self._reach.answered if self._reach else ())
        self._settled, me = nodes, nodes[self._name]
        if known is None or known.me != place(me):
            known, underlay = None, find_underlay(self._socket, me)
            plan = fabric.plan(nodes, me, underlay=underlay, settings=self._settings)
            index, count = self._ensure_tunnel(plan)
            encrypted, made = self._ensure_encrypted(plan)
            count += made
            have = None
        else:
            underlay, index, encrypted, have, count = known.underlay, known.index, known.encrypted, known.paths, 0
            plan = fabric.plan(nodes, me, underlay=underlay, settings=self._settings)
        if have is None:
            have = self._socket.paths(protocol=fabric.FABRIC_PROTOCOL, index=index)
        if self._encryption is not None and encrypted:
            peers = wireguard.peers(plan.sealed, fabric.underlay_family(me))
            count += self._encryption.bring(encrypted, peers, must_look=known is None)
        want = fabric.paths(plan, me, underlay=underlay, tunnel_index=index, encrypted_index=encrypted)
        want = fabric.narrowed(want, plan, me, limits=limits)
        commands = diff.paths(want, have)
        self._socket.commit(commands)
        self._have = _Known(place(me), local, underlay, index, encrypted, want)
        self._around = Neighbourhood(original, plan, me, self._settings, Where(underlay, index, limits))
        addresses, probes = fabric.reached(plan, me), self._probes
        self._report = (lambda: probes.offer(addresses, underlay.mtu)) if probes else None
        return plan, me, count + len(commands), known is None

    def _follow(
        self, around: Neighbourhood, step: Step, nodes: Mapping[str, Node]
    ) -> tuple[fabric.Plan, Node, int, bool]:
        """Do what a few nodes' change takes, whatever the number of the others."""
        known, self._have = self._have, None
        assert known is not None  # as long as there is a neighbourhood
        commands = diff.paths(step.want, step.have)
        self._socket.commit(commands)
        self._have = dataclasses.replace(known, paths=None) if commands else known
        self._around = around
        probes = self._probes
        self._report = (lambda: probes.change(step.come - step.gone, step.gone - step.come)) if probes else None
        return around.plan, around.me, len(commands), False

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

    def _tell(self, plan: fabric.Plan) -> None:
        for name, why in plan.problems.items():
            if self._problems.get(name) != why:
                self._log.warning("no path to the pods of a node", node=name, why=why)
        self._problems = plan.problems


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
