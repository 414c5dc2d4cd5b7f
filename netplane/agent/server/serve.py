"""Listen for the API server: socket, certificate, uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Never

import uvicorn

from netplane.agent.lifecycle.roster import Roster
from netplane.agent.node.objects import Identity
from netplane.agent.runtime.protocol import Runtime
from netplane.agent.server import app, certificate
from netplane.agent.server.authentic import Gate
from netplane.kube import client, errors
from netplane.lib import clock as clocks
from netplane.lib import log
from netplane.lib.cli import UserError
from netplane.lib.outage import Backoff

LOOK = 3600.0
FIRST_RETRY, LONGEST_RETRY = 0.2, 7.0

_log = log.get("agent.server")


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers: cancellation is how this process stops."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Server:
    """The agent's HTTPS server."""

    def __init__(
        self,
        api: client.Client,
        identity: Identity,
        roster: Roster,
        runtime: Runtime,
        listen: str,
        *,
        pki: Path,
        clock: clocks.Clock,
    ) -> None:
        self._api = api
        self._identity = identity
        self._pki = pki
        self._clock = clock
        self._app = app.build(roster, runtime, identity, Gate(api, clock), clock)
        self._socket = _listen(listen, identity.port)
        self.serving = asyncio.Event()

    async def run(self) -> Never:
        """Serve until cancelled; the certificate is got first, and again before it ends."""
        with self._socket:
            await self._ensure_certificate()
            crt, key = certificate.files(self._pki)
            config = uvicorn.Config(
                self._app,
                http="httptools",
                ws="wsproto",
                loop="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                ssl_certfile=crt,
                ssl_keyfile=key,
                timeout_graceful_shutdown=1,
            )
            config.load()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._renew(config))
                serving = group.create_task(_Uvicorn(config).serve(sockets=[self._socket]))
                self.serving.set()
                await serving
        raise asyncio.CancelledError

    async def _renew(self, config: uvicorn.Config) -> Never:
        while True:
            await self._clock.sleep(LOOK)
            await self._ensure_certificate()
            if config.ssl is not None:
                config.ssl.load_cert_chain(*certificate.files(self._pki))

    async def _ensure_certificate(self) -> None:
        said, backoff = "", Backoff(FIRST_RETRY, LONGEST_RETRY)
        while not certificate.is_good(self._pki, self._identity, self._clock.now()):
            try:
                await certificate.obtain(self._api, self._pki, self._identity)
            except errors.ApiError as error:
                if str(error) != said:
                    said = str(error)
                    _log.warning("no serving certificate yet", error=said)
                await self._clock.sleep(backoff.failed())


def _listen(address: str, port: int) -> socket.socket:
    """Return a listening socket; no address means all of both families. Raises UserError."""
    family = socket.AF_INET6 if ":" in address or not address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if not address else 1)
        sock.bind((address or "::", port))
        sock.listen(128)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} is taken on {address or 'this node'}: choose another with --port") from error
        raise UserError(f"cannot listen on {address or 'all addresses'} port {port}: {error.strerror}") from error
    sock.setblocking(False)
    return sock
