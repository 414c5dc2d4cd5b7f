"""The client against a real HTTP server: verbs, pages, watches, and each way the transport fails."""

import asyncio
import contextlib
import dataclasses
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from netplane.kube import errors
from netplane.kube.client import Client, Config
from netplane.kube.fake import FakeApi
from netplane.kube.types import CONFIGMAPS, NODES, PODS, Object
from netplane.lib import clock, metrics
from tests.support import http_api, tls


def configmap(name: str, **labels: str) -> Object:
    return {"metadata": {"name": name, "namespace": "default", "labels": labels}, "data": {"k": "v"}}


@contextlib.asynccontextmanager
async def pair(*, time: clock.Clock = clock.SYSTEM) -> AsyncIterator[tuple[http_api.HttpApi, Client]]:
    async with http_api.serving(FakeApi()) as server, Client(server.config, clock=time) as client:
        yield server, client


async def test_an_object_lives_through_all_verbs() -> None:
    async with pair() as (_, client):
        made = await client.create(CONFIGMAPS, configmap("a"))
        assert made["metadata"]["uid"]
        made["data"] = {"k": "w"}
        updated = await client.update(CONFIGMAPS, made)
        assert (await client.get(CONFIGMAPS, "a", namespace="default"))["data"] == {"k": "w"}
        with pytest.raises(errors.Conflict):
            await client.update(CONFIGMAPS, made)
        patched = await client.patch(CONFIGMAPS, "a", {"data": {"k": None, "n": "1"}}, namespace="default")
        assert patched["data"] == {"n": "1"}
        with pytest.raises(errors.Conflict):
            await client.delete(CONFIGMAPS, "a", namespace="default", uid="another")
        await client.delete(CONFIGMAPS, "a", namespace="default", uid=updated["metadata"]["uid"])
        with pytest.raises(errors.NotFound, match='configmaps "a" not found'):
            await client.get(CONFIGMAPS, "a", namespace="default")


async def test_creating_twice_says_it_is_there() -> None:
    async with pair() as (_, client):
        await client.create(NODES, {"metadata": {"name": "n1"}})
        with pytest.raises(errors.AlreadyExists):
            await client.create(NODES, {"metadata": {"name": "n1"}})


async def test_a_list_follows_its_pages_and_names_the_types() -> None:
    async with pair() as (server, client):
        server.api.seed(CONFIGMAPS, *(configmap(f"c{number}") for number in range(7)))
        listed = await client.list(CONFIGMAPS, limit=3)
        assert [item["metadata"]["name"] for item in listed.items] == [f"c{number}" for number in range(7)]
        assert listed.items[6]["kind"] == "ConfigMap"
        assert listed.resource_version == "7"
        assert len(server.requests) == 3


async def test_selectors_reach_the_server() -> None:
    async with pair() as (server, client):
        server.api.seed(CONFIGMAPS, configmap("a", app="x"), configmap("b", app="y z"))
        listed = await client.list(CONFIGMAPS, label_selector="app in (x)", field_selector="metadata.name!=q")
        assert [item["metadata"]["name"] for item in listed.items] == ["a"]


async def test_a_watch_tells_changes_until_the_server_ends_it() -> None:
    async with pair() as (server, client):
        server.api.seed(CONFIGMAPS, configmap("a"))
        told = []
        async for event in client.watch(CONFIGMAPS):
            told.append((event.type, event.object["metadata"]["name"]))
            if len(told) == 1:
                await client.create(CONFIGMAPS, configmap("b"))
            else:
                server.api.cut_watches()
        assert told == [("ADDED", "a"), ("ADDED", "b")]


async def test_what_a_watch_sends_meanwhile_lies_unread_until_it_is_wanted() -> None:
    async with pair() as (server, client):
        server.api.seed(CONFIGMAPS, configmap("a"))
        events = client.watch(CONFIGMAPS)
        assert (await anext(events)).object["metadata"]["name"] == "a"
        coming = asyncio.ensure_future(anext(events))
        with client.unread():
            for name in ("b", "c"):
                await client.create(CONFIGMAPS, configmap(name))
            await asyncio.sleep(0.2)
            assert not coming.done()
        async with asyncio.timeout(15):
            assert [(await coming).object["metadata"]["name"], (await anext(events)).object["metadata"]["name"]] == [
                "b",
                "c",
            ]
            coming = asyncio.ensure_future(anext(events))
            await client.create(CONFIGMAPS, configmap("d"))
            assert (await coming).object["metadata"]["name"] == "d"


async def test_much_that_a_watch_sends_is_read_whatever_is_wanted() -> None:
    large = {**configmap("b"), "data": {"k": "v" * 600_000}}
    async with pair() as (server, client):
        server.api.seed(CONFIGMAPS, configmap("a"))
        events = client.watch(CONFIGMAPS)
        assert (await anext(events)).object["metadata"]["name"] == "a"
        with client.unread():
            await client.create(CONFIGMAPS, large)
        async with asyncio.timeout(15):
            assert (await anext(events)).object["data"] == large["data"]


