"""Lead HTTP into pods through their nodes' agents: the server itself need have no route to pods.

A tunnel is a socket of the file system on which whatever connects is carried, bytes as they are, to a port of the pod.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator

import aiohttp

from netplane.controlplane.api import agents, places, status
from netplane.lib import sockets

_CHUNK = 65536


@contextlib.asynccontextmanager
async def session(through: agents.Agents, to: places.Endpoint) -> AsyncIterator[aiohttp.ClientSession]:
    """Yield a session whose requests, whatever host they name, reach the endpoint: by its node's agent if there."""
    try:
        if not to.node or not to.pod:
            raise status.unavailable("no pod of a node")
        url = f"{through.url(to.node)}/tunnel/{to.pod[0]}/{to.pod[1]}/{to.port}"
    except status.ApiStatus:
        # No pod of ours, or one whose node nobody can call: then there may be a route.
        async with _session(aiohttp.TCPConnector(limit=0, socket_factory=sockets.lent)) as made:
            yield made
        return
    with tempfile.TemporaryDirectory(prefix="netplane-tunnel-") as folder:
        path = f"{folder}/socket"
        server = await asyncio.start_unix_server(_Carrier(through, url).carry, path)
        async with server, _session(aiohttp.UnixConnector(path, limit=0, force_close=True)) as made:
            yield made


def _session(connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar())


class _Carrier:
    def __init__(self, through: agents.Agents, url: str) -> None:
        self._through = through
        self._url = url

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection; one that the agent refuses is closed."""
        try:
            upstream = await self._through.connect(self._url, (), ())
        except status.ApiStatus:
            writer.close()
            return
        try:
            parts = (_inward(reader, upstream), _outward(upstream, writer))
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(part) for part in parts]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    task.cancel()
        finally:
            writer.close()
            await upstream.close()


async def _inward(reader: asyncio.StreamReader, upstream: aiohttp.ClientWebSocketResponse) -> None:
    with contextlib.suppress(aiohttp.ClientError, OSError):
        while data := await reader.read(_CHUNK):
            await upstream.send_bytes(data)


async def _outward(upstream: aiohttp.ClientWebSocketResponse, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        async for message in upstream:
            if message.type is not aiohttp.WSMsgType.BINARY:
                return
            writer.write(message.data)
            await writer.drain()
