"""What the daemon does for each call, with cables in memory and leases on a real disk."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from netplane.kernel.conntrack import Flow
from netplane.kernel.errors import KernelError
from netplane.model import address
from netplane_cni.plan.ipam import Lease
from netplane_cni.run import leases as journals
from netplane_cni.run.leases import Journal
from netplane_cni.spec import CniError, PortMapping
from tests.support.cni_memory import Node


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(tmp_path, cool_down=60.0)
    await made.start()
    yield made
    made.stop()


async def refusal(call: object) -> CniError:
    with pytest.raises(CniError) as caught:
        await call  # type: ignore[misc]  # a coroutine of any result
    return caught.value


async def test_an_address_rests_before_it_is_given_again(node: Node) -> None:
    first = await node.add("a", runtimeConfig={"ips": ["10.244.1.9"]})
    await node.delete("a")
    await node.verbs.sweep()
    given = {await node.add(f"c{number}") for number in range(12)}
    assert first not in given
    assert (await refusal(node.add("more"))).details == "some rest after their last holder: the next is free in 60 s"
    await node.clock.advance(61)
    assert await node.add("more") == first


async def test_rest_survives_a_restart_and_a_clock_that_jumped(node: Node) -> None:
    await node.add("a", runtimeConfig={"ips": ["10.244.1.9"]})
    await node.delete("a")
    await node.verbs.sweep()
    node.stop()
    await node.start()
    assert address.parse("10.244.1.9") in node.verbs.addresses.cooling()
    await node.clock.advance(61)
    assert node.verbs.addresses.cooling() == {}


async def test_an_address_is_not_free_before_its_cable_is_gone(node: Node) -> None:
    await node.add("a", runtimeConfig={"ips": ["10.244.1.9"]})
    await node.delete("a")
    assert (await refusal(node.add("b", runtimeConfig={"ips": ["10.244.1.9"]}))).code == 11


async def test_an_add_during_the_sweep_of_its_own_del_keeps_its_lease(node: Node) -> None:
    address_before = await node.add("a")
    await node.delete("a")
    sweeping, blocked, sweep = asyncio.Event(), asyncio.Event(), node.cables.sweep

    async def slowly() -> None:
        sweeping.set()
        await blocked.wait()
        await sweep()

    node.cables.sweep = slowly  # type: ignore[method-assign]  # the fake's own step, held up
    async with asyncio.TaskGroup() as group:
        group.create_task(node.verbs.sweep())
        await sweeping.wait()
        again = await node.add("a")
        blocked.set()
    assert again == address_before
    assert [lease.is_leaving for lease in node.verbs.leases] == [False]
    assert len(node.cables.there) == 1


async def test_a_failed_wiring_gives_its_address_back(node: Node) -> None:
    node.cables.refusal = KernelError(errno.EEXIST, "add link eth0")
    error = await refusal(node.add("a"))
    assert (error.code, error.message) == (11, "eth0 was not attached: add link eth0: EEXIST (File exists)")
    assert node.verbs.leases == []


async def test_a_refused_rule_takes_the_cable_away_again(node: Node) -> None:
    ports = {"portMappings": [{"hostPort": 80, "containerPort": 80}]}
    await node.add("first", runtimeConfig={"portMappings": [{"hostPort": 81, "containerPort": 80}]})

    async def refuse(text: str) -> None:
        raise KernelError(errno.ENOMEM, "load rules")

    node.nft.refuse_next = KernelError(errno.ENOMEM, "commit")
    node.nft.load = refuse  # type: ignore[method-assign]  # nft cannot help either
    assert (await refusal(node.add("a", runtimeConfig=ports))).code == 11
    assert len(node.cables.there) == 1
    assert [lease.container for lease in node.verbs.leases] == ["first"]


async def test_udp_flows_of_a_host_port_that_changed_hands_are_forgotten_and_no_others(node: Node) -> None:
    client, here, there = (address.parse(ip) for ip in ("10.9.0.1", "172.30.0.11", "8.8.8.8"))
    ports = {"portMappings": [{"hostPort": 53, "containerPort": 5353, "protocol": "udp"}]}
    to_the_node = Flow(17, client, 1000, here, 53, here, 53)
    elsewhere, other_port = Flow(17, client, 1001, there, 53, there, 53), Flow(17, client, 1002, here, 54, here, 54)
    node.flows.there = [to_the_node, elsewhere, other_port]
    pod = address.parse(await node.add("a", runtimeConfig=ports))
    assert node.flows.there == [elsewhere, other_port]
    to_the_pod = Flow(17, client, 1000, here, 53, pod, 5353)
    node.flows.there.append(to_the_pod)
    await node.add("b")
    assert to_the_pod in node.flows.there
    await node.delete("a")
    assert node.flows.there == [elsewhere, other_port]


async def test_a_full_disk_refuses_adds_and_loses_nothing(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    await node.add("a")

    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        error = await refusal(node.add("b"))
    assert (error.code, "No space left on device" in error.message) == (11, True)
    assert [lease.container for lease in node.verbs.leases] == ["a"]
    await node.add("b")
    node.stop()
    await node.start()
    assert sorted(lease.container for lease in node.verbs.leases) == ["a", "b"]


async def test_nothing_is_added_before_the_node_is_known(node: Node) -> None:
    node.verbs.prepared, node.verbs.not_ready = None, "Node x has no spec.podCIDRs yet"
    error = await refusal(node.add("a"))
    assert (error.code, error.details) == (11, "Node x has no spec.podCIDRs yet")
    assert (await refusal(node.call("STATUS", "a"))).code == 50
    await node.delete("a")


async def test_gc_spares_other_networks(node: Node) -> None:
    await node.add("a")
    await node.add("b", name="other")
    await node.call("GC", "-".join("xy"), **{"cni.dev/valid-attachments": []})
    assert {lease.container: lease.is_leaving for lease in node.verbs.leases} == {"a": True, "b": False}


async def test_leases_that_share_a_write_are_all_on_disk(tmp_path: Path, node: Node) -> None:
    await asyncio.gather(*(node.add(f"c{number}") for number in range(10)))
    lines = (tmp_path / "state" / "leases.journal").read_bytes().splitlines(keepends=True)
    held = [journals.unpack(line) for line in lines]
    assert {line["container"] for line in held if line} == {f"c{number}" for number in range(10)}


async def test_a_large_journal_is_written_anew_with_all_it_says(
    tmp_path: Path, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    await node.add("a")
    for _ in range(5):
        await node.add("b", runtimeConfig={"ips": ["10.244.1.9"]})
        await node.delete("b")
        await node.verbs.sweep()
    leases, cooling = node.verbs.leases, set(node.verbs.addresses.cooling())
    node.stop()
    path = tmp_path / "state" / "leases.journal"
    before = path.stat().st_size
    monkeypatch.setattr(journals, "COMPACT_AT", 100)
    await node.start()
    assert path.stat().st_size < before
    assert (node.verbs.leases, set(node.verbs.addresses.cooling())) == (leases, cooling)
    node.stop()
    await node.start()
    assert (node.verbs.leases, set(node.verbs.addresses.cooling())) == (leases, cooling)


def test_a_lease_is_read_as_it_was_written() -> None:
    ports = PortMapping("udp", 53, 5353, address.parse("fd00::1")), PortMapping("tcp", 1, 2)
    ips = address.parse("10.1.0.2"), address.parse("fd00::2")
    lease = Lease(
        "c", "eth0", "np1", ips, b"\2\0\0\0\0\1", "boot", "net", "/run/netns/x", 42, "default/web", ports, True
    )
    line = journals.unpack(journals.pack(journals.encode(lease)))
    assert line is not None
    assert journals.decode(line) == lease


@pytest.mark.parametrize(
    "raw", [b"", b"\n", b"x", b"00000000 {}\n", b"zzzzzzzz {}\n", b"99914b93 [1]\n", b'bf21a9e8 {"op"']
)
def test_a_damaged_line_is_known_as_such(raw: bytes) -> None:
    assert journals.unpack(raw) is None


def test_an_open_journal_is_locked(tmp_path: Path) -> None:
    from netplane.lib import clock
    from netplane.lib.cli import UserError

    first, second = Journal(str(tmp_path), clock.SYSTEM), Journal(str(tmp_path), clock.SYSTEM)
    first.open()
    with pytest.raises(UserError, match="another CNI daemon"):
        second.open()
    first.close()
    second.open()
    second.close()
