"""Keep leases over a crash: an append-only journal, on the disk before the caller goes on.

Why not SQLite: all that is kept fits in memory, is read once, and every change is one line. An append and fdatasync is
half of SQLite's commit, needs no checkpoint, cannot be locked by a reader, and its only damage, a torn last line, is
seen by its checksum. Changes that arrive together share one fdatasync. A compaction writes a new file and renames it.

Lines: crc32 of the rest, a space, JSON: {"op": "hold", ...lease} or {"op": "free", "key": [], "ips": [], "at": time}.
"""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import fcntl
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from netplane.lib import log
from netplane.lib.cli import UserError
from netplane.lib.clock import Clock
from netplane.model import address
from netplane_cni.plan.book import Book
from netplane_cni.plan.ipam import Lease, LeaseKey
from netplane_cni.run.worker import Worker
from netplane_cni.spec import Bandwidth, PortMapping

COMPACT_AT = 1 << 20
"""Bytes after which an opened journal is written anew."""

Line = dict[str, Any]
Change = tuple[Line, Lease | None]
"""A line, and the lease that it tells of."""

_RATES = tuple(field.name for field in dataclasses.fields(Bandwidth))


@dataclass(slots=True)
class State:
    """What the journal says: who holds what, since when given-back addresses rest, and who got the last one."""

    book: Book = field(default_factory=Book)
    freed: dict[address.Packed, float] = field(default_factory=dict)
    last: dict[address.Family, address.Packed] = field(default_factory=dict)

    @property
    def leases(self) -> dict[LeaseKey, Lease]:
        """Every lease that is kept."""
        return self.book.leases

    def apply(self, line: Line, lease: Lease | None = None) -> None:
        """Take one line in; `lease` is the one it tells of, where it is at hand."""
        if line["op"] == "hold":
            lease = lease or decode(line)
            self.book.put(lease)
            for ip in lease.addresses:
                self.freed.pop(ip, None)
                if not lease.is_leaving:
                    self.last[address.family(ip)] = ip
            return
        self.book.drop((line["key"][0], line["key"][1]))
        for text in line["ips"]:
            self.freed[address.parse(text)] = float(line["at"])


class Journal:
    """The leases on disk. `open` first, `close` at the end; one process at a time may have it."""

    def __init__(self, folder: str, clock: Clock) -> None:
        self.state = State()
        self._path = os.path.join(folder, "leases.journal")
        self._clock = clock
        self._fd = -1
        self._size = 0
        self._waiting: list[tuple[list[Change], asyncio.Future[None]]] = []
        self._is_writing = False
        self._thread = Worker("leases")
        self._log = log.get("cni")

    def open(self) -> None:
        """Read what is there, leave out a torn end, and lock out others."""
        os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
        self._lock()
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = self._read()
        if self._size > COMPACT_AT:
            self._compact()

    def close(self) -> None:
        """Wait for what is being written and let go."""
        self._thread.close()
        for fd in (self._fd, self._lock_fd):
            os.close(fd)

    def hold(self, lease: Lease) -> asyncio.Future[None]:
        """Begin to write; done once the lease is on disk. OSError when it cannot be, and then it is not held."""
        return self._append([(encode(lease), lease)])

    async def free(self, *leases: Lease) -> None:
        """Return once it is on disk that the leases' addresses rest from now on."""
        if leases:
            await self._append([(freeing(lease, self._clock.now().timestamp()), None) for lease in leases])

    def _append(self, changes: list[Change]) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((changes, done))
        self._write_next()
        return done

    def _write_next(self) -> None:
        """Write all that waits in one go, unless a write is under way: then what waits shares the next."""
        if self._is_writing or not self._waiting:
            return
        self._is_writing = True
        batch, self._waiting = self._waiting, []
        data = b"".join(pack(line) for changes, _ in batch for line, _ in changes)
        writing = self._thread.do(lambda: self._write(data))
        # A callback and no task: a caller that is cancelled must not stop the write that others wait for.
        writing.add_done_callback(lambda written: self._written(batch, written.exception()))

    def _written(
        self, batch: Sequence[tuple[list[Change], asyncio.Future[None]]], failure: BaseException | None
    ) -> None:
        for changes, done in batch:
            if failure is None:
                for line, lease in changes:
                    self.state.apply(line, lease)
            if done.done():
                continue
            if failure is None:
                done.set_result(None)
            else:
                done.set_exception(failure)
        self._is_writing = False
        self._write_next()

    def _write(self, data: bytes) -> None:
        try:
            written = os.pwrite(self._fd, data, self._size)
            if written < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path)
            os.fdatasync(self._fd)
        except OSError:
            # Half a line would hide all that follow it.
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(data)

    def _read(self) -> int:
        with os.fdopen(os.dup(self._fd), "rb") as file:
            data = file.read()
        good = 0
        for raw in data.splitlines(keepends=True):
            line = unpack(raw)
            if line is None:
                self._log.warning("the journal of leases ends torn", file=self._path, lost_bytes=len(data) - good)
                os.ftruncate(self._fd, good)
                break
            self.state.apply(line)
            good += len(raw)
        return good

    def _compact(self) -> None:
        lines = [freeing_of({ip: at}) for ip, at in self.state.freed.items()]
        lines += [encode(lease) for lease in self.state.leases.values()]
        data = b"".join(map(pack, lines))
        beside = self._path + ".new"
        fd = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.write(fd, data)
        os.fsync(fd)
        os.rename(beside, self._path)
        folder = os.open(os.path.dirname(self._path), os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(folder)
        os.close(folder)
        os.close(self._fd)
        self._fd, self._size = fd, len(data)

    def _lock(self) -> None:
        # A file of its own: a compaction puts another journal in the locked one's place.
        path = self._path + ".lock"
        self._lock_fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock_fd)
            raise UserError(f"{path} is locked: another CNI daemon of this node runs; stop it first") from error


