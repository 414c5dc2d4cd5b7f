"""Events reach the API without holding anybody up."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from netplane.kube import errors, events
from netplane.kube.fake import FakeApi
from netplane.kube.types import EVENTS, Object
from netplane.lib import clock

POD: Object = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "namespace": "ns", "uid": "u1", "resourceVersion": "7"},
}


@contextlib.asynccontextmanager
async def recording() -> AsyncIterator[tuple[FakeApi, events.Recorder, clock.Fake]]:
    time = clock.Fake()
    api = FakeApi(clock=time)
    recorder = events.Recorder(api, "kubelet", time, host="n1")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(recorder.run())
        yield api, recorder, time
        task.cancel()


def told(api: FakeApi) -> list[Object]:
    return list(api.objects(EVENTS).values())


async def test_an_event_names_object_source_and_reason() -> None:
    async with recording() as (api, recorder, _):
        recorder.record(POD, "Normal", "Started", "Started container web")
        await recorder.flush()
    (event,) = told(api)
    assert event["involvedObject"]["uid"] == "u1"
    assert event["metadata"]["namespace"] == "ns"
    assert (event["type"], event["reason"], event["message"]) == ("Normal", "Started", "Started container web")
    assert event["source"] == {"component": "kubelet", "host": "n1"}
    assert event["firstTimestamp"] == event["lastTimestamp"] == "2026-01-01T00:00:00Z"


async def test_a_repetition_raises_the_count() -> None:
    async with recording() as (api, recorder, time):
        for _ in range(3):
            recorder.record(POD, "Warning", "BackOff", "Back-off")
            await recorder.flush()
            await time.advance(10)
    (event,) = told(api)
    assert (event["count"], event["lastTimestamp"]) == (3, "2026-01-01T00:00:20Z")


async def test_a_repetition_of_an_event_that_expired_is_told_anew() -> None:
    async with recording() as (api, recorder, _):
        recorder.record(POD, "Warning", "BackOff", "Back-off")
        await recorder.flush()
        (event,) = told(api)
        api.drop(EVENTS, event["metadata"]["name"], "ns")
        recorder.record(POD, "Warning", "BackOff", "Back-off")
        await recorder.flush()
    assert [event["count"] for event in told(api)] == [1]


async def test_a_flood_about_one_object_is_cut_and_others_are_not() -> None:
    async with recording() as (api, recorder, _):
        for number in range(100):
            recorder.record(POD, "Warning", "Flood", f"number {number}")
        other = {**POD, "metadata": {**POD["metadata"], "uid": "u2", "name": "api"}}
        recorder.record(other, "Normal", "Fine", "fine")
        await recorder.flush()
    assert [event["reason"] for event in told(api)].count("Flood") == 25
    assert [event["reason"] for event in told(api)].count("Fine") == 1


async def test_a_failing_api_is_no_failure_of_the_caller() -> None:
    async with recording() as (api, recorder, _):
        api.fail("create", errors.Forbidden(403, "Forbidden", "no"))
        recorder.record(POD, "Normal", "Lost", "lost")
        recorder.record(POD, "Normal", "Kept", "kept")
        await recorder.flush()
    assert [event["reason"] for event in told(api)] == ["Kept"]


async def test_an_event_about_a_node_is_in_the_default_namespace() -> None:
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "uid": "n1"}}
    async with recording() as (api, recorder, _):
        recorder.record(node, "Normal", "Starting", "starting")
        await recorder.flush()
    assert told(api)[0]["metadata"]["namespace"] == "default"
