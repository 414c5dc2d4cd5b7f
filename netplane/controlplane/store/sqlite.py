"""Keep records and a bounded event log in one SQLite file. Which write may happen is embedded's to say.

WAL with synchronous=FULL: a committed batch survives kill -9 and power loss. The current objects have their own
table, the log holds the last changes so that watchers resume after a restart. Leases stay out of the log.

What an object was created as is in the file once: its row in the log has no value while the object is as created, and
is given it by the change that follows. So a creation and the log's compaction write little more than the object.
"""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from netplane.kube.types import Key

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS current(
  storage TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, revision INTEGER NOT NULL, value BLOB NOT NULL,
  PRIMARY KEY(storage, namespace, name));
CREATE TABLE IF NOT EXISTS log(
  revision INTEGER PRIMARY KEY, storage TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
  op INTEGER NOT NULL, value BLOB);
"""
_FORMAT = 3
_FROM_1 = """
BEGIN IMMEDIATE;
ALTER TABLE current RENAME TO former;
CREATE TABLE current(
  storage TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, revision INTEGER NOT NULL, value BLOB NOT NULL,
  PRIMARY KEY(storage, namespace, name));
INSERT INTO current SELECT storage, namespace, name, revision, value FROM former;
DROP TABLE former;
UPDATE meta SET value = 2 WHERE key = 'format';
COMMIT;
"""
"""Format 1 kept the values inside the key's tree (WITHOUT ROWID), which costs half as much again for each write."""
_FROM_2 = """
BEGIN IMMEDIATE;
ALTER TABLE log RENAME TO former;
CREATE TABLE log(
  revision INTEGER PRIMARY KEY, storage TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
  op INTEGER NOT NULL, value BLOB);
INSERT INTO log SELECT revision, storage, namespace, name, op, value FROM former;
DROP TABLE former;
UPDATE meta SET value = 3 WHERE key = 'format';
COMMIT;
"""
"""Format 2 had each value in both tables."""
_STEPS = {1: _FROM_1, 2: _FROM_2}
CREATE, UPDATE, DELETE = 0, 1, 2
_TAKE = """
CREATE TEMP VIEW batch AS SELECT
  0 AS revision, '' AS storage, '' AS namespace, '' AS name, 0 AS op, x'' AS value, 0 AS logged, 0 AS newest;
CREATE TEMP TRIGGER take INSTEAD OF INSERT ON batch BEGIN
  UPDATE log SET value =
    (SELECT value FROM current WHERE storage=new.storage AND namespace=new.namespace AND name=new.name)
    WHERE value IS NULL AND revision = (SELECT revision FROM current
      WHERE storage=new.storage AND namespace=new.namespace AND name=new.name AND revision < new.revision);
  INSERT INTO current SELECT new.storage, new.namespace, new.name, new.revision, new.value WHERE new.op <> 2
    ON CONFLICT(storage, namespace, name) DO UPDATE
    SET revision=excluded.revision, value=excluded.value WHERE excluded.revision > revision;
  DELETE FROM current WHERE new.op = 2 AND storage=new.storage AND namespace=new.namespace AND name=new.name
    AND revision < new.revision;
  INSERT INTO log SELECT new.revision, new.storage, new.namespace, new.name, new.op,
    CASE WHEN new.op <> 0 THEN new.value END WHERE new.logged;
  INSERT INTO meta SELECT 'revision', new.newest WHERE new.newest > 0
    ON CONFLICT(key) DO UPDATE SET value=max(value, excluded.value);
END;
"""
"""What becomes of a row lives in SQLite, so that a batch is one statement and a transaction of its own: each statement
gives the interpreter away several times, and waits each time until it has it back. Rows come in the order of their
revisions, so an object may change several times in one batch. The newest revision is the log's last row's, but where
that change is not logged."""
_HISTORY = """
SELECT log.revision, log.storage, log.namespace, log.name, log.op, coalesce(log.value, current.value)
FROM log LEFT JOIN current ON log.value IS NULL AND current.storage = log.storage
  AND current.namespace = log.namespace AND current.name = log.name AND current.revision = log.revision
ORDER BY log.revision
"""
_AT_ONCE = 64
_NOTHING = (None,) * 8


def _take(count: int) -> str:
    rows = ",".join(["(?,?,?,?,?,?,?,?)"] * count)
    return f"INSERT INTO batch SELECT * FROM (VALUES{rows}) WHERE column1 IS NOT NULL"


_TAKES = {count: _take(count) for count in (1, 2, 4, 8, 16, 32, _AT_ONCE)}
"""The statements by how many rows they have; a batch between is filled up with nothing, so that few are prepared."""


class Broken(Exception):
    """The file cannot be used: the message says why and what to do. It is never replaced silently."""


class Row(NamedTuple):
    """One write of one object; `value` of a deletion is the final state."""

    storage: str
    key: Key
    revision: int
    op: int
    value: bytes
    logged: bool = True


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the file holds. `floor` is the highest revision before the log's first row."""

    revision: int
    floor: int
    current: Sequence[Row]
    log: Sequence[Row]


