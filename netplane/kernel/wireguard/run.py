"""Change and read WireGuard devices of a network namespace over one generic netlink socket that is kept open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from netplane.kernel.netlink import generic
from netplane.kernel.wireguard import wire
from netplane.kernel.wireguard.objects import Change, Device, Identity

ANSWER_TIMEOUT = 10


class WireGuard(Protocol):
    """What is needed of WireGuard; `Socket` is the kernel's, `fake.Kernel` stands in."""

    def identify(self, index: int, mine: Identity) -> None:
        """Set a device's private key and port. Sessions under another key are renewed with the next packet."""

    def commit(self, index: int, changes: Sequence[Change]) -> None:
        """Make the changes in order; KernelError at the first that is refused."""

    def device(self, index: int) -> Device:
        """Return what a device holds; KernelError with ENODEV without it."""


class Socket:
    """A socket of the network namespace in which it was made. Needs CAP_NET_ADMIN there."""

    def __init__(self) -> None:
        """Open it. KernelError with ENOENT means that the kernel has no WireGuard (or none is loaded yet)."""
        self._family = generic.Family(wire.FAMILY, module="wireguard", timeout=ANSWER_TIMEOUT)

    def close(self) -> None:
        """Close it."""
        self._family.close()

    def identify(self, index: int, mine: Identity) -> None:
        """Set a device's private key and port. Sessions under another key are renewed with the next packet."""
        self._family.ask(wire.SET_DEVICE, wire.identity(index, mine), f"set key and port {mine.port} of link {index}")

    def commit(self, index: int, changes: Sequence[Change]) -> None:
        """Make the changes in order; KernelError at the first that is refused."""
        for body in wire.changes(index, changes):
            tried = f"make {len(changes)} changes of WireGuard peers, the first: {changes[0]}"
            self._family.ask(wire.SET_DEVICE, body, tried)

    def device(self, index: int) -> Device:
        """Return what a device holds; KernelError with ENODEV without it."""
        bodies = self._family.dump(wire.GET_DEVICE, wire.request(index), f"list WireGuard peers of link {index}")
        return wire.read(bodies, index)
