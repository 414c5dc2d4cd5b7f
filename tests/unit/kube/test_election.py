"""Leader election by a Lease: one at a time, taken over when its holder is silent, given back when it goes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from netplane.kube import election, errors
from netplane.kube.fake import FakeApi
from netplane.kube.types import LEASES
from netplane.lib import clock as clocks

NAME = "kube-scheduler"


class Servers:
    """Candidates that note when they lead."""

    def __init__(self) -> None:
        self.clock = clocks.Fake()
        self.api = FakeApi(clock=self.clock)
        self.leading: list[str] = []
        self.outcomes: dict[str, BaseException] = {}

    async def stand(self, identity: str, api: Any = None) -> None:
        async def run() -> None:
            self.leading.append(identity)
            try:
                await asyncio.Event().wait()
            finally:
                self.leading.remove(identity)

        try:
            await election.lead(api or self.api, NAME, identity=identity, run=run, clock=self.clock)
        except election.Lost as lost:
            self.outcomes[identity] = lost

    async def lease(self) -> dict[str, Any]:
        spec: dict[str, Any] = (await self.api.get(LEASES, NAME, namespace="kube-system"))["spec"]
        return spec


async def until(servers: Servers, leading: list[str], *, within: float) -> None:
    """Let time pass, second by second, until so many lead."""
    for _ in range(int(within)):
        if servers.leading == leading:
            return
        await servers.clock.advance(1)
    assert servers.leading == leading


async def end(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_of_two_candidates_one_leads_for_as_long_as_it_renews() -> None:
    servers = Servers()
    tasks = [asyncio.ensure_future(servers.stand(name)) for name in ("a", "b")]
    await servers.clock.advance(1)
    (leader,) = servers.leading
    for _ in range(60):
        await servers.clock.advance(1)
        assert servers.leading == [leader]
    lease = await servers.lease()
    assert lease["holderIdentity"] == leader
    assert lease["leaseDurationSeconds"] == 15
    await end(*tasks)


async def test_a_lease_that_is_given_back_is_taken_at_the_next_try() -> None:
    servers = Servers()
    first = asyncio.ensure_future(servers.stand("a"))
    await until(servers, ["a"], within=3)
    second = asyncio.ensure_future(servers.stand("b"))
    await servers.clock.advance(5)
    await end(first)
    await until(servers, ["b"], within=3)
    assert (await servers.lease())["leaseTransitions"] >= 1
    await end(second)


async def test_the_lease_of_a_silent_holder_is_taken_fifteen_seconds_after_it_was_last_seen_to_change() -> None:
    servers = Servers()
    stale = {"holderIdentity": "gone", "leaseDurationSeconds": 15, "renewTime": "2000-01-01T00:00:00.000000Z"}
    metadata = {"name": NAME, "namespace": "kube-system"}
    await servers.api.create(LEASES, {"metadata": metadata, "spec": stale})
    task = asyncio.ensure_future(servers.stand("a"))
    await servers.clock.advance(13)
    assert servers.leading == [], "its own times say nothing: clocks differ"
    await until(servers, ["a"], within=5)
    await end(task)


class Cut:
    """A connection to the API that can be cut."""

    def __init__(self, api: FakeApi) -> None:
        self._api = api
        self.is_cut = False

    def __getattr__(self, name: str) -> Any:
        if self.is_cut:
            return self._never
        return getattr(self._api, name)

    async def _never(self, *_: Any, **__: Any) -> None:
        await asyncio.Event().wait()


async def test_who_cannot_renew_stops_before_another_one_begins() -> None:
    servers = Servers()
    cut = Cut(servers.api)
    first = asyncio.ensure_future(servers.stand("a", cut))
    await until(servers, ["a"], within=3)
    second = asyncio.ensure_future(servers.stand("b"))
    await servers.clock.advance(4)
    cut.is_cut = True
    both = False
    for _ in range(25):
        await servers.clock.advance(1)
        both = both or len(servers.leading) > 1
        if servers.leading == ["b"]:
            break
    assert not both
    assert servers.leading == ["b"]
    assert isinstance(servers.outcomes["a"], election.Lost)
    await end(first, second)


async def test_what_fails_while_leading_ends_the_leading() -> None:
    servers = Servers()

    async def fails() -> None:
        raise ValueError("broken")

    with pytest.raises(ExceptionGroup, match="unhandled"):
        await election.lead(servers.api, NAME, identity="a", run=fails, clock=servers.clock)
    assert (await servers.lease())["holderIdentity"] == ""


async def test_a_candidate_that_may_not_lead_says_so_once_and_leads_when_it_may(
    caplog: pytest.LogCaptureFixture,
) -> None:
    servers = Servers()
    refusal = errors.Forbidden(403, "Forbidden", "leases is forbidden: alice may not get it")
    servers.api.fail("get", refusal, resource=LEASES, times=5)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(servers.stand("a"))
        await until(servers, ["a"], within=30)
        await end(task)
    assert [record.message for record in caplog.records].count("lease refused") == 1