class Database:
    """The file, opened for one writer. Used from one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64)
            mode = self._db.execute("PRAGMA journal_mode=WAL").fetchone()[0]
            self._db.executescript(
                "PRAGMA synchronous=FULL; PRAGMA cache_size=-16000; PRAGMA wal_autocheckpoint=0; " + _SCHEMA
            )
            self._db.execute("INSERT OR IGNORE INTO meta VALUES('format', ?)", (_FORMAT,))
            self._check_format(str(mode))
            self._db.executescript(_TAKE)
        except sqlite3.Error as error:
            raise Broken(f"{path}: {error}") from error

    def _check_format(self, mode: str) -> None:
        if mode != "wal":
            raise Broken(f"{self._path}: this file system has no shared memory for SQLite's WAL (journal mode {mode})")
        while (found := self._meta("format")) in _STEPS:
            self._db.executescript(_STEPS[found])
        if found != _FORMAT:
            raise Broken(f"{self._path}: written in format {found}, this version reads format {_FORMAT}")

    def _meta(self, key: str) -> int:
        row = self._db.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
        return int(row[0]) if row else 0

    def load(self) -> Loaded:
        """Read everything; raise Broken when the file is damaged."""
        try:
            verdict = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise Broken(f"{self._path}: damaged ({verdict}); restore a backup, it is left as it is")
            current = [
                Row(sys.intern(storage), (sys.intern(namespace), name), revision, UPDATE, value)
                for storage, namespace, name, revision, value in self._db.execute(
                    "SELECT storage, namespace, name, revision, value FROM current"
                )
            ]
            log = [
                Row(sys.intern(storage), (sys.intern(namespace), name), revision, op, value)
                for revision, storage, namespace, name, op, value in self._db.execute(_HISTORY)
            ]
            if lost := [row.revision for row in log if row.value is None]:
                raise Broken(
                    f"{self._path}: damaged (revision {lost[0]} is empty); restore a backup, it is left as it is"
                )
            revision = max(self._meta("revision"), log[-1].revision if log else 0)
            return Loaded(revision, self._meta("compacted"), current, log)
        except sqlite3.Error as error:
            raise Broken(f"{self._path}: {error}; restore a backup, it is left as it is") from error

    def write(self, rows: Sequence[Row]) -> None:
        """Commit the rows in one transaction; on an error nothing of them is kept."""
        if len(rows) <= _AT_ONCE:
            self._insert(rows)
            return
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for start in range(0, len(rows), _AT_ONCE):
                self._insert(rows[start : start + _AT_ONCE])
            self._db.execute("COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _insert(self, rows: Sequence[Row]) -> None:
        newest = max([row.revision for row in rows])
        values: list[object] = []
        for each in rows:
            told = newest if each.revision == newest and not each.logged else 0
            values += (each.revision, each.storage, *each.key, each.op, each.value, each.logged, told)
        count = 1 << (len(rows) - 1).bit_length()
        self._db.execute(_TAKES[count], values + list(_NOTHING) * (count - len(rows)))

    def fold(self) -> None:
        """Fold what a checkpoint beside has left of the WAL, so that the next write begins it anew.

        While writes go on, a checkpoint beside them never reaches the last one, and the WAL grows for as long.
        """
        self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def compact(self, *, below: int, limit: int = 200) -> int:
        """Delete up to `limit` log rows under a revision, oldest first; return how many went."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            rows = self._db.execute(
                "SELECT revision FROM log WHERE revision < ? ORDER BY revision LIMIT ?", (below, limit)
            ).fetchall()
            if rows:
                last = int(rows[-1][0])
                self._db.execute("DELETE FROM log WHERE revision <= ?", (last,))
                self._set("compacted", last)
            self._db.execute("COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        return len(rows)

    def set_revision(self, revision: int) -> None:
        """Go on at a later revision, with nothing to be known of what was before it."""
        self._db.execute("BEGIN IMMEDIATE")
        self._set("revision", revision)
        self._set("compacted", revision)
        self._db.execute("COMMIT")

    def _set(self, key: str, value: int) -> None:
        self._db.execute(
            "INSERT INTO meta VALUES(?,?) ON CONFLICT(key) DO UPDATE SET value=max(value, excluded.value)", (key, value)
        )

    def close(self) -> None:
        """Fold the log into the file and close it."""
        try:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            self._db.close()


def checkpoint(path: Path) -> int:
    """Fold what the WAL holds into the file without blocking the writer; return its pages. For a thread of its own."""
    db = sqlite3.connect(path, isolation_level=None, timeout=1.0)
    try:
        db.execute("PRAGMA synchronous=FULL")
        return int(db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1])
    finally:
        db.close()


def backup(source: Path, target: Path) -> None:
    """Copy the file as it stands at one moment, also while a server writes it; raise Broken for what is no store."""
    try:
        with contextlib.ExitStack() as opened:
            reader = opened.enter_context(contextlib.closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)))
            writer = opened.enter_context(contextlib.closing(sqlite3.connect(target)))
            # In one step: between steps a writer's commit would make SQLite begin anew, again and again.
            reader.backup(writer, pages=-1)
    except sqlite3.Error as error:
        raise Broken(f"{source}: {error}") from error


def begin_anew(path: Path, *, skip: int) -> None:
    """Make a copy the present: `skip` revisions are left out, and the history before is forgotten.

    What happened between the copy and today had revisions too, which clients still remember: none is given again,
    and whoever asks for one is told to list anew.
    """
    database = Database(path)
    try:
        loaded = database.load()
        database.set_revision(loaded.revision + skip)
        database.compact(below=loaded.revision + 1, limit=len(loaded.log) + 1)
    finally:
        database.close()


def bytes_of(rows: Iterable[Row]) -> int:
    """Return the bytes of the rows' values together."""
    return sum(len(row.value) for row in rows)
