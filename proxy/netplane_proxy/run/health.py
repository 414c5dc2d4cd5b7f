"""Answer who asks whether this proxy, and each balanced Service on this node, can take traffic."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from aiohttp import web
from prometheus_client import Counter

from netplane.lib import cli, clock, keyed, log
from netplane.model import address
from netplane.model.address import Family, Packed
from netplane.model.node import Node
from netplane.model.service import Key
from netplane_proxy.plan.health import HealthCheck
from netplane_proxy.run import telemetry

_LOG = log.get("proxy")
_LATE_SECONDS = 60.0
_AGAIN_SECONDS = 5.0
_AUTOSCALER_TAINT = "ToBeDeletedByClusterAutoscaler"


class Pulse:
    """Knows whether wanted changes reach the kernel in time. Healthy while starting, as kube-proxy is."""

    def __init__(self, time: clock.Clock) -> None:
        """Start with nothing pending."""
        self._clock = time
        self._pending_since: float | None = None
        self._is_node_eligible = True
        self.last_updated = time.now()

    def wanted(self) -> None:
        """Note that the kernel must change."""
        if self._pending_since is None:
            self._pending_since = self._clock.monotonic()
            telemetry.queued(self._clock.now())

    def committed(self) -> None:
        """Note that the kernel holds what is wanted."""
        self._pending_since = None
        self.last_updated = self._clock.now()
        telemetry.committed(self.last_updated)

    def take_node(self, node: Node | None) -> None:
        """Note whether the node stays: balancers shall turn away from one that is going to be deleted (KEP-3836).

        Without a Node object it stays as it was.
        """
        if node is not None:
            is_leaving = any(taint.key == _AUTOSCALER_TAINT for taint in node.taints)
            self._is_node_eligible = not node.is_deleting and not is_leaving

    @property
    def is_healthy(self) -> bool:
        """Whether no change has been waiting for longer than a minute."""
        return self._pending_since is None or self._clock.monotonic() - self._pending_since < _LATE_SECONDS

    def healthz(self, _: web.Request) -> web.Response:
        """Answer /healthz in kube-proxy's words: whether balancers shall send traffic to this node."""
        is_healthy = self.is_healthy and self._is_node_eligible
        return self._answer(telemetry.HEALTHZ, {"nodeEligible": self._is_node_eligible}, is_healthy=is_healthy)

    def livez(self, _: web.Request) -> web.Response:
        """Answer /livez in kube-proxy's words: whether this process works, whatever becomes of the node."""
        return self._answer(telemetry.LIVEZ, {}, is_healthy=self.is_healthy)

    def _answer(self, asked: Counter, more: Mapping[str, bool], *, is_healthy: bool) -> web.Response:
        status, now = (200 if is_healthy else 503), self._clock.now()
        asked.labels(str(status)).inc()
        updated = now if is_healthy else self.last_updated
        times = {"lastUpdated": clock.rfc3339_micro(updated), "currentTime": clock.rfc3339_micro(now)}
        return _json({**times, **more}, status)


@contextlib.asynccontextmanager
async def patient(
    server: Callable[[], AbstractAsyncContextManager[int]], *, must: bool, time: clock.Clock = clock.SYSTEM
) -> AsyncIterator[None]:
    """Serve while inside, as soon as the address can be had: a kube-proxy that shall go may hold it yet.

    Nobody's packets wait for that. With `must` an address that cannot be had at once is a UserError.
    """
    async with contextlib.AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(server())
        except cli.UserError as error:
            if must:
                raise
            _LOG.error("not served yet", reason=error, again_after=_AGAIN_SECONDS)
        else:
            yield
            return
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(_serve_later(stack, server, time))
            try:
                yield
            finally:
                waiting.cancel()


async def _serve_later(
    stack: contextlib.AsyncExitStack, server: Callable[[], AbstractAsyncContextManager[int]], time: clock.Clock
) -> None:
    while True:
        await time.sleep(_AGAIN_SECONDS)
        with contextlib.suppress(cli.UserError):
            port = await stack.enter_async_context(server())
            _LOG.info("served now", port=port)
            return


