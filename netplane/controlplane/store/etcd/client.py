"""Speak with etcd's members over gRPC: one at a time, the next one when it is gone. What is said is the store's."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from netplane.controlplane.store import protocol
from netplane.controlplane.store.etcd import wire
from netplane.lib import clock as clocks

_KV, _LEASE, _WATCH = "/etcdserverpb.KV/", "/etcdserverpb.Lease/", "/etcdserverpb.Watch/Watch"
_ATTEMPT_SECONDS = 2.5
_PATIENCE_SECONDS = 10.0
_PAUSE_SECONDS = 0.1
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 6_000),  # etcd closes connections that ask more often than every five seconds
    ("grpc.keepalive_timeout_ms", 4_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)
_HAS_LEADER = (("hasleader", "true"),)
"""A member that lost the others ends our calls and watches, instead of keeping us waiting."""
_PASSING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
    }
)


class Compacted(protocol.StoreError):
    """The revision asked for has been forgotten."""


class Refused(protocol.Unavailable):
    """etcd will not do it, however often one asks: no space left, no permission."""


@dataclass(frozen=True, slots=True)
class Tls:
    """How members prove who they are, and we to them; PEM. An empty `ca` is the system's own trust."""

    ca: bytes = b""
    certificate: bytes = b""
    key: bytes = b""


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a transaction. Unless it was `sent_once`, an earlier attempt may have been carried out."""

    decided: wire.Decided
    sent_once: bool


class Client:
    """The connections to the members of one etcd cluster. Make it in the loop that uses it."""

    def __init__(self, members: Sequence[str], tls: Tls | None = None, *, clock: clocks.Clock = clocks.SYSTEM) -> None:
        self.members = tuple(members)
        self._clock = clock
        self._channels = [_channel(member, tls) for member in members]
        self._current = 0

    async def close(self) -> None:
        """End all connections."""
        for channel in self._channels:
            await channel.close(None)

    async def range(self, request: bytes, *, patience: float = _PATIENCE_SECONDS) -> wire.Ranged:
        """Read keys."""
        answer, _ = await self._ask(_KV + "Range", request, patience)
        return wire.read_range(answer)

    async def txn(self, request: bytes, *, patience: float = _PATIENCE_SECONDS) -> Written:
        """Carry out a transaction that may be sent again: its compares must not hold once it was carried out."""
        answer, attempts = await self._ask(_KV + "Txn", request, patience)
        return Written(wire.read_txn(answer), attempts == 1)

    async def compact(self, revision: int) -> None:
        """Forget what was before a revision."""
        with contextlib.suppress(Compacted):
            await self._ask(_KV + "Compact", wire.compaction(revision), _PATIENCE_SECONDS)

    async def grant(self, seconds: int) -> int:
        """Return a new lease."""
        answer, _ = await self._ask(_LEASE + "LeaseGrant", wire.lease_grant(seconds), _PATIENCE_SECONDS)
        return wire.read_lease(answer)

    def avoid(self) -> None:
        """Go on with the next member."""
        self._current = (self._current + 1) % len(self._channels)

    async def watch(self, request: bytes) -> AsyncGenerator[wire.Watched, None]:
        """Yield what a watch says until its member is gone (protocol.Unavailable) or etcd ends it (Compacted)."""
        at = self._current
        call: Any = self._channels[at].stream_stream(_WATCH)(metadata=_HAS_LEADER)
        try:
            await call.write(request)
            while (data := await call.read()) is not grpc.aio.EOF:
                message = wire.read_watch(data)
                if message.compacted:
                    raise Compacted(f"etcd has forgotten what was before revision {message.compacted}")
                if message.is_cancelled:
                    raise protocol.Unavailable(f"{self.members[at]}: the watch was ended: {message.reason}")
                yield message
            raise protocol.Unavailable(f"{self.members[at]}: the watch ended")
        except grpc.RpcError as error:
            raise protocol.Unavailable(f"{self.members[at]}: {_told(error)}") from error
        finally:
            call.cancel()

    async def _ask(self, method: str, request: bytes, patience: float) -> tuple[bytes, int]:
        """Ask one member after the other until one answers; return the answer and how many were asked."""
        deadline, attempts, failures = self._clock.monotonic() + patience, 0, 0
        while True:
            at, attempts = self._current, attempts + 1
            left = deadline - self._clock.monotonic()
            try:
                call = self._channels[at].unary_unary(method)
                timeout = min(_ATTEMPT_SECONDS, max(left, 0.05))
                return bytes(await call(request, timeout=timeout, metadata=_HAS_LEADER)), attempts
            except grpc.RpcError as error:
                _raise_if_final(error, self.members[at])
                self._leave(at)
                failures += 1
                if self._clock.monotonic() >= deadline:
                    raise protocol.Unavailable(f"etcd at {self.members[at]} does not answer: {_told(error)}") from error
            if failures % len(self._channels) == 0:
                await self._clock.sleep(_PAUSE_SECONDS)

    def _leave(self, at: int) -> None:
        if self._current == at:
            self.avoid()


def _channel(member: str, tls: Tls | None) -> Any:
    if tls is None:
        return grpc.aio.insecure_channel(member, options=_OPTIONS)
    credentials = grpc.ssl_channel_credentials(tls.ca or None, tls.key or None, tls.certificate or None)
    return grpc.aio.secure_channel(member, credentials, options=_OPTIONS)


def _raise_if_final(error: Any, member: str) -> None:
    code, told = error.code(), _told(error)
    if code is grpc.StatusCode.OUT_OF_RANGE and "compacted" in told:
        raise Compacted(told) from error
    if code is grpc.StatusCode.INVALID_ARGUMENT and "too large" in told:
        raise protocol.TooLarge(told) from error
    if code not in _PASSING:
        raise Refused(f"etcd at {member} refuses: {told}") from error


def _told(error: Any) -> str:
    return " ".join(str(error.details() or error.code()).split())
