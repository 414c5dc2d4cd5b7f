"""Informers keep up whatever the server does: cuts, compaction, being down at the start or on the way."""

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from netplane.kube import errors
from netplane.kube.fake import FakeApi
from netplane.kube.informer import Batch, Informers, Query
from netplane.kube.types import NODES, PODS, SERVICES, Object
from netplane.lib import clock


def service(name: str, value: int = 0) -> Object:
    return {"metadata": {"name": name, "namespace": "ns"}, "spec": {"value": value}}


class Followed:
    """Informers at work on a fake API and a fake clock."""

    def __init__(self, *queries: Query, api: FakeApi | None = None, patience: float = 20.0) -> None:
        self.clock = clock.Fake()
        self.api = api or FakeApi(clock=self.clock)
        self.informers = Informers(
            self.api, queries or (Query(SERVICES),), clock=self.clock, rng=random.Random(1), patience=patience
        )
        self.batches: AsyncGenerator[Batch, None] = self.informers.batches()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.informers.run())
            yield
            task.cancel()

    async def next(self) -> dict[str, tuple[object, object]]:
        """Return the next batch: name to value before and after."""
        async with asyncio.timeout(20):
            batch = await anext(self.batches)
        return {change.key[1]: (_value(change.old), _value(change.new)) for change in batch.changes}

    def values(self) -> dict[str, object]:
        return {key[1]: _value(obj) for key, obj in self.informers.store(SERVICES).items()}


def _value(obj: Object | None) -> object:
    return obj["spec"]["value"] if obj else None


async def test_the_first_batch_holds_everything_as_new() -> None:
    followed = Followed()
    followed.api.seed(SERVICES, service("a", 1), service("b", 2))
    async with followed.running():
        assert await followed.next() == {"a": (None, 1), "b": (None, 2)}


async def test_the_first_batch_comes_even_when_there_is_nothing() -> None:
    followed = Followed()
    async with followed.running():
        assert await followed.next() == {}


async def test_the_first_batch_waits_for_every_resource() -> None:
    followed = Followed(Query(SERVICES), Query(NODES))
    followed.api.fail("watch", errors.Forbidden(403, "Forbidden", "no"), resource=NODES)
    async with followed.running():
        await followed.clock.settle()
        assert followed.informers.failures == {NODES: "no"}
        waiting = asyncio.ensure_future(anext(followed.batches))
        await followed.clock.settle()
        assert not waiting.done()
        await followed.clock.advance(1)
        assert (await waiting).synced


async def test_what_comes_while_the_consumer_rests_is_read_after_it_but_for_the_first() -> None:
    followed = Followed()
    async with followed.running():
        await followed.next()
        resting = asyncio.ensure_future(followed.informers.rest(1.0))
        await followed.clock.settle()
        for name in ("a", "b", "c"):
            followed.api.seed(SERVICES, service(name))
            await followed.clock.settle()
        assert list(followed.values()) == ["a"]
        await followed.clock.advance(1.0)
        await resting
        assert list(await followed.next()) == ["a", "b", "c"]


async def test_a_rest_that_was_cut_short_leaves_nothing_unread() -> None:
    followed = Followed()
    async with followed.running():
        await followed.next()
        resting = asyncio.ensure_future(followed.informers.rest(1.0))
        await followed.clock.settle()
        followed.api.seed(SERVICES, service("a"), service("b"))
        resting.cancel()
        await followed.clock.settle()
        assert list(followed.values()) == ["a", "b"]


async def test_changes_while_the_consumer_works_become_one_batch() -> None:
    followed = Followed()
    async with followed.running():
        await followed.next()
        for value in range(3):
            await followed.api.create(SERVICES, service(f"s{value}", value))
        await followed.api.patch(SERVICES, "s1", {"spec": {"value": 9}}, namespace="ns")
        await followed.api.delete(SERVICES, "s2", namespace="ns")
        await followed.clock.settle()
        assert await followed.next() == {"s0": (None, 0), "s1": (None, 9)}


async def test_a_cut_watch_resumes_and_loses_nothing() -> None:
    followed = Followed()
    followed.api.seed(SERVICES, service("a", 1))
    async with followed.running():
        await followed.next()
        followed.api.cut_watches()
        await followed.api.patch(SERVICES, "a", {"spec": {"value": 2}}, namespace="ns")
        await followed.api.create(SERVICES, service("b", 3))
        await followed.clock.advance(1)
        assert await followed.next() == {"a": (1, 2), "b": (None, 3)}
        assert [action.verb for action in followed.api.actions].count("list") == 0


async def test_compacted_history_is_read_anew_and_told_as_the_difference() -> None:
    followed = Followed()
    followed.api.seed(SERVICES, service("same", 1), service("gone", 2))
    async with followed.running():
        await followed.next()
        followed.api.go_down()
        await followed.clock.settle()
        followed.api.drop(SERVICES, "gone", "ns")
        followed.api.seed(SERVICES, service("new", 3))
        followed.api.compact()
        followed.api.come_up()
        await followed.clock.advance(30)
        assert await followed.next() == {"gone": (2, None), "new": (None, 3)}