async def test_a_watch_from_a_forgotten_revision_is_gone() -> None:
    async with pair() as (server, client):
        server.api.seed(CONFIGMAPS, configmap("a"), configmap("b"))
        server.api.compact()
        events = client.watch(CONFIGMAPS, resource_version="1")
        assert (await anext(events)).type == "BOOKMARK"
        with pytest.raises(errors.Gone, match="too old resource version"):
            await anext(events)


async def test_a_cut_watch_is_unreachable_and_keeps_what_came() -> None:
    async with pair() as (server, client):
        server.api.seed(CONFIGMAPS, configmap("a"), configmap("b"))
        server.watch_budget.append(400)
        events = client.watch(CONFIGMAPS)
        assert (await anext(events)).object["metadata"]["name"] == "a"
        with pytest.raises(errors.Unreachable):
            await anext(events)


async def test_requests_are_counted_by_what_came_of_them() -> None:
    def counted(server: str, code: str, method: str = "GET") -> float:
        labels = {"code": code, "method": method, "host": server.partition("://")[2]}
        return metrics.REGISTRY.get_sample_value("rest_client_requests_total", labels) or 0

    async with pair() as (server, client):
        url = server.config.server
        await client.create(CONFIGMAPS, configmap("a"))
        await client.get(CONFIGMAPS, "a", namespace="default")
        with pytest.raises(errors.NotFound):
            await client.get(CONFIGMAPS, "b", namespace="default")
        assert [counted(url, "201", "POST"), counted(url, "200"), counted(url, "404")] == [1, 1, 1]
        labels = {"verb": "GET", "host": url.partition("://")[2]}
        assert metrics.REGISTRY.get_sample_value("rest_client_request_duration_seconds_count", labels) == 2
    nobody = dataclasses.replace(server.config, server=url)
    async with Client(nobody) as client:
        with pytest.raises(errors.Unreachable):
            await client.get(CONFIGMAPS, "a", namespace="default")
    assert counted(url, "<error>") == 1


async def test_connections_are_kept_open() -> None:
    async with pair() as (server, client):
        for _ in range(3):
            await client.list(NODES)
        assert len(server.peers) == 1


async def test_too_many_requests_waits_as_told_and_tries_again() -> None:
    time = _Hurried()
    async with pair(time=time) as (server, client):
        server.refusals += [web.Response(status=429, headers={"Retry-After": "2"}) for _ in range(2)]
        await client.create(NODES, {"metadata": {"name": "n1"}})
        assert time.slept == [2.0, 2.0]


async def test_a_write_that_failed_is_not_sent_again() -> None:
    async with pair(time=_Hurried()) as (server, client):
        server.refusals.append(web.Response(status=503, headers={"Retry-After": "1"}))
        with pytest.raises(errors.Unavailable):
            await client.create(NODES, {"metadata": {"name": "n1"}})
        assert len(server.requests) == 1


async def test_a_read_the_server_could_not_serve_is_tried_again() -> None:
    async with pair(time=_Hurried()) as (server, client):
        server.refusals.append(web.Response(status=503, headers={"Retry-After": "1"}))
        assert (await client.list(NODES)).items == []


async def test_retries_end() -> None:
    time = _Hurried()
    async with pair(time=time) as (server, client):
        server.refusals += [web.Response(status=429, headers={"Retry-After": "3600"}) for _ in range(9)]
        with pytest.raises(errors.TooManyRequests):
            await client.list(NODES)
        assert time.slept == [10.0, 10.0, 10.0]


async def test_nobody_listening_names_the_server_and_the_cause() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        config = Config(server=f"http://127.0.0.1:{taken.getsockname()[1]}")
        async with Client(config) as client:
            with pytest.raises(errors.Unreachable, match=rf"API server {config.server}: connection refused"):
                await client.list(PODS)


async def test_an_answer_that_is_not_json_is_an_error() -> None:
    async with pair() as (server, client):
        server.refusals.append(web.Response(text="<html>"))
        with pytest.raises(errors.InternalError, match="did not answer in JSON"):
            await client.list(PODS)


async def test_the_server_is_trusted_by_the_given_authority_only(tmp_path: Path) -> None:
    authority, context = tls.authority(tmp_path)
    other, _ = tls.authority(tmp_path)
    async with http_api.serving(FakeApi(), tls=context) as server:
        async with Client(dataclasses.replace(server.config, ca_data=authority)) as client:
            assert (await client.list(PODS)).items == []
        async with Client(dataclasses.replace(server.config, ca_data=other)) as client:
            with pytest.raises(errors.Unreachable, match="certificate is not trusted"):
                await client.list(PODS)
        async with Client(dataclasses.replace(server.config, insecure=True)) as client:
            assert (await client.list(PODS)).items == []


async def test_a_certificate_for_another_address_is_not_trusted(tmp_path: Path) -> None:
    authority, context = tls.authority(tmp_path, address="192.0.2.1")
    async with (
        http_api.serving(FakeApi(), tls=context) as server,
        Client(dataclasses.replace(server.config, ca_data=authority)) as client,
    ):
        with pytest.raises(errors.Unreachable, match="certificate is not trusted"):
            await client.list(PODS)


class _Hurried:
    """A clock whose sleeps are written down, not slept."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.now, self.monotonic = clock.SYSTEM.now, clock.SYSTEM.monotonic

    async def sleep(self, seconds: float, /) -> None:
        self.slept.append(seconds)
