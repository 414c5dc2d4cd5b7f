"""Commit writes from one thread, all that wait in one transaction. Who may write is embedded's to say."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from netplane.controlplane.store import sqlite

_LINGER = 0.0005
_CHECKPOINT_EVERY = 0.5
_SLICE = 200

Committed = Callable[[Sequence[sqlite.Row], Exception | None], None]


class Writer:
    """The thread that owns the database.

    Rows are committed in the order given, as many as wait at once (group commit); `committed` is called in the
    loop for each batch, in order, with the error when the disk refused it. Compaction happens in slices between
    the batches, checkpoints in a second thread, so that neither blocks a write for long.
    """

    def __init__(
        self, path: Path, database: sqlite.Database, loop: asyncio.AbstractEventLoop, committed: Committed
    ) -> None:
        self._path = path
        self._db = database
        self._loop = loop
        self._committed = committed
        self._pending: list[sqlite.Row] = []
        self._wake = threading.Condition()
        self._stopped = False
        self._failed = False
        self._compact_below = 0
        self._stop_checkpoints = threading.Event()
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
        with self._wake:
            self._pending += rows
            self._wake.notify()

    def resume(self) -> None:
        """Forget what is queued and write again, after the owner has refused everything it had staged.

        From a failed batch on nothing is written: later rows may build on the rows that were lost.
        """
        with self._wake:
            self._pending.clear()
            self._failed = False

    def compact(self, *, below: int) -> None:
        """Let the log's rows under a revision go, a slice at a time."""
        with self._wake:
            self._compact_below = max(self._compact_below, below)
            self._wake.notify()

    def stop(self) -> None:
        """Commit what waits, stop the threads and close the file. Blocks for as long as the disk takes."""
        with self._wake:
            self._stopped = True
            self._wake.notify()
        self._stop_checkpoints.set()
        for thread in self._threads:
            thread.join()
        self._db.close()

    def _write_for_ever(self) -> None:
        last = 1
        while True:
            if last > 1:
                # Under load a short wait makes fewer, larger commits; a lone writer never waits.
                self._stop_checkpoints.wait(_LINGER)
            with self._wake:
                self._wake.wait_for(self._has_work)
                batch, self._pending = ([] if self._failed else self._pending), []
                below = self._compact_below
                if not batch and self._stopped:
                    return
            last = len(batch)
            if batch:
                self._commit(batch)
            if below:
                self._compact_slice(below)

    def _has_work(self) -> bool:
        return bool(self._stopped or self._compact_below or (self._pending and not self._failed))

    def _commit(self, batch: Sequence[sqlite.Row]) -> None:
        failure: Exception | None = None
        try:
            self._db.write(batch)
        except sqlite3.Error as error:
            failure = error
            with self._wake:
                self._failed = True
        try:
            self._loop.call_soon_threadsafe(self._committed, batch, failure)
        except RuntimeError:
            pass  # the loop is closed: the server has stopped, nobody waits for this answer

    def _compact_slice(self, below: int) -> None:
        try:
            done = self._db.compact(below=below, limit=_SLICE) < _SLICE
        except sqlite3.Error:
            done = True  # the next compaction tries again; a full disk shows at the next write
        if done:
            with self._wake:
                if self._compact_below == below:
                    self._compact_below = 0

    def _checkpoint_for_ever(self) -> None:
        while not self._stop_checkpoints.wait(_CHECKPOINT_EVERY):
            try:
                sqlite.checkpoint(self._path)
            except sqlite3.Error:
                continue  # busy: the WAL grows a little and the next turn folds it
