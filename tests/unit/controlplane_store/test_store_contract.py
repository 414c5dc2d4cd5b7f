"""What every store promises, whichever body it has: compare-and-swap, order, history, restarts."""

from __future__ import annotations

import asyncio

import pytest

from netplane.controlplane.store import history, protocol
from tests.support.stores import PODS, Open, pod

KEY = ("default", "a")


async def test_a_write_is_seen_by_readers_once_it_returned(opened: Open) -> None:
    async with opened() as store:
        made = await store.create(PODS, pod("a"))
        assert store.cache(PODS).records[KEY] == made
        assert b'"resourceVersion":"%d"' % made.revision in made.value


async def test_a_writer_finds_the_revision_in_its_object(opened: Open) -> None:
    async with opened() as store:
        obj = pod("a")
        made = await store.create(PODS, obj)
        assert obj["metadata"]["resourceVersion"] == str(made.revision)


async def test_the_store_stands_at_the_last_write_at_least(opened: Open) -> None:
    async with opened() as store:
        made = await store.create(PODS, pod("a"))
        await store.fresh()
        assert store.revision >= made.revision


async def test_a_name_is_given_once(opened: Open) -> None:
    async with opened() as store:
        await store.create(PODS, pod("a"))
        with pytest.raises(protocol.Exists):
            await store.create(PODS, pod("a"))


async def test_a_name_is_free_again_after_its_deletion(opened: Open) -> None:
    async with opened() as store:
        made = await store.create(PODS, pod("a"))
        await store.delete(PODS, pod("a"), expected=made.revision)
        assert store.latest(PODS, KEY) is None
        assert (await store.create(PODS, pod("a"))).revision > made.revision


async def test_of_two_creates_at_once_one_wins(opened: Open) -> None:
    async with opened() as store:
        done = await asyncio.gather(*(store.create(PODS, pod("a")) for _ in range(2)), return_exceptions=True)
        assert sorted(type(each).__name__ for each in done) == ["Exists", "Record"]


async def test_of_updates_from_one_revision_one_wins(opened: Open) -> None:
    async with opened() as store:
        made = await store.create(PODS, pod("a"))
        writes = [store.update(PODS, pod("a", n=n), expected=made.revision) for n in range(4)]
        done = await asyncio.gather(*writes, return_exceptions=True)
        assert sorted(type(each).__name__ for each in done) == ["Conflict"] * 3 + ["Record"]


async def test_who_met_a_conflict_finds_the_newer_object(opened: Open) -> None:
    async with opened() as store:
        made = await store.create(PODS, pod("a"))
        newer = await store.update(PODS, pod("a", n=1), expected=made.revision)
        with pytest.raises(protocol.Conflict):
            await store.update(PODS, pod("a", n=2), expected=made.revision)
        latest = store.latest(PODS, KEY)
        assert latest is not None
        assert latest.revision == newer.revision


async def test_what_is_not_there_can_be_neither_updated_nor_deleted(opened: Open) -> None:
    async with opened() as store:
        for write in (store.update, store.delete):
            with pytest.raises(protocol.Missing):
                await write(PODS, pod("a"), expected=1)


async def test_an_old_revision_deletes_nothing(opened: Open) -> None:
    async with opened() as store:
        made = await store.create(PODS, pod("a"))
        await store.update(PODS, pod("a", n=1), expected=made.revision)
        with pytest.raises(protocol.Conflict):
            await store.delete(PODS, pod("a"), expected=made.revision)
        assert KEY in store.cache(PODS).records


async def test_types_do_not_share_names_but_revisions(opened: Open) -> None:
    async with opened() as store:
        one, other = await store.create(PODS, pod("a")), await store.create("podtemplates", pod("a"))
        assert other.revision > one.revision
        assert store.cache(PODS).records[KEY] == one


