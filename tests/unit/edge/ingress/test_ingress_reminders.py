"""A fault that stands is told again before its Event is forgotten, and not more often than that."""

from __future__ import annotations

import asyncio

from netplane.edge.ingress.plan.view import Finding
from netplane.edge.ingress.run.status import Publisher
from netplane.kube.events import Recorder
from netplane.kube.fake import FakeApi
from netplane.kube.types import EVENTS
from netplane.lib import clock

WEB = {"metadata": {"namespace": "ns", "name": "web", "uid": "u1"}}
FAULT = Finding(("ns", "web"), "BadPath", "spec.rules[0]: no")
OTHER = Finding(("ns", "web"), "BadHost", "spec.rules[1]: no")


async def test_a_fault_that_stands_is_told_again_after_half_an_hour() -> None:
    time = clock.Fake()
    api = FakeApi(clock=time)
    recorder = Recorder(api, "netplane-ingress", time)
    publisher = Publisher(api, recorder, time)

    async def counts(*findings: Finding) -> list[tuple[str, int]]:
        publisher.offer({("ns", "web"): WEB}, [], findings, [])
        await recorder.flush()
        return sorted((each["reason"], each["count"]) for each in api.objects(EVENTS).values())

    async with asyncio.TaskGroup() as group:
        sending = group.create_task(recorder.run())
        assert await counts(FAULT) == [("BadPath", 1)]
        await time.advance(1700)
        assert await counts(FAULT, OTHER) == [("BadHost", 1), ("BadPath", 1)]
        await time.advance(200)
        assert await counts(FAULT, OTHER) == [("BadHost", 1), ("BadPath", 2)]
        await time.advance(200)
        assert await counts(FAULT, OTHER) == [("BadHost", 1), ("BadPath", 2)]
        # What was mended meanwhile is new when it comes back.
        assert await counts(FAULT) == [("BadHost", 1), ("BadPath", 2)]
        assert await counts(FAULT, OTHER) == [("BadHost", 2), ("BadPath", 2)]
        sending.cancel()
