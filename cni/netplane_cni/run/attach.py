"""Lay and remove pods' cables as plan/attach says, on threads that own the namespaces they work in."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from netplane.kernel import netns, sysctl
from netplane.kernel.errors import KernelError
from netplane.kernel.link import run as link
from netplane.kernel.link.objects import Command, Link, Route
from netplane.model import address
from netplane_cni.plan import attach, bridge
from netplane_cni.plan.attach import Wiring
from netplane_cni.plan.ipam import Lease
from netplane_cni.run.worker import Worker


@dataclass(frozen=True, slots=True)
class Found:
    """A cable of ours that is there, and the addresses that the node's routes lead into it."""

    link: Link
    addresses: tuple[address.Packed, ...]


class Wirer:
    """The node's side of all cables. It works in the namespace in which it was made; `close` it at the end.

    Two threads: one lays cables, one removes them, for the kernel takes its time with removals.
    """

    def __init__(
        self, open_links: Callable[[], link.Socket] = link.Socket, laid: Callable[[str], None] = lambda _: None
    ) -> None:
        """`laid` hears of each routed cable that was laid, by its name."""
        self._laid = laid
        self._open_links = open_links
        self._home = os.open(netns.OWN, os.O_RDONLY | os.O_CLOEXEC)
        self._host = open_links()
        self._sweeper = open_links()
        self._layer = Worker("attach")
        self._remover = Worker("sweep")

    def close(self) -> None:
        """Wait for what is being done and let go. The cables stay."""
        self._layer.close()
        self._remover.close()
        self._host.close()
        self._sweeper.close()
        os.close(self._home)

    def wire(self, wiring: Wiring, namespace: int) -> asyncio.Future[None]:
        """Lay the cable into the namespace (an open file). After a failure nothing of it is left."""
        laying = self._layer.do(lambda: self._wire(wiring, namespace))
        if not wiring.gateways:
            laying.add_done_callback(lambda done: self._tell(wiring.lease.link, done))
        return laying

    def _tell(self, name: str, done: asyncio.Future[None]) -> None:
        if not done.cancelled() and done.exception() is None:
            self._laid(name)

    def leave(self, lease: Lease) -> asyncio.Future[None]:
        """Cut the pod off, quickly; its cable stays until `sweep`."""
        return self._layer.do(lambda: self._leave(lease))

    def sweep(self) -> asyncio.Future[None]:
        """Remove all cables that were left: one wait for the kernel however many they are."""
        return self._remover.do(lambda: self._sweeper.commit(attach.sweep()))

    def remove(self, name: str, lease: Lease | None = None) -> asyncio.Future[None]:
        """Remove one cable now, and what a bridge holds for the lease."""
        return self._layer.do(lambda: self._remove(name, lease))

    def found(self) -> asyncio.Future[dict[str, Found]]:
        """Return our cables that are there, by the name of the node's end."""
        return self._layer.do(self._found)

    def faults(self, wiring: Wiring, namespace: int) -> asyncio.Future[list[str]]:
        """Return what is not as `wire` left it."""
        return self._layer.do(lambda: self._faults(wiring, namespace))

    def _wire(self, wiring: Wiring, namespace: int) -> None:
        lease = wiring.lease
        try:
            index, peer = self._create(wiring, namespace)
            self._host.commit(self._on_node(wiring, index))
            with netns.inside(namespace, home=self._home):
                pod = self._open_links()
                _allow_ipv6(lease)
                if wiring.gateways:
                    _refuse_redirects(lease.ifname)
            with pod:
                peer = peer or _index(pod, lease.ifname)
                pod.commit(bridge.in_pod(wiring, peer) if wiring.gateways else attach.in_pod(wiring, peer))
            # That the node's end has a carrier now is settled later by a worker of the kernel's, and until then all
            # that is sent to the pod is dropped, its first answer too. Who asks after the link has it done (6.8).
            self._host.index(lease.link)
        except BaseException:
            with contextlib.suppress(KernelError):
                self._remove(lease.link, lease)
            raise

    def _create(self, wiring: Wiring, namespace: int) -> tuple[int, int]:
        """Lay the cable and return both ends' indexes. What an ADD that was killed or a DEL has left makes room."""
        commands, name = attach.create(wiring, namespace), wiring.lease.link
        try:
            return self._host.commit_and_look(commands, name)
        except KernelError as error:
            if error.errno != errno.EEXIST:
                raise
        self._host.commit(attach.undo(name))
        return self._host.commit_and_look(commands, name)

    def _on_node(self, wiring: Wiring, index: int) -> tuple[Command, ...]:
        if not wiring.gateways:
            return attach.on_node(wiring, index)
        there = self._host.link(bridge.BRIDGE)
        if there is None:
            self._host.commit(bridge.create())
            there = self._host.link(bridge.BRIDGE)
        if there is None:
            raise KernelError(errno.ENODEV, f"find link {bridge.BRIDGE}")
        return (*bridge.prepare(wiring, there.index), *bridge.on_node(wiring, index, there.index))

    def _remove(self, name: str, lease: Lease | None) -> None:
        there = self._host.link(bridge.BRIDGE) if lease is not None else None
        forgotten = bridge.forget(lease, there.index) if lease is not None and there is not None else ()
        self._host.commit([*forgotten, *attach.undo(name)])

    def _leave(self, lease: Lease) -> None:
        there = self._host.link(lease.link) or self._renamed(lease)
        switch = self._host.link(bridge.BRIDGE) if there is None or there.master else None
        forgotten = bridge.forget(lease, switch.index) if switch is not None else ()
        self._host.commit([*forgotten, *(attach.leave(lease, there.index) if there is not None else ())])

    def _renamed(self, lease: Lease) -> Link | None:
        """Return the cable when somebody gave it another name: its alias still tells whose it is."""
        wanted = attach.alias(*lease.key)
        return next((one for one in self._host.links() if one.alias == wanted and one.group == attach.GROUP), None)

    def _found(self) -> dict[str, Found]:
        routes = self._host.routes(protocol=attach.POD_PROTOCOL)
        cables = [one for one in self._host.links() if one.kind == "veth" and _is_ours(one)]
        found = {one.index: [r.network for r in routes if r.index == one.index and _is_host(r)] for one in cables}
        for one in cables:
            if one.master:
                mac = attach.pod_mac(*(attach.owner(one.alias) or ("", "")))
                found[one.index] = [n.address for n in self._host.neighbours(one.master) if n.mac == mac]
        return {one.name: Found(one, tuple(found[one.index])) for one in cables}

    def _faults(self, wiring: Wiring, namespace: int) -> list[str]:
        lease = wiring.lease
        host = self._host.link(lease.link)
        if host is None or not host.is_up:
            return [f"the node's end {lease.link} is {'missing' if host is None else 'down'}"]
        routed = {r.network for r in self._host.routes(protocol=attach.POD_PROTOCOL, index=host.master or host.index)}
        with link.Socket(namespace) as pod:
            there = pod.link(lease.ifname)
            if there is None or not there.is_up:
                return [f"{lease.ifname} is {'missing' if there is None else 'down'} in the container"]
            held = {a.address for a in pod.addresses(there.index)}
            ways = {(r.length, r.via) for r in pod.routes(index=there.index)}
            rates = self._host.rate(host.index), pod.rate(there.index)
        faults = [] if bool(host.master) == bool(wiring.gateways) else [f"{lease.link} is wired in the other way"]
        faults += [] if there.peer_index == host.index else [f"{lease.ifname} is not connected to {lease.link}"]
        limits = lease.bandwidth.ingress_rate // 8, lease.bandwidth.egress_rate // 8
        faults += (
            []
            if rates == limits or not any(limits)
            else [f"the bandwidth is limited to {rates} bytes per second, not to {limits}"]
        )
        for ip in lease.addresses:
            name = address.text(ip)
            gateway = bridge.gateway_of(ip, wiring)[0] if wiring.gateways else attach.GATEWAYS[address.family(ip)]
            faults += [] if ip in routed else [f"the node has no route to {name}"]
            faults += [] if ip in held else [f"{lease.ifname} has not the address {name}"]
            if wiring.has_default_route and (0, gateway) not in ways:
                faults.append(f"the container has no default route via {address.text(gateway)}")
        return faults


