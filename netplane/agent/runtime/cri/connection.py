"""Call a CRI runtime over its socket (gRPC). Failures are RuntimeFailure, with the runtime's own words."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

import grpc.aio
from cri_api.v1 import api_pb2 as cri
from cri_api.v1 import api_pb2_grpc as stubs

from netplane.agent.runtime.protocol import RuntimeFailure

LIMIT = 120.0
"""Seconds for a call, as the kubelet has it (runtimeRequestTimeout)."""
MOST = 16 << 20
"""Bytes of one message, as the kubelet has it."""


class NotThere(RuntimeFailure):
    """The runtime knows no such container, sandbox or image."""


class Unavailable(RuntimeFailure):
    """The runtime does not answer."""


class NotOffered(RuntimeFailure):
    """The runtime does not have this call."""


class TimedOut(RuntimeFailure):
    """The call took longer than it may."""


_KINDS: dict[grpc.StatusCode, type[RuntimeFailure]] = {
    grpc.StatusCode.NOT_FOUND: NotThere,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.UNIMPLEMENTED: NotOffered,
    grpc.StatusCode.DEADLINE_EXCEEDED: TimedOut,
}


class Connection:
    """A connection to a runtime's socket; it comes back by itself when the runtime does."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> Self:
        options = [
            ("grpc.max_receive_message_length", MOST),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.enable_http_proxy", 0),
        ]
        self._channel = grpc.aio.insecure_channel(self.endpoint, options)
        self._runtime = stubs.RuntimeServiceStub(self._channel)  # type: ignore[no-untyped-call]  # generated
        self._images = stubs.ImageServiceStub(self._channel)  # type: ignore[no-untyped-call]  # generated
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._channel is not None:
            await self._channel.close(None)

    async def runtime(self, method: str, request: object, limit: float = LIMIT) -> Any:
        """Call a method of RuntimeService and return its answer. Raises RuntimeFailure."""
        return await self._call(self._runtime, method, request, limit)

    async def images(self, method: str, request: object, limit: float = LIMIT) -> Any:
        """Call a method of ImageService and return its answer. Raises RuntimeFailure."""
        return await self._call(self._images, method, request, limit)

    async def events(self) -> AsyncIterator[cri.ContainerEventResponse]:
        """Yield what happens to containers. Raises NotOffered on runtimes without it, as containerd 1.6."""
        try:
            async for event in self._runtime.GetContainerEvents(cri.GetEventsRequest()):
                yield event
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from error

    async def _call(self, service: object, method: str, request: object, limit: float) -> Any:
        try:
            return await getattr(service, method)(request, timeout=limit)
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from error

    def _failure(self, error: grpc.aio.AioRpcError) -> RuntimeFailure:
        kind = _KINDS.get(error.code(), RuntimeFailure)
        if kind is Unavailable:
            return Unavailable(f"the container runtime does not answer at {self.endpoint}")
        return kind(error.details() or str(error.code()))