def pack(line: Line) -> bytes:
    """Return a line as it is on disk."""
    text = orjson.dumps(line)
    return b"%08x %s\n" % (zlib.crc32(text), text)


def unpack(raw: bytes) -> Line | None:
    """Return what a line on disk says; None when it is torn or damaged."""
    if not raw.endswith(b"\n") or raw[8:9] != b" ":
        return None
    text = raw[9:-1]
    try:
        is_whole = int(raw[:8], 16) == zlib.crc32(text)
        line = orjson.loads(text) if is_whole else None
    except ValueError:
        return None
    return line if isinstance(line, dict) else None


def freeing(lease: Lease, at: float) -> Line:
    """Return the line that ends a lease."""
    return {"op": "free", "key": list(lease.key), "ips": [address.text(ip) for ip in lease.addresses], "at": at}


def freeing_of(freed: Mapping[address.Packed, float]) -> Line:
    """Return the line that keeps addresses at rest whose lease is forgotten."""
    return {"op": "free", "key": ["", ""], "ips": [address.text(ip) for ip in freed], "at": max(freed.values())}


def encode(lease: Lease) -> Line:
    """Return the line that says all about a lease."""
    return {
        "op": "hold",
        "container": lease.container,
        "ifname": lease.ifname,
        "link": lease.link,
        "ips": [address.text(ip) for ip in lease.addresses],
        "mac": lease.mac.hex(":"),
        "boot": lease.boot,
        "network": lease.network,
        "netns": lease.netns,
        "namespace": lease.namespace,
        "pod": lease.pod,
        "ports": [
            [p.protocol, address.text(p.host_ip) if p.host_ip else "", p.host_port, p.container_port]
            for p in lease.ports
        ],
        "bandwidth": [getattr(lease.bandwidth, name) for name in _RATES],
        "leaving": lease.is_leaving,
    }


def decode(line: Line) -> Lease:
    """Return the lease that a line tells of."""
    return Lease(
        container=line["container"],
        ifname=line["ifname"],
        link=line["link"],
        addresses=tuple(address.parse(text) for text in line["ips"]),
        mac=bytes.fromhex(line["mac"].replace(":", "")),
        boot=line["boot"],
        network=line["network"],
        netns=line["netns"],
        namespace=line["namespace"],
        pod=line["pod"],
        ports=tuple(PortMapping(p, h, c, address.parse(ip) if ip else b"") for p, ip, h, c in line["ports"]),
        bandwidth=Bandwidth(*line.get("bandwidth", ())),
        is_leaving=line["leaving"],
    )
