"""Any order, repetition or relist of the same facts gives the same store; a watch cut anywhere loses nothing."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from netplane.kube import store, watch
from netplane.kube.client import Client
from netplane.kube.fake import FakeApi
from netplane.kube.informer import Informers, Query
from netplane.kube.types import CONFIGMAPS, Key, Object
from tests.support import http_api

Write = tuple[str, int]
"""A name, and its new value; a value of 0 deletes."""

WRITES = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3)), max_size=12)


def configmap(name: str, value: int) -> Object:
    return {"metadata": {"name": name, "namespace": "ns"}, "data": {"value": value}}


def write(api: FakeApi, name: str, value: int) -> None:
    if value:
        api.seed(CONFIGMAPS, configmap(name, value))
    elif ("ns", name) in api.objects(CONFIGMAPS):
        api.drop(CONFIGMAPS, name, "ns")


async def events_of(writes: Sequence[Write]) -> tuple[list[watch.Event], dict[Key, Object]]:
    """Return the events a server tells of these writes, and the objects that are there at last."""
    api = FakeApi()
    api.seed(CONFIGMAPS, configmap("first", 1))
    for name, value in writes:
        write(api, name, value)
    told: list[watch.Event] = []
    changes = api.watch(CONFIGMAPS, resource_version="1")
    assert (await anext(changes)).type == "BOOKMARK"
    while not told or int(told[-1].resource_version) < api.revision:
        if api.revision == 1:
            break
        told.append(await anext(changes))
    await changes.aclose()
    return told, {key: obj for key, obj in api.objects(CONFIGMAPS).items() if key[1] != "first"}


def kept(store_: store.Store) -> dict[Key, Any]:
    return dict(store_.values)


@given(WRITES, st.randoms(use_true_random=False), st.integers(0, 8))
def test_any_order_and_repetition_of_events_gives_the_same_store(
    writes: list[Write], rng: random.Random, repeated: int
) -> None:
    events, expected = asyncio.run(events_of(writes))
    shuffled = events + (rng.choices(events, k=repeated) if events else [])
    rng.shuffle(shuffled)
    shaken = store.Store(CONFIGMAPS)
    for event in shuffled:
        shaken.apply(event)
    assert kept(shaken) == expected


@given(WRITES, WRITES, st.booleans())
def test_a_relist_gives_the_same_store_as_the_events_and_tells_only_the_difference(
    writes: list[Write], later: list[Write], is_fresh: bool
) -> None:
    before, _ = asyncio.run(events_of(writes))
    _, expected = asyncio.run(events_of([*writes, *later]))
    listed = store.Store(CONFIGMAPS)
    for event in before if not is_fresh else ():
        listed.apply(event)
    had, staged = kept(listed), store.Staged()
    listed.stage(staged, expected.values())
    changes = listed.replace(staged)
    assert kept(listed) == expected
    assert {change.key for change in changes} == {
        key for key in had.keys() | expected.keys() if had.get(key) != expected.get(key)
    }
    assert all(change.old == had.get(change.key) and change.new == expected.get(change.key) for change in changes)


@given(WRITES, st.lists(st.integers(1, 4), max_size=6))
def test_batches_add_up_however_changes_are_gathered(writes: list[Write], sizes: list[int]) -> None:
    events, expected = asyncio.run(events_of(writes))
    source, pending, seen = store.Store(CONFIGMAPS), store.Pending(), dict[Key, Any]()
    takes = {sum(sizes[:count]) for count in range(len(sizes))} | {len(events)}
    for count, event in enumerate(events, 1):
        if change := source.apply(event):
            pending.add([change], 0.0)
        if count in takes:
            taken, _ = pending.take()
            for change in taken:
                assert seen.get(change.key) == change.old
                seen[change.key] = change.new
    assert {key: value for key, value in seen.items() if value is not None} == expected


async def follow_through_cuts(writes: list[Write], cuts: list[int], has_watch_list: bool) -> None:
    api = FakeApi(has_watch_list=has_watch_list)
    api.seed(CONFIGMAPS, configmap("first", 1))
    async with http_api.serving(api) as server, Client(server.config) as client:
        server.watch_budget += cuts
        informers = Informers(client, [Query(CONFIGMAPS)], clock=_Hasty(), rng=random.Random(0))
        seen: dict[Key, Any] = {}
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            running = group.create_task(informers.run())
            reading = group.create_task(_read(informers, seen))
            for name, value in writes:
                write(api, name, value)
                await asyncio.sleep(0.001)
            await api.until(lambda: seen == api.objects(CONFIGMAPS), seconds=60)
            running.cancel()
            reading.cancel()


async def _read(informers: Informers, seen: dict[Key, Any]) -> None:
    async for batch in informers.batches():
        for change in batch.changes:
            assert seen.get(change.key) == change.old
            seen.pop(change.key, None)
            if change.new is not None:
                seen[change.key] = change.new


class _Hasty:
    """The system's clock, on which back-off is a blink."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.monotonic = loop.time

    def now(self) -> Any:
        raise AssertionError("informers do not ask for the date")

    async def sleep(self, seconds: float, /) -> None:
        await asyncio.sleep(min(seconds, 0.001))


@settings(max_examples=25, deadline=None)
@given(WRITES, st.lists(st.integers(1, 700), max_size=4), st.booleans())
def test_a_watch_cut_at_any_byte_resumes_with_nothing_lost(
    writes: list[Write], cuts: list[int], has_watch_list: bool
) -> None:
    asyncio.run(follow_through_cuts(writes, cuts, has_watch_list))
