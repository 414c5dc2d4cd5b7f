"""Health and metrics over HTTP."""

import aiohttp
import pytest
from aiohttp import web

from netplane.lib import cli, health, metrics

HITS = metrics.counter("test_health_hits", "Counted by a test.", ["kind"])


async def fetch(port: int, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
        return answer.status, await answer.text()


async def test_readyz_says_whether_it_is_ready() -> None:
    ready = [False]
    async with health.server("127.0.0.1", 0, ready=lambda: ready[0]) as port:
        assert (await fetch(port, "/readyz"))[0] == 503
        assert (await fetch(port, "/healthz"))[0] == 200
        ready[0] = True
        assert await fetch(port, "/readyz") == (200, "ok\n")


async def test_metrics_are_served() -> None:
    HITS.labels(kind="a").inc()
    async with health.server("127.0.0.1", 0, ready=lambda: True) as port:
        status, text = await fetch(port, "/metrics")
    assert status == 200
    assert 'test_health_hits_total{kind="a"} 1.0' in text


async def test_a_route_of_the_daemon_may_replace_healthz() -> None:
    def healthz(_: web.Request) -> web.Response:
        return web.json_response({"lastUpdated": "now"})

    async with health.server("127.0.0.1", 0, ready=lambda: True, routes={"/healthz": healthz}) as port:
        assert await fetch(port, "/healthz") == (200, '{"lastUpdated": "now"}')


async def test_a_taken_port_is_a_user_error() -> None:
    async with health.server("127.0.0.1", 0, ready=lambda: True) as port:
        with pytest.raises(cli.UserError, match=f"cannot listen on 127.0.0.1:{port}: "):
            async with health.server("127.0.0.1", port, ready=lambda: True):
                pass