async def test_events_come_in_the_order_of_revisions(opened: Open) -> None:
    async with opened() as store:
        await asyncio.gather(*(store.create(PODS, pod(f"p{n}")) for n in range(50)))
        revisions = [event.revision for event in store.cache(PODS).window.since(0, limit=100)]
        assert revisions == sorted(set(revisions))
        assert len(revisions) == 50


async def test_an_event_knows_what_was_before_and_a_deletion_bears_its_own_revision(opened: Open) -> None:
    async with opened() as store:
        made = await store.create(PODS, pod("a"))
        changed = await store.update(PODS, pod("a", n=1), expected=made.revision)
        gone = await store.delete(PODS, pod("a", n=1), expected=changed.revision)
        events = store.cache(PODS).window.since(0, limit=9)
        assert [(e.old and e.old.revision, e.new and e.new.revision) for e in events] == [
            (None, made.revision),
            (made.revision, changed.revision),
            (changed.revision, None),
        ]
        assert b'"resourceVersion":"%d"' % gone.revision in events[-1].last.value


async def test_a_watcher_is_woken_by_a_write(opened: Open) -> None:
    async with opened() as store:
        news = store.feed(PODS).wait()
        await store.create(PODS, pod("a"))
        async with asyncio.timeout(20):
            await news


async def test_the_past_can_be_listed(opened: Open) -> None:
    async with opened() as store:
        first = await store.create(PODS, pod("a"))
        second = await store.create(PODS, pod("b"))
        await store.delete(PODS, pod("a"), expected=first.revision)
        past = store.cache(PODS).snapshot(revision=second.revision)
        assert [record.key[1] for record in past] == ["a", "b"]


async def test_objects_and_history_survive_a_restart_and_revisions_go_on(opened: Open) -> None:
    async with opened() as store:
        made = await store.create(PODS, pod("a"))
        gone = await store.create(PODS, pod("b"))
        last = await store.delete(PODS, pod("b"), expected=gone.revision)
    async with opened() as store:
        assert list(store.cache(PODS).records) == [KEY]
        window = store.cache(PODS).window
        events = window.since(window.position(made.revision), limit=9)
        assert [event.revision for event in events] == [gone.revision, last.revision]
        assert (await store.create(PODS, pod("c"))).revision > last.revision


async def test_what_a_client_wrote_and_left_is_kept(opened: Open) -> None:
    async with opened() as store:
        writing = asyncio.ensure_future(store.create(PODS, pod("a")))
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await store.create(PODS, pod("b"))
        with pytest.raises(protocol.Exists):
            await store.create(PODS, pod("a"))


async def test_text_that_looks_like_a_revision_stays_as_it_is(opened: Open) -> None:
    async with opened() as store:
        metadata = {"name": "a", "namespace": "default", "annotations": {"x": '"resourceVersion":"9"'}}
        obj = {"apiVersion": "v1", "kind": "Pod", "spec": {"resourceVersion": "7"}, "metadata": metadata}
        made = await store.create(PODS, obj)
        assert b'{"resourceVersion":"7"}' in made.value
        assert b'\\"resourceVersion\\":\\"9\\"' in made.value
        assert b'"resourceVersion":"%d"' % made.revision in made.value


async def test_a_revision_that_is_long_gone_has_expired(opened: Open) -> None:
    async with opened() as store:
        made = await store.create(PODS, pod("a"))
        for number in range(3):
            made = await store.update(PODS, pod("a", n=number), expected=made.revision)
        store.cache(PODS).window.restart(made.revision)
        with pytest.raises(history.Expired):
            store.cache(PODS).window.position(made.revision - 1)


async def test_nothing_is_on_its_way_when_all_was_answered(opened: Open) -> None:
    async with opened() as store:
        await asyncio.gather(*(store.create(PODS, pod(f"p{n}")) for n in range(5)))
        assert (store.backlog, store.problem, list(store.staged(PODS))) == (0, "", [])
        assert store.storages() == [PODS]
