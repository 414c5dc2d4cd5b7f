"""Serve a daemon's health and metrics over plain HTTP. What healthy means, the daemon says."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from aiohttp import web

from netplane.lib import cli, metrics

Check = Callable[[], bool]
Route = Callable[[web.Request], web.Response]


@contextlib.asynccontextmanager
async def server(
    address: str,
    port: int,
    *,
    ready: Check,
    live: Check = lambda: True,
    routes: Mapping[str, Route] | None = None,
    refresh: Callable[[], Awaitable[None]] | None = None,
) -> AsyncIterator[int]:
    """Serve /healthz and /livez (200 while `live()`), /readyz (200 while `ready()`), /metrics, and the given routes,
    also in place of the first two. `refresh` is waited for before metrics are printed.

    Yields the port listened on (useful for port 0). Raises `cli.UserError` when the address cannot be taken.
    """
    app = web.Application()
    app.router.add_get("/readyz", _answer(ready))
    app.router.add_get("/metrics", _metrics(refresh))
    extra = dict(routes or {})
    for path in ("/healthz", "/livez"):
        if path not in extra:
            app.router.add_get(path, _answer(live))
    for path, route in extra.items():
        app.router.add_get(path, _asynchronous(route))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await _listen(runner, address, port)
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, address: str, port: int) -> None:
    try:
        await web.TCPSite(runner, address, port).start()
    except OSError as error:
        where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        reason = error.strerror or str(error)
        raise cli.UserError(f"cannot listen on {where}: {reason}; choose another address or port") from error


def _answer(check: Check) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="ok\n") if check() else web.Response(status=503, text="not ready\n")

    return answer


def _asynchronous(route: Route) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        return route(request)

    return answer


def _metrics(refresh: Callable[[], Awaitable[None]] | None) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        if refresh is not None:
            await refresh()
        return web.Response(body=metrics.text(), headers={"Content-Type": metrics.CONTENT_TYPE})

    return answer
