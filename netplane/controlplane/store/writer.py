"""Commit writes from one thread, all that wait in one transaction. Who may write is embedded's to say."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from netplane.controlplane.store import sqlite

_LINGER = 0.0005
_SLOW = 0.002
"""Seconds that a commit takes from which on it pays to wait for more to commit: a disk of 5 ms does 1,122 writes a
second instead of 705, one of 0.1 ms a twentieth less than without (measured)."""
_CHECKPOINT_EVERY = 0.5
_SLICE = 200
_LONG_WAL = 4096
"""Pages (16 MB) from which on the WAL is begun anew: the disk would hold it for ever, and to write where was written
before costs less (100 to 125 µs a row of 2 KB instead of 120 to 200, measured)."""

Committed = Callable[[Sequence[sqlite.Row], Exception | None], None]


class Writer:
    """The thread that owns the database.

    Rows are committed in the order given, as many as wait at once (group commit); `committed` is called in the
    loop for each batch, in order, with the error when the disk refused it. Compaction happens in slices between
    the batches, checkpoints in a second thread, so that neither blocks a write for long; the little that is left of a
    long WAL then is folded between two batches, as it begins anew only when all of it is in the file.
    """

    def __init__(
        self, path: Path, database: sqlite.Database, loop: asyncio.AbstractEventLoop, committed: Committed
    ) -> None:
        self._path = path
        self._db = database
        self._loop = loop
        self._committed = committed
        self._posted: queue.SimpleQueue[tuple[int, Sequence[sqlite.Row]] | None] = queue.SimpleQueue()
        self._turn = 0
        self._failed_turn = -1
        self._compact_below = 0
        self._compacted_below = 0
        self._wal_is_long = False
        self._stop_checkpoints = threading.Event()
        self._never = threading.Lock()
        self._never.acquire()
        self._threads = [
            threading.Thread(target=self._write_for_ever, name="store-writer", daemon=True),
            threading.Thread(target=self._checkpoint_for_ever, name="store-checkpoint", daemon=True),
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def submit(self, rows: Sequence[sqlite.Row]) -> None:
        """Queue rows for the next commit."""
        self._posted.put((self._turn, rows))

    def resume(self) -> None:
        """Forget what is queued and write again, after the owner has refused everything it had staged.

        From a failed batch on nothing is written: later rows may build on the rows that were lost.
        """
        self._turn += 1

    def compact(self, *, below: int) -> None:
        """Let the log's rows under a revision go, a slice at a time."""
        self._compact_below = max(self._compact_below, below)
        self._posted.put((self._turn, ()))

    def stop(self) -> None:
        """Commit what waits, stop the threads and close the file. Blocks for as long as the disk takes."""
        self._posted.put(None)
        self._stop_checkpoints.set()
        for thread in self._threads:
            thread.join()
        self._db.close()

    def _write_for_ever(self) -> None:
        last, took, is_open = 1, 0.0, True
        while is_open:
            if last > 1 and took > _SLOW:
                # Under load a short wait makes fewer, larger commits; a lone writer never waits.
                self._never.acquire(timeout=_LINGER)
            batch, is_open = self._gathered(waits=self._compact_below <= self._compacted_below)
            last, began = len(batch), time.monotonic()
            if batch:
                self._commit(batch)
                took = time.monotonic() - began
            if self._wal_is_long:
                self._wal_is_long = False
                self._fold()
            if self._compact_below > self._compacted_below:
                self._compact_slice(self._compact_below)

    def _gathered(self, *, waits: bool) -> tuple[list[sqlite.Row], bool]:
        """Return what was posted, after waiting for something, and whether more may come."""
        batch: list[sqlite.Row] = []
        while True:
            try:
                posted = self._posted.get(block=waits)
            except queue.Empty:
                return batch, True
            if posted is None:
                return batch, False
            turn, rows = posted
            if turn > self._failed_turn:
                batch += rows
            waits = False

    def _commit(self, batch: Sequence[sqlite.Row]) -> None:
        failure: Exception | None = None
        try:
            self._db.write(batch)
        except sqlite3.Error as error:
            failure = error
            self._failed_turn = self._turn
        try:
            self._loop.call_soon_threadsafe(self._committed, batch, failure)
        except RuntimeError:
            pass  # the loop is closed: the server has stopped, nobody waits for this answer

    def _fold(self) -> None:
        try:
            self._db.fold()
        except sqlite3.Error:
            pass  # busy: the WAL grows until the next checkpoint asks again

    def _compact_slice(self, below: int) -> None:
        try:
            done = self._db.compact(below=below, limit=_SLICE) < _SLICE
        except sqlite3.Error:
            done = True  # the next compaction tries again; a full disk shows at the next write
        if done:
            self._compacted_below = below

    def _checkpoint_for_ever(self) -> None:
        while not self._stop_checkpoints.wait(_CHECKPOINT_EVERY):
            try:
                pages = sqlite.checkpoint(self._path)
            except sqlite3.Error:
                continue  # busy: the WAL grows a little and the next turn folds it
            if pages > _LONG_WAL:
                self._wal_is_long = True
                self._posted.put((self._turn, ()))