def _index(socket: link.Socket, name: str) -> int:
    found = socket.index(name)
    if found is None:
        raise KernelError(errno.ENODEV, f"find link {name}")
    return found


def _allow_ipv6(lease: Lease) -> None:
    # Some runtimes make namespaces with IPv6 off; who asks for an address wants it on, on this interface.
    if any(address.family(ip) is address.Family.V6 for ip in lease.addresses):
        sysctl.ensure(f"net/ipv6/conf/{lease.ifname}/disable_ipv6", 0)


def _refuse_redirects(ifname: str) -> None:
    for name, value in bridge.POD_PARAMETERS:
        with contextlib.suppress(KernelError):  # IPv6 may be left out of the kernel
            sysctl.ensure(name.format(ifname), value)


def _is_ours(cable: Link) -> bool:
    return cable.group in (attach.GROUP, attach.LEAVING_GROUP) and cable.name.startswith("np")


def _is_host(route: Route) -> bool:
    return route.length == len(route.network) * 8


@contextlib.contextmanager
def opened(path: str, given: int | None) -> Iterator[int | None]:
    """Yield the container's namespace as an open file: the shim's, else by its path, None when neither is there."""
    if given is not None or not path:
        yield given
        return
    try:
        place = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        yield place
    finally:
        os.close(place)
