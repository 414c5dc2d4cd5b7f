"""Balancers and people learn the truth about this node."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp.test_utils import make_mocked_request

from netplane.lib import cli
from netplane.lib import clock as clocks
from netplane.lib import health as http
from netplane.model import address
from netplane.model.address import Family
from netplane.model.node import Node, Taint
from netplane_proxy.plan import health as plan
from netplane_proxy.plan.health import HealthCheck
from netplane_proxy.run import health
from tests.support.clusters import NODE, draining, endpoint, local, piece, service

BALANCED = service(type="LoadBalancer", external_local=True, health_check_node_port=31000)
LOOPBACK = (address.parse("127.0.0.1"),)
WEB = ("default", "web")


def test_the_check_counts_ready_endpoints_of_this_node_once() -> None:
    slices = (
        piece(local("10.244.1.1"), endpoint("10.244.2.1"), draining(local("10.244.1.2"))),
        piece(local("10.244.1.1"), name="other"),
    )
    assert plan.of_service(BALANCED, slices, NODE) == HealthCheck(31000, ((Family.V4, 1),))


def test_a_pod_of_both_families_is_one_to_those_who_ask_by_either() -> None:
    balanced = BALANCED._replace(cluster_ips=(*BALANCED.cluster_ips, address.parse("fd00:96::1")))
    slices = piece(local("10.244.1.1"), local("10.244.1.2")), piece(local("fd00:244::1"), name="v6")
    check = plan.of_service(balanced, slices, NODE)
    assert check is not None
    assert [check.count(family) for family in Family] == [2, 1]
    alone = plan.of_service(BALANCED, slices, NODE)
    assert alone is not None
    assert [alone.count(family) for family in Family] == [2, 2]


@pytest.mark.parametrize("other", [service(), service(type="LoadBalancer", external_local=True), None])
def test_services_without_a_check_port_have_no_check(other: object) -> None:
    assert plan.of_service(other, (), NODE) is None  # type: ignore[arg-type]  # parametrized


async def test_healthz_turns_bad_when_a_change_waits_too_long() -> None:
    time = clocks.Fake()
    pulse = health.Pulse(time)
    assert pulse.is_healthy
    pulse.wanted()
    await time.advance(59)
    assert pulse.is_healthy
    await time.advance(2)
    assert pulse.healthz(make_mocked_request("GET", "/healthz")).status == 503
    pulse.committed()
    assert pulse.healthz(make_mocked_request("GET", "/healthz")).status == 200


async def test_healthz_says_when_rules_were_last_updated() -> None:
    time = clocks.Fake()
    pulse = health.Pulse(time)
    answer = pulse.healthz(make_mocked_request("GET", "/healthz"))
    body = json.loads(answer.text or "")
    assert set(body) == {"lastUpdated", "currentTime", "nodeEligible"}
    assert body["lastUpdated"] == body["currentTime"] == clocks.rfc3339_micro(time.now())


@pytest.mark.parametrize(
    "node", [Node("n", is_deleting=True), Node("n", taints=(Taint("ToBeDeletedByClusterAutoscaler"),))]
)
async def test_a_node_that_is_leaving_is_not_healthy_for_balancers(node: Node) -> None:
    pulse = health.Pulse(clocks.Fake())
    pulse.take_node(node)
    assert pulse.healthz(make_mocked_request("GET", "/healthz")).status == 503
    assert pulse.livez(make_mocked_request("GET", "/livez")).status == 200
    assert pulse.is_healthy


def test_a_node_object_that_is_gone_changes_nothing_for_balancers() -> None:
    for node, status in ((Node("n"), 200), (Node("n", is_deleting=True), 503)):
        pulse = health.Pulse(clocks.Fake())
        pulse.take_node(node)
        pulse.take_node(None)
        assert pulse.healthz(make_mocked_request("GET", "/healthz")).status == status


def counted(number: int) -> tuple[tuple[Family, int], ...]:
    return ((Family.V4, number),)


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[health.ServiceHealth]:
    served = health.ServiceHealth(health.Pulse(clocks.SYSTEM))
    try:
        yield served
    finally:
        await served.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


async def ask(port: int, host: str = "127.0.0.1") -> tuple[int, object, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{host}:{port}/healthz") as answer:
        return answer.status, await answer.json(), answer.headers["X-Load-Balancing-Endpoint-Weight"]


async def test_a_health_check_port_follows_the_local_endpoints() -> None:
    port = free_port()
    async with serving() as served:
        await served.serve({WEB: HealthCheck(port, counted(2))}, LOOPBACK)
        assert await ask(port) == (
            200,
            {"service": {"namespace": "default", "name": "web"}, "localEndpoints": 2, "serviceProxyHealthy": True},
            "2",
        )
        await served.serve({WEB: HealthCheck(port, counted(0))}, LOOPBACK)
        assert (await ask(port))[0] == 503


async def test_a_health_check_answers_for_the_family_that_it_is_asked_by() -> None:
    port = free_port()
    both = (*LOOPBACK, address.parse("::1"))
    async with serving() as served:
        await served.serve({WEB: HealthCheck(port, ((Family.V4, 2), (Family.V6, 0)))}, both)
        found = [await ask(port, host) for host in ("127.0.0.1", "[::1]")]
        assert [(status, weight) for status, _, weight in found] == [(200, "2"), (503, "0")]


async def test_a_health_check_port_closes_with_its_service() -> None:
    port = free_port()
    async with serving() as served:
        await served.serve({WEB: HealthCheck(port, counted(2))}, LOOPBACK)
        await served.serve({}, LOOPBACK)
        with pytest.raises(aiohttp.ClientConnectorError):
            await ask(port)


async def test_an_address_that_another_program_holds_is_served_once_it_is_free() -> None:
    time = clocks.Fake()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        def server() -> contextlib.AbstractAsyncContextManager[int]:
            return http.server("127.0.0.1", port, ready=lambda: True)

        with pytest.raises(cli.UserError, match="cannot listen"):
            async with health.patient(server, must=True, time=time):
                pass
        async with health.patient(server, must=False, time=time):
            await time.advance(6)
            other.close()
            for _ in range(300):
                await time.advance(6)
                with contextlib.suppress(aiohttp.ClientError):
                    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/livez") as got:
                        assert got.status == 200
                        break
                await asyncio.sleep(0.05)
            else:
                raise AssertionError("never served")
        with pytest.raises(aiohttp.ClientConnectorError):
            await ask(port)


async def test_an_address_that_cannot_be_had_yet_keeps_no_other_from_answering() -> None:
    port, time = free_port(), clocks.Fake()
    later = address.parse("127.0.0.2")
    with socket.create_server(("127.0.0.2", port)) as other:
        served = health.ServiceHealth(health.Pulse(time), time)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(served.run())
            await served.serve({WEB: HealthCheck(port, counted(1))}, (*LOOPBACK, later))
            assert (await ask(port))[0] == 200
            other.close()
            for _ in range(300):
                await time.advance(6)
                with contextlib.suppress(aiohttp.ClientError):
                    assert (await ask(port, "127.0.0.2"))[0] == 200
                    break
                await asyncio.sleep(0.05)
            else:
                raise AssertionError("never served")
            await served.serve({WEB: HealthCheck(port, counted(1))}, (later,))
            assert (await ask(port, "127.0.0.2"))[0] == 200
            with pytest.raises(aiohttp.ClientConnectorError):
                await ask(port)
            await served.close()
            task.cancel()


async def test_a_port_that_is_taken_is_tried_again() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        async with serving() as served:
            await served.serve({WEB: HealthCheck(port, counted(1))}, LOOPBACK)
            other.close()
            await served.serve({WEB: HealthCheck(port, counted(1))}, LOOPBACK)
            assert (await ask(port))[0] == 200
