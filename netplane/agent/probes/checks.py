"""Make checks from the node: HTTP, TCP, gRPC and commands; hooks are the same with other timing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp

from netplane.agent.pods.spec import Container, Exec, Grpc, Handler, HttpGet, Pod, Sleep, TcpSocket
from netplane.agent.probes import grpc
from netplane.agent.runtime.protocol import Runtime, RuntimeFailure
from netplane.lib import sockets

AGENT = "kube-probe/1.33"
KEPT = 10 * 1024
HOOK_LIMIT = 3600.0


class CheckFailed(Exception):
    """A check did not succeed; the message is what the Event says."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is checked: a container of a pod, at the pod's addresses."""

    pod: Pod
    container: Container
    container_id: str
    ips: tuple[str, ...]


class Checks:
    """Makes checks. Each HTTP check has a connection of its own: a kept one would hide that nobody accepts."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._session: aiohttp.ClientSession | None = None

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[Checks]:
        """Keep what checks share until the block is left."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connector = aiohttp.TCPConnector(force_close=True, ssl=context, limit=0, socket_factory=sockets.lent)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
            self._session = session
            yield self

    async def check(self, handler: Handler, target: Target, limit: float) -> None:
        """Make one check, of at most `limit` seconds. Raises CheckFailed."""
        match handler:
            case HttpGet():
                await self._http(handler, target, limit)
            case TcpSocket():
                await _tcp(handler, target, limit)
            case Grpc():
                await _grpc(handler, target, limit)
            case Exec():
                await self._exec(handler, target, limit)
            case Sleep():
                await asyncio.sleep(min(handler.seconds, limit))

    async def hook(self, handler: Handler, target: Target, limit: float = HOOK_LIMIT) -> None:
        """Run a lifecycle hook. Raises CheckFailed."""
        await self.check(handler, target, limit)

    async def _http(self, handler: HttpGet, target: Target, limit: float) -> None:
        if self._session is None:
            raise RuntimeError("not opened")
        url = _url(handler, target)
        headers = {"User-Agent": AGENT, "Accept": "*/*", **dict(handler.headers)}
        try:
            async with self._session.get(
                url, headers=headers, timeout=aiohttp.ClientTimeout(total=limit), allow_redirects=True, max_redirects=10
            ) as answer:
                await answer.content.read(KEPT)
                status = answer.status
        except TimeoutError as error:
            raise CheckFailed(f'Get "{url}": context deadline exceeded (Client.Timeout exceeded)') from error
        except aiohttp.ClientConnectorError as error:
            raise CheckFailed(
                f'Get "{url}": dial tcp {_authority(handler, target)}: {_reason(error.os_error)}'
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise CheckFailed(f'Get "{url}": {error or type(error).__name__}') from error
        if not 200 <= status < 400:
            raise CheckFailed(f"HTTP probe failed with statuscode: {status}")

    async def _exec(self, handler: Exec, target: Target, limit: float) -> None:
        try:
            done = await self._runtime.exec_sync(target.container_id, handler.command, limit)
        except RuntimeFailure as error:
            raise CheckFailed(str(error)) from error
        if done.timed_out:
            raise CheckFailed(f'command timed out: "{" ".join(handler.command)}" timed out after {limit:g}s')
        if done.exit_code:
            raise CheckFailed(done.output.decode(errors="replace"))


async def _tcp(handler: TcpSocket, target: Target, limit: float) -> None:
    host, port = handler.host or _first(target), _port(handler.port, target)
    try:
        async with asyncio.timeout(limit):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError as error:
        raise CheckFailed(f"dial tcp {_joined(host, port)}: i/o timeout") from error
    except OSError as error:
        raise CheckFailed(f"dial tcp {_joined(host, port)}: {_reason(error)}") from error
    writer.close()


async def _grpc(handler: Grpc, target: Target, limit: float) -> None:
    host = _first(target)
    try:
        async with asyncio.timeout(limit):
            answer = await grpc.health(host, handler.port, handler.service)
    except TimeoutError as error:
        raise CheckFailed(
            f'timeout: failed to connect service "{_joined(host, handler.port)}" within {limit:g}s'
        ) from error
    except (OSError, grpc.Refused) as error:
        raise CheckFailed(f'failed to connect service "{_joined(host, handler.port)}": {error}') from error
    if answer != grpc.SERVING:
        raise CheckFailed(f"service unhealthy (responded with {answer!r})")


def _url(handler: HttpGet, target: Target) -> str:
    path = handler.path if handler.path.startswith("/") else f"/{handler.path}"
    return f"{handler.scheme.lower()}://{_authority(handler, target)}{path}"


def _authority(handler: HttpGet, target: Target) -> str:
    return _joined(handler.host or _first(target), _port(handler.port, target))


def _first(target: Target) -> str:
    if not target.ips:
        raise CheckFailed("the pod has no address")
    return target.ips[0]


def _port(port: int | str, target: Target) -> int:
    try:
        return target.container.port(port)
    except ValueError as error:
        raise CheckFailed(str(error)) from error


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reason(error: OSError) -> str:
    """Say it as Go does, for users know those words: `connect: connection refused`."""
    return f"connect: {os.strerror(error.errno).lower() if error.errno else error}"
