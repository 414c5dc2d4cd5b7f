"""Following the Gateway API's types on an API that may not serve them, and writing statuses there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from netplane.edge.gateway import crds, facts, run
from netplane.kube import errors, types
from netplane.kube.fake import FakeApi
from netplane.model import service
from tests.support import gateway_objects as g
from tests.support.gateway_reader import DOOR

SERVICES = {
    ("default", "web"): service.Service("default", "web", ports=(service.ServicePort("", service.Protocol.TCP, 8080),))
}


class Absent(FakeApi):
    """An API that does not serve the types until told."""

    is_served = False

    def pages(self, resource: types.Resource, **asked: Any) -> Any:
        if resource.group == facts.GROUP and not self.is_served:
            raise errors.NotFound(404, "NotFound", "the server could not find the requested resource")
        return super().pages(resource, **asked)


@contextlib.asynccontextmanager
async def following(follower: run.Follower) -> AsyncIterator[asyncio.Event]:
    """Run a follower for as long as the block lasts; the event is set whenever something changed."""
    changed = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(follower.run(changed.set))
        try:
            yield changed
        finally:
            task.cancel()


async def test_gateways_are_read_and_their_statuses_written() -> None:
    api = FakeApi()
    for obj in (g.gateway_class(), g.gateway(), g.route("web", g.rule("web"))):
        resource = next(each for each in facts.RESOURCES if each.kind == obj["kind"])
        await api.create(resource, obj)
    follower = run.Follower(api)
    async with following(follower) as changed:
        await asyncio.wait_for(changed.wait(), 20)
        assert follower.is_active
        reading = follower.read(SERVICES, lambda _: "none", DOOR)
        assert [each.owner.name for each in reading.routing.routes] == ["web"]
        await follower.write(reading.statuses)
        async with asyncio.timeout(20):
            while follower.read(SERVICES, lambda _: "none", DOOR).statuses:  # noqa: ASYNC110  # nothing tells of it
                await asyncio.sleep(0.01)
            changed.clear()
            await follower.write(reading.statuses)
            await asyncio.sleep(0.05)
        assert not changed.is_set(), "a status of ours is no news"
    route = await api.get(facts.HTTPROUTES, "web", namespace="default")
    assert route["status"]["parents"][0]["conditions"][0]["status"] == "True"


async def test_a_status_for_an_object_that_changed_meanwhile_is_left() -> None:
    api = FakeApi()
    await api.create(facts.GATEWAYCLASSES, g.gateway_class())
    follower = run.Follower(api)
    async with following(follower) as changed:
        await asyncio.wait_for(changed.wait(), 20)
        (write,) = follower.read({}, lambda _: "none", DOOR).statuses
        newer = await api.get(facts.GATEWAYCLASSES, "netplane")
        await api.update(facts.GATEWAYCLASSES, {**newer, "spec": {**newer["spec"], "description": "new"}})
        await follower.write([write])
        await asyncio.sleep(0.05)
    assert "status" not in await api.get(facts.GATEWAYCLASSES, "netplane")


async def test_an_api_without_the_types_is_no_failure() -> None:
    follower = run.Follower(Absent())
    async with following(follower):
        await asyncio.wait_for(follower.looked.wait(), 20)
        assert not follower.is_active
        assert follower.read({}, lambda _: "none", DOOR).routing.routes == ()


async def test_definitions_are_installed_where_they_are_absent_and_left_where_not() -> None:
    api = FakeApi()
    theirs, *_ = crds.definitions()
    theirs["metadata"]["annotations"] = {"whose": "theirs"}
    await api.create(types.CUSTOMRESOURCEDEFINITIONS, theirs)
    await crds.ensure(api)
    found = (await api.list(types.CUSTOMRESOURCEDEFINITIONS)).items
    assert len(found) == 4
    kept = await api.get(types.CUSTOMRESOURCEDEFINITIONS, theirs["metadata"]["name"])
    assert kept["metadata"]["annotations"] == {"whose": "theirs"}
