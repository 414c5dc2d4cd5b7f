"""The daemon brings what the API says into the kernel, and keeps it there."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from netplane.kernel.errors import KernelError
from netplane.kube import errors
from netplane.kube.fake import FakeApi
from netplane.kube.types import ENDPOINTSLICES, NODES, SERVICES
from netplane.lib import clock as clocks
from netplane.model import address
from netplane.model.address import Family
from netplane.model.service import Protocol
from netplane_proxy.plan import host, stale
from netplane_proxy.plan.forwarding import Backend, PortForwarding, PortKey
from netplane_proxy.run.daemon import Daemon, Parts
from netplane_proxy.run.flows import Sweeper
from netplane_proxy.run.memory import Memory
from tests.support import kube_objects as objects
from tests.support.clusters import NODE, backend
from tests.support.fake_target import FakeTarget
from tests.support.ports import cluster_ip, forwarding, service_port

KEY = PortKey("default", "web", "", Protocol.TCP, Family.V4)
SETTINGS = host.Settings("node-1", cluster_cidrs=(address.prefix("10.244.0.0/16"),))


class World:
    """An API, a kernel and a daemon between them."""

    def __init__(self, clock: clocks.Clock = clocks.SYSTEM, memory: Memory | None = None) -> None:
        self.api = FakeApi()
        self.target = FakeTarget()
        self.flows = FakeFlows()
        self.clock = clock
        sweeper = Sweeper(self.flows, clock=clock)
        self.daemon = Daemon(SETTINGS, Parts(self.api, self.target, sweeper, memory, clock=clock))

    def backends(self, service: str = "web") -> list[str] | None:
        """What the kernel has for a Service; None without it."""
        for key, row in self.target.rows.items():
            if key.service == service:
                return list(map(str, row.cluster))
        return None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the daemon for as long as the block takes, once it is ready."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.daemon.run())
            await self.until(lambda: self.daemon.is_ready)
            yield
            task.cancel()

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until it holds."""
        await self.api.until(lambda: bool(holds()))


class FakeFlows:
    """UDP flows, and which were forgotten."""

    def __init__(self) -> None:
        self.seen: list[stale.Flow] = []
        self.forgotten: list[stale.Flow] = []

    def flows(self, family: Family) -> list[stale.Flow]:
        return self.seen if family is Family.V4 else []

    def forget(self, flows: list[stale.Flow]) -> int:
        for flow in flows:
            self.seen.remove(flow)
        self.forgotten += flows
        return len(flows)


@pytest.fixture
def world() -> World:
    made = World()
    made.api.seed(NODES, objects.node())
    made.api.seed(SERVICES, objects.service())
    made.api.seed(ENDPOINTSLICES, objects.endpoint_slice("10.244.2.1"))
    return made


async def test_what_is_there_at_start_is_forwarded_in_one_comparison(world: World) -> None:
    async with world.running():
        assert world.backends() == ["10.244.2.1:8080"]
        assert world.target.acts[0] == "replace"
        assert world.target.node.node_ips == (address.parse("172.30.0.11"),)


async def test_a_change_of_a_slice_is_one_commit(world: World) -> None:
    async with world.running():
        await world.until(lambda: world.daemon.report()["verified"])
        world.api.seed(ENDPOINTSLICES, objects.endpoint_slice("10.244.2.1", "10.244.2.2"))
        await world.until(lambda: world.backends() == ["10.244.2.1:8080", "10.244.2.2:8080"])
        assert world.target.acts[-1] == "commit"
        assert world.target.acts.count("commit") == 1


async def test_what_comes_right_after_a_burst_is_taken_together() -> None:
    clock = clocks.Fake()
    world = World(clock)
    names = [f"s{number}" for number in range(8)]

    def put(backend: str) -> None:
        for name in names:
            world.api.seed(ENDPOINTSLICES, objects.endpoint_slice(backend, of=name))

    async def stands(backend: str) -> None:
        await world.until(lambda: all(world.backends(name) == [f"{backend}:8080"] for name in names))

    world.api.seed(NODES, objects.node())
    for number, name in enumerate(names):
        world.api.seed(SERVICES, objects.service(name, ip=f"10.96.1.{number}"))
    put("10.244.2.1")
    async with world.running():
        await world.until(lambda: world.daemon.report()["verified"])
        put("10.244.2.2")
        await stands("10.244.2.2")
        acts = len(world.target.acts)
        put("10.244.2.3")
        await clock.advance(0.09)
        assert len(world.target.acts) == acts
        put("10.244.2.4")
        await clock.advance(0.02)
        await stands("10.244.2.4")
        assert len(world.target.acts) == acts + 1


