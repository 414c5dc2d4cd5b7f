"""Stand in for WireGuard in memory."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Sequence
from dataclasses import replace

from netplane.kernel.errors import KernelError
from netplane.kernel.wireguard.objects import Change, Device, Identity, Peer


class Kernel:
    """Devices by index, as tests add them with `add`. A public key is some hash of the private one."""

    def __init__(self) -> None:
        self._devices: dict[int, Device] = {}
        self.commits: list[list[Change]] = []

    def add(self, index: int) -> None:
        """Make a device as the link room would."""
        self._devices[index] = Device(index)

    def identify(self, index: int, mine: Identity) -> None:
        """Set a device's private key and port."""
        self._devices[index] = replace(self.device(index), public=public(mine.private), port=mine.port)

    def commit(self, index: int, changes: Sequence[Change]) -> None:
        """Make the changes in order."""
        device = self.device(index)
        peers = dict(device.peers)
        if changes:
            self.commits.append(list(changes))
        for change in changes:
            key = change.peer.key
            if change.verb == "remove":
                peers.pop(key, None)
                continue
            peers = {k: replace(p, networks=p.networks - change.peer.networks) for k, p in peers.items()}
            known = peers.get(key)
            peers[key] = Peer(key, change.peer.endpoint or (known.endpoint if known else None), change.peer.networks)
        self._devices[index] = replace(device, peers=peers)

    def device(self, index: int) -> Device:
        """Return what a device holds."""
        if index not in self._devices:
            raise KernelError(errno.ENODEV, f"list WireGuard peers of link {index}")
        return self._devices[index]


def public(private: bytes) -> bytes:
    """Return what stands for the public key."""
    return hashlib.sha256(private).digest()
