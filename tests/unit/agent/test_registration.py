"""A node's registration against an API in memory: what it says, and when it says it again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from netplane.agent.node.objects import Identity
from netplane.agent.node.register import Registration
from netplane.kube import meta
from netplane.kube.fake import FakeApi
from netplane.kube.types import LEASES, NODES, Object
from netplane.lib.clock import Fake
from tests.support.agent_pods import FakeRuntime


@contextlib.asynccontextmanager
async def registered(api: FakeApi, clock: Fake, folder: Path) -> AsyncIterator[None]:
    identity = Identity("node-1", ("172.30.0.11",), 10250, 110, {}, "fake://1")

    def held() -> Object | None:
        return api.objects(NODES).get(("", "node-1"))

    registration = Registration(api, identity, FakeRuntime(clock), disk=folder, clock=clock, held=held)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(registration.run())
        await registration.registered.wait()
        await api.until(lambda: ready(api) == "True")
        yield
        running.cancel()


def ready(api: FakeApi) -> str:
    conditions = api.objects(NODES)[("", "node-1")].get("status", {}).get("conditions", ())
    return next((one["status"] for one in conditions if one["type"] == "Ready"), "")


def take_for_lost(api: FakeApi) -> None:
    node = api.objects(NODES)[("", "node-1")]
    for one in node["status"]["conditions"]:
        one["status"] = "Unknown"
    api.seed(NODES, node)


async def test_a_node_taken_for_lost_says_that_it_is_ready_as_soon_as_it_reaches_the_api_again(tmp_path: Path) -> None:
    clock = Fake()
    await clock.advance(1)
    api = FakeApi()
    async with registered(api, clock, tmp_path):
        await api.until(lambda: bool(api.objects(LEASES)))
        api.go_down()
        for _ in range(60):
            await clock.advance(1)
        take_for_lost(api)
        api.come_up()
        for _ in range(8):  # 7 s at most lie between two tries
            await clock.advance(1)
        await api.until(lambda: ready(api) == "True", seconds=15)


async def test_while_the_api_is_away_the_lease_is_tried_ever_more_seldom_and_the_log_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Fake()
    await clock.advance(1)
    api = FakeApi()
    async with registered(api, clock, tmp_path):
        await api.until(lambda: bool(api.objects(LEASES)))
        with caplog.at_level(logging.DEBUG, "netplane.agent.node"):
            api.go_down()
            for _ in range(600):
                await clock.advance(0.1)
            api.come_up()
            for _ in range(80):
                await clock.advance(0.1)
            await api.until(lambda: "lease renewed again" in caplog.messages, seconds=15)
    told = [(one.levelname, one.message) for one in caplog.records if "lease" in one.message]
    assert [one for one in told if one[0] != "DEBUG"] == [
        ("WARNING", "lease not renewed"),
        ("INFO", "lease renewed again"),
    ]
    # One each of 0.2, 0.4 .. 6.4 s, then every 5.6 to 7 s; a whole renewal may have passed before the first.
    assert 10 <= len(told) <= 20


async def test_a_node_taken_for_lost_just_when_it_has_come_back_says_so_again(tmp_path: Path) -> None:
    clock = Fake()
    await clock.advance(1)
    api = FakeApi()
    async with registered(api, clock, tmp_path):
        await api.until(lambda: bool(api.objects(LEASES)))
        take_for_lost(api)
        for _ in range(12):
            await clock.advance(1)
        await api.until(lambda: ready(api) == "True", seconds=15)


async def test_a_short_silence_does_not_send_the_status_again(tmp_path: Path) -> None:
    clock = Fake()
    await clock.advance(1)
    api = FakeApi()
    async with registered(api, clock, tmp_path):
        await api.until(lambda: bool(api.objects(LEASES)))
        version = meta.resource_version(api.objects(NODES)[("", "node-1")])
        for _ in range(30):
            await clock.advance(1)
        assert meta.resource_version(api.objects(NODES)[("", "node-1")]) == version
