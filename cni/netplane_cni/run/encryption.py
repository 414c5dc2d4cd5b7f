"""Keep this node's WireGuard key on disk and its device's peers as plan/wireguard wants them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from netplane.kernel.errors import KernelError
from netplane.kernel.wireguard import diff
from netplane.kernel.wireguard import run as wireguard
from netplane.kernel.wireguard.objects import Identity, Peer, parse, text
from netplane.lib import clock as clocks
from netplane.lib import log
from netplane.lib.cli import UserError
from netplane_cni.plan import wireguard as plans
from netplane_cni.plan.wireguard import Keys, Pair

FILE = "wireguard.json"


class Encryption:
    """The key pair, its successor and the peers. The kernel is spoken to in the namespace where it was made."""

    def __init__(self, folder: Path, port: int, clock: clocks.Clock, *, interval: float = 0.0) -> None:
        self._path = folder / FILE
        self._port = port
        self._clock = clock
        self._interval = interval
        self._asked = asyncio.Event()
        self._keys = _load(self._path) or self._first()
        self._socket: wireguard.WireGuard | None = None
        self._peers: dict[bytes, Peer] | None = None
        self._identified: bytes = b""
        self._log = log.get("cni")

    @property
    def annotations(self) -> dict[str, str | None]:
        """What this node's Node shall say of it."""
        return plans.said_of(self._keys, self._port)

    @property
    def public(self) -> str:
        """The public key in use."""
        return text(self._keys.current.public)

    def bring(self, index: int, peers: Mapping[bytes, Peer], *, must_look: bool) -> int:
        """Give the device its key and exactly these peers; return how many changes that took.

        What was last committed is taken for what is there unless `must_look`.
        """
        known, self._peers = self._peers, None  # Until the commit returned, nobody knows.
        socket = self._opened()
        count = 0
        if must_look or known is None or self._identified != self._keys.current.public:
            device = socket.device(index)
            have: Mapping[bytes, Peer] = device.peers
            if (device.public, device.port) != (self._keys.current.public, self._port):
                self._identify(socket, index)
                count += 1
            self._identified = self._keys.current.public
        else:
            have = known
        changes = diff.peers(peers, have, told=known)
        socket.commit(index, changes)
        self._peers = dict(peers)
        return count + len(changes)

    def follow(self, index: int, peers: Mapping[bytes, Peer | None]) -> int | None:
        """Give the device these of its peers, None for those that go; return how many changes that took.

        None when it is not known what the device holds, as after a new key: `bring` finds out.
        """
        known, self._peers = self._peers, None
        if known is None or self._identified != self._keys.current.public:
            return None
        want = {key: peer for key, peer in peers.items() if peer is not None}
        have = {key: known[key] for key in peers if key in known}
        changes = diff.peers(want, have, told=have)
        self._opened().commit(index, changes)
        for key in have.keys() - want.keys():
            del known[key]
        known.update(want)
        self._peers = known
        return len(changes)

    def rotate(self) -> None:
        """Ask for a new key. It is announced at once and used when all had the time to learn of it."""
        self._asked.set()

    async def rotating(self, changed: Callable[[], Awaitable[None]]) -> None:
        """Change keys when it is time, for ever; `changed` brings the kernel and then the announcement up to date."""
        while True:
            now = self._clock.now().timestamp()
            step = plans.next_step(
                self._keys, now, interval=self._interval, fresh=new_pair(), is_asked=self._asked.is_set()
            )
            self._asked.clear()
            if step != self._keys:
                await asyncio.to_thread(_save, self._path, step)
                self._keys = step
                what = "is announced" if step.following else "is in use"
                self._log.info(f"a new WireGuard key {what}", key=text((step.following or step.current).public))
                await changed()
            left = plans.wait(self._keys, self._clock.now().timestamp(), interval=self._interval)
            if left is None:
                await self._asked.wait()
            else:
                await clocks.wait(self._asked, left, self._clock)

    def _first(self) -> Keys:
        keys = Keys(new_pair(), self._clock.now().timestamp())
        _save(self._path, keys)
        return keys

    def _identify(self, socket: wireguard.WireGuard, index: int) -> None:
        try:
            socket.identify(index, Identity(self._keys.current.private, self._port))
        except KernelError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise UserError(f"UDP port {self._port} is in use on this node: choose another --wireguard-port") from error

    def _opened(self) -> wireguard.WireGuard:
        # Not before the link is there: with it the kernel has loaded what answers.
        if self._socket is None:
            self._socket = wireguard.Socket()
        return self._socket


def new_pair() -> Pair:
    """Return a key pair that nobody else has (RFC 7748)."""
    private = X25519PrivateKey.generate()
    raw = serialization.Encoding.Raw
    return Pair(
        private.private_bytes(raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()),
        private.public_key().public_bytes(raw, serialization.PublicFormat.Raw),
    )


def _load(path: Path) -> Keys | None:
    try:
        content = json.loads(path.read_text())
        following = content["following"]
        return Keys(
            _pair(content["current"]), float(content["since"]), _pair(following) if following else None,
            float(content["announced"]),
        )  # fmt: skip
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} holds no WireGuard key ({error}): remove it, and the node makes a new one") from error


def _pair(private: str) -> Pair:
    raw = parse(private)
    public = X25519PrivateKey.from_private_bytes(raw).public_key()
    return Pair(raw, public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw))


def _save(path: Path, keys: Keys) -> None:
    """Write the keys for root alone, whole or not at all, before anyone hears of them."""
    following = text(keys.following.private) if keys.following else None
    content = {
        "current": text(keys.current.private),
        "since": keys.since,
        "following": following,
        "announced": keys.announced,
    }
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        beside.unlink()
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
