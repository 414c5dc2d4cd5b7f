"""What only the store of one process has: staged writes, a log without leases, a disk that refuses."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from netplane.controlplane.store import embedded, history, protocol, sqlite, writer
from netplane.lib import clock
from tests.support.stores import LEASES, PODS, index, pod
from tests.support.stores import sqlite as opened


async def test_an_update_from_an_old_revision_conflicts_also_with_a_staged_write(tmp_path: Path) -> None:
    async with opened(tmp_path / "db") as store:
        made = await store.create(PODS, pod("a"))
        writes = [store.update(PODS, pod("a", n=n), expected=made.revision) for n in range(2)]
        done = await asyncio.gather(*writes, return_exceptions=True)
        assert sorted(type(each).__name__ for each in done) == ["Conflict", "Record"]


async def test_what_is_staged_is_where_the_next_write_starts(tmp_path: Path) -> None:
    async with opened(tmp_path / "db") as store:
        first = asyncio.ensure_future(store.create(PODS, pod("a")))
        await asyncio.sleep(0)
        staged = store.latest(PODS, ("default", "a"))
        assert staged is not None
        await store.update(PODS, pod("a", n=1), expected=staged.revision)
        await first


async def test_a_revision_used_by_a_lease_is_not_given_again_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path / "db") as store:
        made = await store.create(LEASES, pod("node"))
        last = await store.delete(LEASES, pod("node"), expected=made.revision)
    async with opened(tmp_path / "db") as store:
        assert (await store.create(PODS, pod("a"))).revision > last.revision


async def test_leases_leave_no_trace_in_the_log(tmp_path: Path) -> None:
    async with opened(tmp_path / "db") as store:
        made = await store.create(LEASES, pod("node"))
        await store.update(LEASES, pod("node", n=1), expected=made.revision)
    db = sqlite3.connect(tmp_path / "db")
    with contextlib.closing(db):
        assert db.execute("SELECT count(*) FROM log").fetchone() == (0,)


async def test_watchers_of_leases_list_anew_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path / "db") as store:
        made = await store.create(LEASES, pod("node"))
        await store.update(LEASES, pod("node", n=1), expected=made.revision)
    async with opened(tmp_path / "db") as store:
        with pytest.raises(history.Expired):
            store.cache(LEASES).window.position(made.revision)


async def test_a_refused_batch_leaves_nothing_behind_and_the_next_write_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "db") as store:
        whole = sqlite.Database.write

        def full(self: sqlite.Database, rows: Any) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(sqlite.Database, "write", full)
        with pytest.raises(protocol.Unavailable, match="disk is full"):
            await store.create(PODS, pod("a"))
        monkeypatch.setattr(sqlite.Database, "write", whole)
        assert store.latest(PODS, ("default", "a")) is None
        await store.create(PODS, pod("a"))


async def test_writes_that_build_on_a_refused_one_are_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "db") as store:
        whole = sqlite.Database.write
        failures = iter([True])
        both_staged = threading.Event()

        def once_full(self: sqlite.Database, rows: Any) -> None:
            if next(failures, False):
                both_staged.wait(10)
                raise sqlite3.OperationalError("database or disk is full")
            whole(self, rows)

        monkeypatch.setattr(sqlite.Database, "write", once_full)
        first = asyncio.ensure_future(store.create(PODS, pod("a")))
        await asyncio.sleep(0)
        staged = store.latest(PODS, ("default", "a"))
        assert staged is not None
        second = asyncio.ensure_future(store.update(PODS, pod("a", n=1), expected=staged.revision))
        await asyncio.sleep(0)
        both_staged.set()
        done = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(each).__name__ for each in done] == ["Unavailable", "Unavailable"]
    async with opened(tmp_path / "db") as store:
        assert not store.cache(PODS).records


async def test_a_damaged_file_is_told_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "db"
    async with opened(path) as store:
        await store.create(PODS, pod("a"))
    damaged = bytearray(path.read_bytes())
    damaged[100:4096] = b"\xff" * 3996
    path.write_bytes(damaged)
    with pytest.raises(sqlite.Broken, match="db"):
        await embedded.Embedded(path, index).start()
    assert path.read_bytes() == damaged


def row(name: str, revision: int, op: int) -> sqlite.Row:
    return sqlite.Row(PODS, ("default", name), revision, op, b"{}")


def test_one_batch_may_delete_and_make_the_same_object(tmp_path: Path) -> None:
    database = sqlite.Database(tmp_path / "db")
    database.write([row("a", 2, sqlite.CREATE), row("a", 3, sqlite.DELETE), row("a", 4, sqlite.CREATE)])
    assert [(r.key[1], r.revision) for r in database.load().current] == [("a", 4)]
    database.write([row("a", 5, sqlite.UPDATE), row("a", 6, sqlite.DELETE)])
    assert not database.load().current
    database.close()


def test_compaction_takes_the_oldest_events_and_remembers_how_far_it_went(tmp_path: Path) -> None:
    database = sqlite.Database(tmp_path / "db")
    database.write([row(f"p{n}", n, sqlite.CREATE) for n in range(1, 11)])
    assert database.compact(below=8, limit=5) == 5
    assert database.compact(below=8, limit=5) == 2
    loaded = database.load()
    assert [r.revision for r in loaded.log] == [8, 9, 10]
    assert (loaded.floor, loaded.revision) == (7, 10)
    database.close()


def test_a_backup_holds_what_the_file_held(tmp_path: Path) -> None:
    database = sqlite.Database(tmp_path / "db")
    database.write([row("a", 1, sqlite.CREATE)])
    sqlite.backup(tmp_path / "db", tmp_path / "copy")
    database.close()
    copy = sqlite.Database(tmp_path / "copy")
    assert [r.key for r in copy.load().current] == [("default", "a")]
    copy.close()


async def test_objects_with_a_time_to_live_go_when_they_have_not_changed_for_so_long(tmp_path: Path) -> None:
    fake = clock.Fake()
    store = embedded.Embedded(tmp_path / "db", index, ttls={"events": 3600}, clock=fake)
    await store.start()
    old, changed = await store.create("events", pod("old")), await store.create("events", pod("changed"))
    await store.create(PODS, pod("a"))
    await store.sweep()
    await fake.advance(1800)
    await store.update("events", pod("changed"), expected=changed.revision)
    await store.sweep()
    assert old.key in store.cache("events").records
    await fake.advance(1801)
    await store.sweep()
    assert list(store.cache("events").records) == [changed.key]
    assert store.cache(PODS).records
    await store.stop()


async def test_a_file_of_the_first_format_is_taken_over_with_all_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "db"
    async with opened(path) as store:
        made = await store.create(PODS, pod("a"))
    with contextlib.closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT storage, namespace, name, revision, value FROM current").fetchall()
        columns = "storage TEXT, namespace TEXT, name TEXT, revision INTEGER, value BLOB"
        db.execute("DROP TABLE current")
        db.execute(f"CREATE TABLE current({columns}, PRIMARY KEY(storage, namespace, name)) WITHOUT ROWID")
        db.executemany("INSERT INTO current VALUES(?,?,?,?,?)", rows)
        db.execute("UPDATE meta SET value = 1 WHERE key = 'format'")
        db.commit()
    async with opened(path) as store:
        assert store.cache(PODS).records == {made.key: made}
        await store.update(PODS, pod("a", n=1), expected=made.revision)


async def test_a_file_of_the_second_format_is_taken_over_with_its_history(tmp_path: Path) -> None:
    path = tmp_path / "db"
    async with opened(path) as store:
        made = await store.create(PODS, pod("a"))
        changed = await store.update(PODS, pod("a", n=1), expected=made.revision)
    with contextlib.closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT revision, storage, namespace, name, op, value FROM log").fetchall()
        columns = "revision INTEGER PRIMARY KEY, storage TEXT, namespace TEXT, name TEXT, op INTEGER"
        db.execute("DROP TABLE log")
        db.execute(f"CREATE TABLE log({columns}, value BLOB NOT NULL)")
        db.executemany("INSERT INTO log VALUES(?,?,?,?,?,?)", rows)
        db.execute("UPDATE meta SET value = 2 WHERE key = 'format'")
        db.commit()
    async with opened(path) as store:
        assert told(store) == [made.value, changed.value]
        last = await store.create(PODS, pod("b"))  # its row has no value, which that table did not allow
    async with opened(path) as store:
        assert told(store) == [made.value, changed.value, last.value]


async def test_every_state_is_told_again_after_a_restart_whatever_followed_it_and_whenever(tmp_path: Path) -> None:
    said: list[bytes] = []
    record = None
    for step in ("create", "update", "update", "delete", "create", "delete", "create"):
        async with opened(tmp_path / "db") as store:
            assert told(store) == said
            for name in ("a", step):  # one object that lives on, and one that is made and goes in this batch
                other = await store.create(PODS, pod(name)) if name != "a" else None
                if other is not None:
                    gone = await store.delete(PODS, pod(name, n=9), expected=other.revision)
                    said += [other.value, gone.value]
                elif record is None or step == "create":
                    record = await store.create(PODS, pod("a"))
                    said.append(record.value)
                else:
                    change = store.update if step == "update" else store.delete
                    record = await change(PODS, pod("a", n=len(said)), expected=record.revision)
                    said.append(record.value)
    async with opened(tmp_path / "db") as store:
        assert told(store) == said


def told(store: embedded.Embedded) -> list[bytes]:
    """What a watcher of all pods would be told from the beginning on."""
    window = store.cache(PODS).window
    return [event.last.value for event in window.since(window.position(window.floor), limit=100)]


def test_a_file_whose_history_lost_a_value_is_reported(tmp_path: Path) -> None:
    database = sqlite.Database(tmp_path / "db")
    database.write([row("a", 1, sqlite.CREATE)])
    with contextlib.closing(sqlite3.connect(tmp_path / "db")) as db:
        db.execute("DELETE FROM current")
        db.commit()
    with pytest.raises(sqlite.Broken, match="revision 1 is empty"):
        database.load()
    database.close()


def test_a_file_of_a_later_format_is_refused_by_number(tmp_path: Path) -> None:
    sqlite.Database(tmp_path / "db").close()
    with contextlib.closing(sqlite3.connect(tmp_path / "db")) as db:
        db.execute("UPDATE meta SET value = 9 WHERE key = 'format'")
        db.commit()
    with pytest.raises(sqlite.Broken, match="written in format 9"):
        sqlite.Database(tmp_path / "db")


def _rows(first: int, count: int) -> list[sqlite.Row]:
    return [
        sqlite.Row(PODS, ("default", f"pod-{n}"), n, sqlite.CREATE, bytes(3000)) for n in range(first, first + count)
    ]


def test_a_wal_that_was_folded_between_two_writes_begins_anew(tmp_path: Path) -> None:
    database = sqlite.Database(tmp_path / "db")
    database.write(_rows(1, 60))
    assert sqlite.checkpoint(tmp_path / "db") > 60
    wal = tmp_path / "db-wal"
    for turn in range(1, 20):
        # A write after the checkpoint, as there is always one under load, keeps the WAL from beginning anew.
        database.write(_rows(turn * 60 + 1, 59))
        database.fold()
        database.write(_rows(turn * 60 + 60, 1))
        assert wal.stat().st_size < 3 << 20
    assert len(database.load().current) == 20 * 60
    database.close()


async def test_a_long_wal_is_folded_while_writes_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folded = threading.Event()
    monkeypatch.setattr(writer, "_LONG_WAL", 4)
    monkeypatch.setattr(writer, "_CHECKPOINT_EVERY", 0.01)
    monkeypatch.setattr(sqlite.Database, "fold", lambda self: folded.set())
    async with opened(tmp_path / "db") as store, asyncio.timeout(60):
        number = 0
        while not folded.is_set():
            number += 1
            await store.create(PODS, pod(f"pod-{number}"))
            await asyncio.sleep(0.001)