async def test_single_changes_never_wait() -> None:
    clock = clocks.Fake()
    world = World(clock)
    world.api.seed(NODES, objects.node())
    world.api.seed(SERVICES, objects.service())
    async with world.running():
        for number in range(1, 9):
            world.api.seed(ENDPOINTSLICES, objects.endpoint_slice(f"10.244.2.{number}"))
            await world.until(lambda: world.backends() == [f"10.244.2.{number}:8080"])  # noqa: B023  # awaited here
    assert clock.monotonic() == 0.0


async def test_a_change_that_means_nothing_touches_nothing(world: World) -> None:
    async with world.running():
        await world.until(lambda: world.daemon.report()["verified"])
        acts = list(world.target.acts)
        world.api.seed(SERVICES, {**objects.service(), "status": {"loadBalancer": {}}})
        await world.until(lambda: world.daemon.report()["committed"] == str(world.api.revision))
        assert world.target.acts == acts


async def test_a_deleted_service_is_gone_from_the_kernel(world: World) -> None:
    async with world.running():
        world.api.drop(SERVICES, "web", "default")
        await world.until(lambda: world.backends() is None)


async def test_a_kernel_that_refuses_is_tried_again_with_everything(world: World) -> None:
    async with world.running():
        await world.until(lambda: world.daemon.report()["verified"])
        world.target.failures = [KernelError(errno.EBUSY, "commit"), KernelError(errno.EBUSY, "list")]
        world.api.seed(ENDPOINTSLICES, objects.endpoint_slice("10.244.2.9"))
        await world.until(lambda: world.backends() == ["10.244.2.9:8080"])
        await world.until(lambda: world.daemon.report()["failure"] == "")


async def test_a_foreign_change_is_repaired_at_once(world: World) -> None:
    async with world.running():
        world.target.interfere()
        await world.until(lambda: world.backends() == ["10.244.2.1:8080"])


async def test_a_foreign_change_during_a_comparison_is_repaired_by_another(world: World) -> None:
    async with world.running():
        await world.until(lambda: world.daemon.report()["verified"])
        acts = len(world.target.acts)
        world.target.is_free.clear()
        world.target.interfere()
        await world.until(lambda: len(world.target.acts) > acts)
        world.target.interfere()  # after that was read which the first comparison reads
        world.target.is_free.set()
        await world.until(lambda: world.backends() == ["10.244.2.1:8080"])


async def test_the_rules_stay_when_the_api_goes_and_follow_when_it_is_back(world: World) -> None:
    async with world.running():
        world.api.go_down()
        await world.until(lambda: world.daemon.report()["notFollowing"])
        assert world.backends() == ["10.244.2.1:8080"]
        world.api.seed(ENDPOINTSLICES, objects.endpoint_slice("10.244.2.7"))
        world.api.come_up()
        await world.until(lambda: world.backends() == ["10.244.2.7:8080"])


async def test_while_no_api_ever_answered_a_foreign_change_does_not_empty_the_kernel() -> None:
    world = World()
    world.api.go_down()
    stood = {KEY: PortForwarding(KEY)}
    world.target.rows = dict(stood)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(world.daemon.run())
        world.target.tell("pid 812 (nft) added rules of table ip netplane")
        for _ in range(100):
            await asyncio.sleep(0.01)
            if world.target.is_told:
                break
        await asyncio.sleep(0.1)
        assert (world.target.rows, world.target.acts) == (stood, [])
        task.cancel()


async def test_what_was_known_is_put_right_while_no_api_answers(tmp_path: Path) -> None:
    (tmp_path / "forwarding.json").write_text("")
    memory = Memory(tmp_path / "forwarding.json")
    memory.keep_now(forwarding(service_port(cluster_ip(Family.V4), cluster=[backend("10.244.2.1:80")]), node=NODE))
    content = json.loads((tmp_path / "forwarding.json").read_text())
    (tmp_path / "forwarding.json").write_text(json.dumps({**content, "boot": "another"}))
    time = clocks.Fake()
    world = World(time, memory)
    world.api.go_down()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(world.daemon.run())
        await asyncio.sleep(0)
        await time.advance(4)
        await world.until(lambda: world.backends() == ["10.244.2.1:80"])
        world.target.interfere()
        await world.until(lambda: world.backends() == ["10.244.2.1:80"] and world.target.acts.count("replace") == 2)
        assert not world.daemon.is_ready
        task.cancel()


