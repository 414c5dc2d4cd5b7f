"""Laws of the store: the past it shows is the past that was, and a watcher's copy becomes the store's content."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from netplane.controlplane.store import cache, embedded, history, protocol
from netplane.kube.types import Key, Object

NAMES = st.sampled_from(["a", "b", "c", "d"])
NAMESPACES = st.sampled_from(["x", "y"])
KEYS = st.tuples(NAMESPACES, NAMES)
ACTS = st.lists(st.tuples(st.sampled_from(["put", "drop"]), KEYS), max_size=40)


@given(ACTS)
def test_a_snapshot_at_any_revision_is_what_the_objects_were_then(acts: list[tuple[str, Key]]) -> None:
    kept, now = cache.Cache(floor=0), dict[Key, int]()
    past = {0: dict(now)}
    for revision, (act, key) in enumerate(acts, start=1):
        one = history.Record(key, revision, b"{}", history.Index({}, {}))
        if act == "put":
            kept.apply(revision=revision, record=one, last=one)
            now[key] = revision
        elif key in now:
            kept.apply(revision=revision, record=None, last=one)
            del now[key]
        past[revision] = dict(now)
    for revision, wanted in past.items():
        assert [(r.key, r.revision) for r in kept.snapshot(revision=revision)] == sorted(wanted.items())


@given(ACTS, st.integers(0, 40))
def test_replaying_the_events_after_a_revision_leads_to_the_present(acts: list[tuple[str, Key]], start: int) -> None:
    kept = cache.Cache(floor=0)
    for revision, (act, key) in enumerate(acts, start=1):
        one = history.Record(key, revision, b"{}", history.Index({}, {}))
        if act == "put" or key in kept.records:
            kept.apply(revision=revision, record=one if act == "put" else None, last=one)
    start = min(start, len(acts))
    copy = {r.key: r.revision for r in kept.snapshot(revision=start)}
    for event in kept.window.since(kept.window.position(start), limit=100):
        assert event.revision > start
        if event.new is None:
            del copy[event.key]
        else:
            copy[event.key] = event.revision
    assert copy == {key: record.revision for key, record in kept.records.items()}


WRITES = st.lists(st.tuples(st.sampled_from(["create", "update", "delete", "settle"]), NAMES), max_size=30)


@settings(max_examples=25, deadline=None)
@given(WRITES)
def test_concurrent_writes_leave_the_same_on_disk_in_memory_and_with_a_watcher(writes: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(_concurrent(Path(directory) / "db", writes))


def _object(name: str) -> Object:
    return {"metadata": {"name": name, "namespace": "x"}}


async def _concurrent(path: Path, writes: list[tuple[str, str]]) -> None:
    store = embedded.Embedded(path, lambda _, __: history.Index({}, {}))
    await store.start()
    async with asyncio.TaskGroup() as group:
        for act, name in writes:
            if act == "settle":
                await asyncio.sleep(0.001)
            else:
                group.create_task(_write(store, act, name))
                await asyncio.sleep(0)
    seen: dict[Key, int] = {}
    last = 0
    for event in store.cache("pods").window.since(0, limit=1000):
        assert event.revision > last
        last = event.revision
        assert (event.old.revision if event.old else 0) == seen.get(event.key, 0)
        if event.new is None:
            del seen[event.key]
        else:
            seen[event.key] = event.revision
    memory = {key: record.value for key, record in store.cache("pods").records.items()}
    assert seen == {key: record.revision for key, record in store.cache("pods").records.items()}
    revision = store.revision
    await store.stop()
    again = embedded.Embedded(path, lambda _, __: history.Index({}, {}))
    await again.start()
    assert {key: record.value for key, record in again.cache("pods").records.items()} == memory
    assert again.revision == revision
    await again.stop()


async def _write(store: embedded.Embedded, act: str, name: str) -> None:
    try:
        if act == "create":
            await store.create("pods", _object(name))
            return
        latest = store.latest("pods", ("x", name))
        expected = latest.revision if latest is not None else 1
        if act == "update":
            await store.update("pods", _object(name), expected=expected)
        else:
            await store.delete("pods", _object(name), expected=expected)
    except (protocol.Exists, protocol.Missing, protocol.Conflict):
        return
