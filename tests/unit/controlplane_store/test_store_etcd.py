"""What only the shared store has: several servers, claims, compaction. Members that die are in tests/api."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from netplane.controlplane.store import history, protocol
from netplane.controlplane.store.etcd import body, client, duties, keys, wire
from netplane.kube.types import Object
from netplane.lib import clock
from tests.support import etcds, stores
from tests.support.stores import PODS, pod


@pytest.fixture
def prefix() -> str:
    return f"/{uuid.uuid4().hex}"


@contextlib.asynccontextmanager
async def two(cluster: etcds.Etcds, prefix: str, **more: Any) -> AsyncIterator[tuple[body.Etcd, body.Etcd]]:
    """Two servers on the same etcd."""
    opened = functools.partial(stores.etcd, cluster.addresses, prefix, **more)
    async with opened() as one, opened() as other:
        yield one, other


async def test_what_one_server_acknowledged_the_other_one_shows(member: etcds.Etcds, prefix: str) -> None:
    async with two(member, prefix) as (one, other):
        for number in range(20):
            made = await one.create(PODS, pod(f"p{number}"))
            await other.fresh()
            assert other.cache(PODS).records[made.key] == made


async def test_fresh_also_waits_for_nothing_when_others_write_elsewhere_in_etcd(
    member: etcds.Etcds, prefix: str
) -> None:
    async with stores.etcd(member.addresses, prefix) as one, stores.etcd(member.addresses, prefix + "-other") as other:
        await other.create(PODS, pod("a"))
        await one.fresh()
        assert one.revision > other.revision - 1
        assert PODS not in one.storages()


def claims(_: str, obj: Object) -> frozenset[str]:
    return frozenset(obj.get("holds", ()))


async def test_what_one_object_holds_no_other_one_gets_until_it_lets_go(member: etcds.Etcds, prefix: str) -> None:
    async with two(member, prefix, claims=claims) as (one, other):
        made = await one.create(PODS, pod("a", holds=["address/1", "address/2"]))
        with pytest.raises(protocol.Taken):
            await other.create(PODS, pod("b", holds=["address/2"]))
        made = await one.update(PODS, pod("a", holds=["address/1"]), expected=made.revision)
        second = await other.create(PODS, pod("b", holds=["address/2"]))
        with pytest.raises(protocol.Taken):
            await other.update(PODS, pod("b", holds=["address/1"]), expected=second.revision)
        await one.delete(PODS, pod("a"), expected=made.revision)
        await other.fresh()
        await other.update(PODS, pod("b", holds=["address/1"]), expected=second.revision)


async def test_what_an_object_claims_is_had_only_while_the_grounds_are_as_they_were_seen(
    member: etcds.Etcds, prefix: str
) -> None:
    seen: list[int] = []

    def grounds(_: str, claimed: frozenset[str], __: object) -> list[tuple[str, tuple[str, str], int]]:
        return [("ranges", ("default", "r"), seen[-1])] if claimed else []

    async with two(member, prefix, claims=claims, grounds=grounds) as (one, other):
        seen.append((await one.create("ranges", pod("r"))).revision)
        made = await other.create(PODS, pod("a", holds=["address/1"]))
        changed = await one.update("ranges", pod("r", n=1), expected=seen[-1])
        with pytest.raises(protocol.Taken):
            await other.create(PODS, pod("b", holds=["address/2"]))
        await other.create(PODS, pod("c"))
        made = await other.update(PODS, pod("a", holds=["address/1"], n=1), expected=made.revision)
        with pytest.raises(protocol.Taken):
            await other.update(PODS, pod("a", holds=["address/1", "address/2"]), expected=made.revision)
        seen.append(changed.revision)
        await other.update(PODS, pod("a", holds=["address/1", "address/2"]), expected=made.revision)


async def test_of_servers_that_give_away_the_same_one_wins(member: etcds.Etcds, prefix: str) -> None:
    async with two(member, prefix, claims=claims) as servers:
        writes = [servers[n % 2].create(PODS, pod(f"p{n}", holds=["port/1"])) for n in range(6)]
        done = await asyncio.gather(*writes, return_exceptions=True)
        assert sorted(type(each).__name__ for each in done) == ["Record"] + ["Taken"] * 5


async def test_old_revisions_are_forgotten_by_one_of_the_servers(member: etcds.Etcds, prefix: str) -> None:
    async with two(member, prefix, compaction=0.2) as (one, _):
        made = await one.create(PODS, pod("a"))
        members = client.Client(member.addresses)
        async with asyncio.timeout(20):
            while True:
                try:
                    await members.range(wire.range_(b"a", b"b", revision=made.revision - 1))
                except client.Compacted:
                    break
                await asyncio.sleep(0.05)
        await members.close()
        assert one.cache(PODS).window.position(made.revision) >= 0, "the servers' own memory reaches further back"


async def test_who_lagged_behind_compaction_reads_anew_and_lets_watchers_list_again(
    member: etcds.Etcds, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stores.etcd(member.addresses, prefix) as store:
        made = await store.create(PODS, pod("a"))
        position = store.cache(PODS).window.end
        watch = client.Client.watch

        def too_old(self: client.Client, request: bytes) -> Any:
            monkeypatch.setattr(client.Client, "watch", watch)
            raise client.Compacted("forgotten")

        monkeypatch.setattr(client.Client, "watch", too_old)
        assert store._watch is not None
        store._watch.cancel()
        async with asyncio.timeout(10):
            await store.feed(PODS).wait()
        with pytest.raises(history.Expired):
            store.cache(PODS).window.since(position, limit=1)
        assert list(store.cache(PODS).records) == [("default", "a")]
        await store.update(PODS, pod("a", n=1), expected=made.revision)


async def test_objects_with_a_time_to_live_go_by_themselves_and_watchers_hear_of_it(
    member: etcds.Etcds, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duties, "_LEASE_SHARED_SECONDS", 0)
    async with stores.etcd(member.addresses, prefix, ttls={"events": 1}) as store:
        await store.create("events", pod("a"))
        await store.create(PODS, pod("a"))
        async with asyncio.timeout(30):
            while store.cache("events").records:
                await store.feed("events").wait()
        assert store.cache("events").window.since(1, limit=9)[-1].new is None
        assert store.cache(PODS).records


async def test_many_objects_share_a_lease_for_a_while(member: etcds.Etcds) -> None:
    members, fake = client.Client(member.addresses), clock.Fake()
    leases = duties.Leases(members, clock=fake)
    first = [await leases.lease(3600) for _ in range(3)]
    assert len(set(first)) == 1
    await fake.advance(61)
    assert await leases.lease(3600) not in first
    await members.close()


async def test_a_cluster_is_identified_by_who_came_first(member: etcds.Etcds, prefix: str) -> None:
    async with two(member, prefix) as (one, other):
        assert await one.identify(b"mine") == b"mine"
        assert await other.identify(b"yours") == b"mine"


async def test_an_object_that_etcd_finds_too_large_is_refused_as_such(member: etcds.Etcds, prefix: str) -> None:
    async with stores.etcd(member.addresses, prefix) as store:
        with pytest.raises(protocol.TooLarge):
            await store.create(PODS, pod("a", text="x" * 2_000_000))


def test_keys_beside_objects_are_our_own() -> None:
    layout = keys.Layout("/registry/")
    assert layout.of("pods", ("ns", "a")) == b"/registry/pods/ns/a"
    assert layout.read(b"/registry/nodes//n1") == ("nodes", ("", "n1"))
    assert [layout.read(key) for key in (layout.pulse, layout.compaction, layout.claim("port/1"))] == [None] * 3
    assert layout.start < layout.claim("x") < layout.of("zz", ("z", "z")) < layout.end


def test_messages_that_end_too_early_are_malformed() -> None:
    for data in (b"\x0a\x05ab", b"\x08", b"\x0b"):
        with pytest.raises(wire.Malformed):
            wire.read_range(data)