async def test_a_node_that_is_deleted_and_made_anew_keeps_its_node_ports(world: World) -> None:
    ip = (address.parse("172.30.0.11"),)
    async with world.running():
        await world.until(lambda: world.daemon.report()["verified"])
        world.api.drop(NODES, "node-1")
        world.api.seed(SERVICES, objects.service("other", ip="10.96.0.2"))
        await world.until(lambda: world.backends("other") is not None)
        assert (world.target.node.node_ips, world.target.node.nodeport_addresses) == (ip, ip)
        empty = objects.node(**{"topology.kubernetes.io/zone": "zone-b"})
        world.api.seed(NODES, {**empty, "status": {}})
        await world.until(lambda: world.target.node.zone == "zone-b")
        assert world.target.node.nodeport_addresses == ip
        world.api.seed(NODES, objects.node(ip="172.30.0.12"))
        await world.until(lambda: world.target.node.node_ips == (address.parse("172.30.0.12"),))


async def test_node_ports_follow_the_nodes_addresses_as_they_come(world: World) -> None:
    has, is_changed = [address.parse("172.30.0.11")], asyncio.Event()

    async def changed() -> None:
        await is_changed.wait()
        is_changed.clear()

    def read() -> tuple[bytes, ...]:
        if refusals:
            raise refusals.pop()
        return tuple(has)

    refusals: list[KernelError] = []
    wanted = dataclasses.replace(SETTINGS, nodeport_prefixes=(address.prefix("0.0.0.0/0"),))
    parts = Parts(world.api, world.target, addresses=read, addresses_changed=changed)
    world.daemon = Daemon(wanted, parts)
    async with world.running():
        assert world.target.node.nodeport_addresses == (has[0],)
        has.append(address.parse("192.0.2.7"))
        refusals.append(KernelError(errno.EINTR, "dump addresses"))
        is_changed.set()
        await world.until(lambda: world.target.node.nodeport_addresses == tuple(has))


async def test_a_node_that_appears_late_is_taken_up(world: World) -> None:
    world.api.drop(NODES, "node-1")
    async with world.running():
        assert not world.target.node.node_ips
        world.api.seed(NODES, objects.node())
        await world.until(lambda: world.target.node.node_ips == (address.parse("172.30.0.11"),))


async def test_a_list_that_fails_is_tried_again(world: World) -> None:
    world.api.fail("list", errors.Unavailable(503, "ServiceUnavailable", "not yet"), times=2)
    world.api.fail("watch", errors.Unavailable(503, "ServiceUnavailable", "not yet"), times=2)
    async with world.running():
        assert world.backends() == ["10.244.2.1:8080"]


async def test_udp_flows_to_an_endpoint_that_went_are_forgotten(world: World) -> None:
    ip = Backend(address.parse("10.96.0.5"), 80)
    flow = stale.Flow(
        Protocol.UDP, address.parse("10.244.1.1"), 4000, ip.ip, ip.port, Backend(address.parse("10.244.2.1"), 8080)
    )
    world.api.seed(SERVICES, objects.service("dns", "10.96.0.5", protocol="UDP"))
    world.api.seed(ENDPOINTSLICES, objects.endpoint_slice("10.244.2.1", of="dns", protocol="UDP"))
    async with world.running():
        world.flows.seen.append(flow)
        world.api.seed(ENDPOINTSLICES, objects.endpoint_slice("10.244.2.2", of="dns", protocol="UDP"))
        await world.until(lambda: world.flows.forgotten == [flow])


async def test_a_burst_while_a_commit_runs_is_few_commits(world: World) -> None:
    async with world.running():
        await world.until(lambda: world.daemon.report()["verified"])
        before = len(world.target.acts)
        for number in range(50):
            world.api.seed(ENDPOINTSLICES, objects.endpoint_slice(f"10.244.2.{number}"))
        await world.until(lambda: world.backends() == ["10.244.2.49:8080"])
        assert len(world.target.acts) - before < 5