@pytest.mark.parametrize("has_watch_list", [True, False])
async def test_an_api_that_is_down_at_the_start_is_waited_for(has_watch_list: bool) -> None:
    followed = Followed(api=FakeApi(has_watch_list=has_watch_list))
    followed.api.seed(SERVICES, service("a", 1))
    followed.api.go_down()
    async with followed.running():
        await followed.clock.advance(60)
        assert not followed.informers.synced
        assert "connection refused" in followed.informers.failures[SERVICES]
        followed.api.come_up()
        await followed.clock.advance(20)
        assert await followed.next() == {"a": (None, 1)}
        assert not followed.informers.failures


async def test_what_is_known_stays_while_the_api_is_down() -> None:
    followed = Followed()
    followed.api.seed(SERVICES, service("a", 1))
    async with followed.running():
        await followed.next()
        followed.api.go_down()
        await followed.clock.advance(3600)
        assert (followed.values(), followed.informers.synced) == ({"a": 1}, True)


async def test_an_api_that_is_down_is_asked_less_and_less_often() -> None:
    followed = Followed()
    followed.api.go_down()
    async with followed.running():
        await followed.clock.advance(60)
        early = len(followed.api.actions)
        await followed.clock.advance(60)
        assert early < 40
        assert 20 <= len(followed.api.actions) - early <= 42


async def test_following_again_is_known_before_anything_changes() -> None:
    followed = Followed()
    async with followed.running():
        await followed.next()
        followed.api.go_down()
        await followed.clock.advance(60)
        assert followed.informers.failures
        followed.api.come_up()
        await followed.clock.advance(3)
        assert not followed.informers.failures


async def test_a_server_that_asks_for_a_pause_gets_it() -> None:
    followed = Followed()
    followed.api.fail("watch", errors.of(429, "TooManyRequests", "busy", {"retryAfterSeconds": 30}))
    async with followed.running():
        await followed.clock.advance(29)
        assert len(followed.api.actions) == 1
        await followed.clock.advance(2)
        assert await followed.next() == {}


async def test_watches_that_end_at_once_are_asked_for_less_and_less_often() -> None:
    followed = Followed()
    async with followed.running():
        await followed.next()
        for _ in range(300):
            followed.api.cut_watches()
            await followed.clock.advance(0.1)
        assert len(followed.api.actions) < 40


async def test_without_watch_list_everything_is_listed() -> None:
    followed = Followed(api=FakeApi(has_watch_list=False))
    followed.api.seed(SERVICES, service("a", 1))
    async with followed.running():
        assert await followed.next() == {"a": (None, 1)}
        await followed.api.create(SERVICES, service("b", 2))
        assert await followed.next() == {"b": (None, 2)}
        assert [action.verb for action in followed.api.actions] == ["watch", "list", "watch", "create"]


async def test_a_server_that_ignores_watch_list_is_listed_after_a_while() -> None:
    class Ignorant(FakeApi):
        def watch(self, *args: object, **options: object) -> object:  # type: ignore[override]  # passes all on
            return super().watch(*args, **(options | {"send_initial_events": False}))  # type: ignore[arg-type]

    followed = Followed(api=Ignorant(), patience=0.01)
    followed.api.seed(SERVICES, service("a", 1))
    async with followed.running():
        assert await followed.next() == {"a": (None, 1)}


async def test_a_selector_narrows_what_is_kept() -> None:
    followed = Followed(Query(PODS, field_selector="spec.nodeName=n1"))
    pod = {"metadata": {"name": "p", "namespace": "ns"}, "spec": {"nodeName": "", "value": 1}}
    followed.api.seed(PODS, pod)
    async with followed.running():
        assert await followed.next() == {}
        await followed.api.patch(PODS, "p", {"spec": {"nodeName": "n1"}}, namespace="ns")
        assert await followed.next() == {"p": (None, 1)}
        await followed.api.patch(PODS, "p", {"spec": {"nodeName": "n2"}}, namespace="ns")
        assert await followed.next() == {"p": (1, None)}


async def test_a_transform_decides_what_is_kept() -> None:
    followed = Followed(Query(SERVICES, transform=lambda obj: {"spec": {"value": obj["spec"]["value"] // 10}}))
    followed.api.seed(SERVICES, service("a", 10))
    async with followed.running():
        assert await followed.next() == {"a": (None, 1)}
        await followed.api.patch(SERVICES, "a", {"spec": {"value": 11}}, namespace="ns")
        await followed.api.patch(SERVICES, "a", {"spec": {"value": 20}}, namespace="ns")
        await followed.clock.settle()
        assert await followed.next() == {"a": (1, 2)}


async def test_a_batch_knows_the_revisions_it_stands_for() -> None:
    followed = Followed()
    followed.api.seed(SERVICES, service("a"))
    async with followed.running():
        assert (await anext(followed.batches)).resource_version == {SERVICES: "1"}
        await followed.api.create(SERVICES, service("b"))
        assert (await anext(followed.batches)).resource_version == {SERVICES: "2"}


def test_two_queries_for_one_resource_are_refused() -> None:
    with pytest.raises(ValueError, match="two queries"):
        Informers(FakeApi(), [Query(SERVICES), Query(SERVICES)])