@dataclass(slots=True)
class _Served:
    """One open health check: its answer may change while it stands."""

    service: Key
    check: HealthCheck
    runner: web.AppRunner
    sites: dict[Packed, web.TCPSite] = field(default_factory=dict)
    refused: dict[Packed, str] = field(default_factory=dict)


class ServiceHealth:
    """Serves the healthCheckNodePort of each balanced Service: 200 while this node has ready endpoints, else 503."""

    def __init__(self, pulse: Pulse, time: clock.Clock = clock.SYSTEM) -> None:
        """Start with no port open."""
        self._pulse = pulse
        self._clock = time
        self._wanted: tuple[Mapping[Key, HealthCheck], tuple[Packed, ...]] = {}, ()
        self._served: dict[Key, _Served] = {}
        self._lock = asyncio.Lock()

    async def serve(self, checks: Mapping[Key, HealthCheck], addresses: tuple[Packed, ...]) -> None:
        """Open, keep and close ports so that exactly these checks are answered on these addresses.

        What another program holds, or an address that is not usable yet, is reported once and tried again by `run`.
        """
        async with self._lock:
            self._wanted = dict(checks), addresses
            await self._settle()

    async def run(self) -> None:
        """Try again, for ever, what could not be had."""
        while True:
            await self._clock.sleep(_AGAIN_SECONDS)
            async with self._lock:
                if any(one.refused for one in self._served.values()):
                    await self._settle()

    async def close(self) -> None:
        """Close every port."""
        await self.serve({}, ())

    async def _settle(self) -> None:
        checks, addresses = self._wanted
        ports = {key: one.check.port for key, one in self._served.items()}
        delta = keyed.diff({key: check.port for key, check in checks.items()}, ports)
        for key in (*delta.remove, *delta.change):
            await self._close(self._served.pop(key))
        for key, check in checks.items():
            served = self._served.get(key)
            if served is None:
                served = self._served[key] = await self._open(key, check)
            served.check = check
            await self._listen(served, addresses)

    async def _open(self, key: Key, check: HealthCheck) -> _Served:
        app = web.Application()
        served = _Served(key, check, web.AppRunner(app, access_log=None, shutdown_timeout=0.5))
        app.router.add_route("*", "/{path:.*}", self._answer(served))
        await served.runner.setup()
        _LOG.info("health check port open", service="/".join(key), port=check.port)
        return served

    async def _listen(self, served: _Served, addresses: tuple[Packed, ...]) -> None:
        """Listen on these addresses: those that stay are not interrupted, and none waits for another."""
        for ip in [ip for ip in served.sites if ip not in addresses]:
            await served.sites.pop(ip).stop()
        former, served.refused = served.refused, {}
        for ip in addresses:
            if ip in served.sites:
                continue
            site = web.TCPSite(served.runner, address.text(ip), served.check.port)
            try:
                await site.start()
            except OSError as error:
                await site.stop()
                reason = served.refused[ip] = error.strerror or str(error)
                if former.get(ip) != reason:
                    where = address.with_port(ip, served.check.port)
                    _LOG.error("health check not served", service="/".join(served.service), at=where, reason=reason)
            else:
                served.sites[ip] = site

    async def _close(self, served: _Served) -> None:
        await served.runner.cleanup()
        _LOG.info("health check port closed", service="/".join(served.service), port=served.check.port)

    def _answer(self, served: _Served) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(request: web.Request) -> web.Response:
            count, is_healthy = served.check.count(_family(request)), self._pulse.is_healthy
            namespace, name = served.service
            body = {
                "service": {"namespace": namespace, "name": name},
                "localEndpoints": count,
                "serviceProxyHealthy": is_healthy,
            }
            return _json(body, 200 if count and is_healthy else 503, {"X-Load-Balancing-Endpoint-Weight": str(count)})

        return answer


def _family(request: web.Request) -> Family:
    """Return by which family somebody asks."""
    here = request.transport.get_extra_info("sockname") if request.transport is not None else None
    return Family.V6 if here and ":" in here[0] else Family.V4


def _json(body: object, status: int, headers: Mapping[str, str] | None = None) -> web.Response:
    safety = {"X-Content-Type-Options": "nosniff"}
    return web.Response(
        text=json.dumps(body), status=status, content_type="application/json", headers={**safety, **(headers or {})}
    )
