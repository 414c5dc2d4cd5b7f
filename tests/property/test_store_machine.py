"""Whatever clients do, on either store: a watcher never misses, repeats or reorders an event, and lists tell the truth.

The model is the list of changes that were acknowledged. etcd is spoken with by two servers at once: writes go to one
or the other, and so do the watchers.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from netplane.controlplane.store import history, protocol
from netplane.kube.types import Key
from tests.support import etcds, stores
from tests.support.stores import PODS

KEYS = st.tuples(st.sampled_from(["x", "y"]), st.sampled_from(["a", "b", "c"]))
SERVERS = st.integers(0, 1)

State = dict[Key, int]


@dataclass
class Watcher:
    """What one client has been told since a revision."""

    server: int
    since: int
    position: int
    told: list[tuple[int, Key, bool]] = field(default_factory=list)


class Machine(RuleBasedStateMachine):
    """Writes, lists, watches and restarts; `make` opens a store, `servers` says how many share it."""

    servers = 1

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.live: list[contextlib.AsyncExitStack] = []
        self.stores: list[protocol.Store] = []
        self.log: list[tuple[int, Key, bool]] = []
        self.states: list[tuple[int, State]] = []
        self.watchers: list[Watcher] = []

    @initialize()
    def open(self) -> None:
        self.directory = tempfile.mkdtemp()
        self.prefix = uuid.uuid4().hex
        for number in range(self.servers):
            self.live.append(contextlib.AsyncExitStack())
            self.stores.append(self.runner.run(self._open(number)))
        self.begin = max(store.revision for store in self.stores)
        self.states.append((self.begin, {}))

    async def _open(self, number: int) -> protocol.Store:
        where = self.prefix if self.servers > 1 else str(Path(self.directory) / "db")
        return await self.live[number].enter_async_context(self.make(where))

    def make(self, where: str) -> contextlib.AbstractAsyncContextManager[protocol.Store]:
        raise NotImplementedError

    def teardown(self) -> None:
        for stack in self.live:
            self.runner.run(stack.aclose())
        self.runner.close()

    def at(self, server: int) -> protocol.Store:
        return self.stores[server % self.servers]

    @property
    def now(self) -> State:
        return self.states[-1][1]

    def note(self, revision: int, key: Key, *, is_gone: bool) -> None:
        assert revision > self.states[-1][0]
        state = dict(self.now)
        if is_gone:
            del state[key]
        else:
            state[key] = revision
        self.log.append((revision, key, is_gone))
        self.states.append((revision, state))

    @rule(server=SERVERS, key=KEYS)
    def create(self, server: int, key: Key) -> None:
        write = self.at(server).create(PODS, self.obj(key))
        if key in self.now:
            with pytest.raises(protocol.Exists):
                self.runner.run(write)
        else:
            self.note(self.runner.run(write).revision, key, is_gone=False)

    @rule(server=SERVERS, key=KEYS, back=st.integers(0, 2), deletes=st.booleans())
    def compare_and_swap(self, server: int, key: Key, back: int, deletes: bool) -> None:
        store = self.at(server)
        expected = self.now.get(key, 1) - back
        act = store.delete if deletes else store.update
        write = act(PODS, self.obj(key), expected=expected)
        if key not in self.now:
            with pytest.raises(protocol.Missing):
                self.runner.run(write)
        elif back:
            with pytest.raises(protocol.Conflict):
                self.runner.run(write)
        else:
            self.note(self.runner.run(write).revision, key, is_gone=deletes)

    @rule(key=KEYS, count=st.integers(2, 4))
    def race(self, key: Key, count: int) -> None:
        """Several servers write one object at once, from the same revision: one of them wins."""
        expected = self.now.get(key)

        async def one(number: int) -> history.Record:
            store = self.at(number)
            if expected is None:
                return await store.create(PODS, self.obj(key))
            return await store.update(PODS, self.obj(key), expected=expected)

        async def all_at_once() -> list[history.Record | BaseException]:
            return await asyncio.gather(*(one(number) for number in range(count)), return_exceptions=True)

        done = self.runner.run(all_at_once())
        (won,) = (each for each in done if isinstance(each, history.Record))
        assert all(isinstance(each, (history.Record, protocol.Exists, protocol.Conflict)) for each in done)
        self.note(won.revision, key, is_gone=False)

    @precondition(lambda self: self.states)
    @rule(server=SERVERS, data=st.data())
    def watch(self, server: int, data: st.DataObject) -> None:
        """Begin to watch at some revision of the past."""
        store = self.at(server)
        self.runner.run(store.fresh())
        revision, _ = data.draw(st.sampled_from(self.states))
        window = store.cache(PODS).window
        self.watchers.append(Watcher(server % self.servers, revision, window.position(revision)))

    @precondition(lambda self: self.states)
    @rule(server=SERVERS, data=st.data(), limit=st.integers(1, 4))
    def list_in_pages(self, server: int, data: st.DataObject, limit: int) -> None:
        """A list at a revision is what there was then, in pages too, whichever server is asked for each page."""
        revision, state = data.draw(st.sampled_from(self.states))
        found: list[tuple[Key, int]] = []
        after: Key | None = None
        while True:
            store = self.at(server)
            server += 1
            self.runner.run(store.fresh())
            try:
                rows = store.cache(PODS).snapshot(revision=revision, after=after)
            except history.Expired:
                assert store.cache(PODS).window.snapshot_floor > revision, "the past went before its time"
                return
            found += [(record.key, record.revision) for record in rows[:limit]]
            if len(rows) <= limit:
                break
            after = history.decode_continue(history.Continue(revision, rows[limit - 1].key).encode()).after
        assert found == sorted(state.items())

    @rule(server=SERVERS)
    def list_now(self, server: int) -> None:
        store = self.at(server)
        self.runner.run(store.fresh())
        assert {record.key: record.revision for record in store.cache(PODS).range()} == self.now
        for record in store.cache(PODS).range():
            assert b'"resourceVersion":"%d"' % record.revision in record.value

    @rule(server=SERVERS)
    def restart(self, server: int) -> None:
        """Close a server and open it again: its watchers go on where they were."""
        number = server % self.servers
        self.read_on()
        self.runner.run(self.live[number].aclose())
        self.live[number] = contextlib.AsyncExitStack()
        self.stores[number] = self.runner.run(self._open(number))
        window = self.stores[number].cache(PODS).window
        for watcher in self.watchers:
            if watcher.server == number:
                watcher.position = window.position(watcher.told[-1][0] if watcher.told else watcher.since)

    def read_on(self) -> None:
        for number in range(self.servers):
            self.runner.run(self.stores[number].fresh())
        for watcher in self.watchers:
            window = self.stores[watcher.server].cache(PODS).window
            events = window.since(watcher.position, limit=1000)
            watcher.position += len(events)
            watcher.told += [(event.revision, event.key, event.new is None) for event in events]

    @invariant()
    def watchers_are_told_everything_once_and_in_order(self) -> None:
        if self.stores:
            self.read_on()
            for watcher in self.watchers:
                assert watcher.told == [change for change in self.log if change[0] > watcher.since]

    @staticmethod
    def obj(key: Key) -> dict[str, Any]:
        return {"metadata": {"namespace": key[0], "name": key[1]}}


def test_watchers_lists_and_writes_agree_on_sqlite() -> None:
    class OnSqlite(Machine):
        def make(self, where: str) -> contextlib.AbstractAsyncContextManager[protocol.Store]:
            return stores.sqlite(Path(where))

    run_state_machine_as_test(OnSqlite, settings=_SETTINGS)


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    with etcds.running(tmp_path_factory.mktemp("etcd") / "data") as cluster:
        yield cluster.addresses


def test_watchers_lists_and_writes_agree_on_etcd_with_two_servers(members: list[str]) -> None:
    class OnEtcd(Machine):
        servers = 2

        def make(self, where: str) -> contextlib.AbstractAsyncContextManager[protocol.Store]:
            return stores.etcd(members, f"/{where}")

    run_state_machine_as_test(OnEtcd, settings=settings(_SETTINGS, max_examples=10))


_SETTINGS = settings(
    max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)
