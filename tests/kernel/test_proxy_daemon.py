"""The daemon against a real kernel: it follows, repairs, restarts without a gap and leaves no trace."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest

from netplane.kernel import netns
from netplane.kube.fake import FakeApi
from netplane.kube.types import ENDPOINTSLICES, NODES, SERVICES
from netplane.lib import clock
from netplane.model import address
from netplane_proxy.plan import host, oracle
from netplane_proxy.run import nftables
from netplane_proxy.run.daemon import Daemon, Parts
from netplane_proxy.run.flows import Conntrack, Sweeper
from tests.support import kube_objects as objects
from tests.support.clusters import NODE
from tests.support.packet_lab import PacketLab, packet_lab

SETTINGS = host.Settings(
    "node-1",
    cluster_cidrs=(address.prefix("10.244.0.0/16"),),
    service_cidrs=(address.prefix("10.96.0.0/16"),),
)
POD_TO_WEB = oracle.parse("10.244.1.5 > 10.96.0.1:80/tcp", NODE)


@pytest.fixture
def lab() -> Iterator[PacketLab]:
    with packet_lab() as made:
        yield made


@pytest.fixture
def api() -> FakeApi:
    made = FakeApi()
    made.seed(NODES, objects.node())
    made.seed(SERVICES, objects.service())
    made.seed(ENDPOINTSLICES, objects.endpoint_slice("10.244.2.1"))
    return made


@contextlib.asynccontextmanager
async def running(api: FakeApi) -> AsyncIterator[Daemon]:
    """Run a daemon in the namespace of this thread; stopping it leaves the rules."""
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(contextlib.closing(nftables.open_target()))
        sweeper = Sweeper(stack.enter_context(contextlib.closing(Conntrack())), clock=clock.SYSTEM)
        daemon = Daemon(SETTINGS, Parts(api, target, sweeper))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(daemon.run())
            await api.until(lambda: bool(daemon.report()["verified"]))
            yield daemon
            task.cancel()


def on_node(lab: PacketLab, test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's course on a thread in the node's namespace."""
    netns.run_in(lab.node, lambda: asyncio.run(test()))


def goes_to(lab: PacketLab, packet: oracle.Packet = POD_TO_WEB) -> str:
    """Send a packet and say where it went."""
    (left,) = lab.send([packet])
    if left is None:
        return "nowhere"
    return address.text(left.destination) if left.end == "sent" else left.end


def test_packets_follow_the_api(lab: PacketLab, api: FakeApi) -> None:
    async def course() -> None:
        async with running(api):
            assert goes_to(lab) == "10.244.2.1"
            api.seed(ENDPOINTSLICES, objects.endpoint_slice("10.244.2.2"))
            await api.until(lambda: goes_to(lab) == "10.244.2.2")
            api.seed(ENDPOINTSLICES, objects.endpoint_slice())
            await api.until(lambda: goes_to(lab) == "refused")
            api.seed(ENDPOINTSLICES, objects.endpoint_slice("10.244.2.1"))
            await api.until(lambda: goes_to(lab) == "10.244.2.1")
            api.drop(SERVICES, "web", "default")
            await api.until(lambda: goes_to(lab) == "refused")  # No silence where no Service is.

    on_node(lab, course)


def test_a_flushed_chain_is_repaired_within_a_second(lab: PacketLab, api: FakeApi) -> None:
    async def course() -> None:
        async with running(api) as daemon:
            subprocess.run(["nft", "flush", "chain", "ip", "netplane", "services"], check=True, timeout=5)
            await api.until(lambda: goes_to(lab) == "10.244.2.1", seconds=1)
            await api.until(lambda: daemon.report()["repairs"] == "1")

    on_node(lab, course)


def test_a_deleted_table_comes_back(lab: PacketLab, api: FakeApi) -> None:
    async def course() -> None:
        async with running(api):
            subprocess.run(["nft", "delete", "table", "ip", "netplane"], check=True, timeout=5)
            await api.until(lambda: goes_to(lab) == "10.244.2.1", seconds=1)

    on_node(lab, course)


def test_rules_stay_when_the_daemon_stops_and_a_new_one_adopts_them(lab: PacketLab, api: FakeApi) -> None:
    async def course() -> None:
        async with running(api):
            pass
        assert goes_to(lab) == "10.244.2.1"
        api.seed(ENDPOINTSLICES, objects.endpoint_slice("10.244.2.3"))
        async with running(api):
            assert goes_to(lab) == "10.244.2.3"

    on_node(lab, course)


def test_cleanup_leaves_no_trace(lab: PacketLab, api: FakeApi) -> None:
    async def course() -> None:
        async with running(api):
            pass
        with contextlib.closing(nftables.open_target()) as target:
            await target.cleanup()
            await target.cleanup()
        listed = subprocess.run(["nft", "list", "ruleset"], check=True, timeout=5, capture_output=True, text=True)
        assert listed.stdout == ""

    on_node(lab, course)


def test_what_the_kernel_holds_can_be_listed_and_loaded_again(lab: PacketLab, api: FakeApi) -> None:
    async def course() -> None:
        async with running(api):
            listed = subprocess.run(["nft", "list", "ruleset"], check=True, timeout=5, capture_output=True, text=True)
        text = f"flush ruleset\n{listed.stdout}"
        subprocess.run(["nft", "-f", "-"], input=text, check=True, timeout=5, text=True)
        assert goes_to(lab) == "10.244.2.1"

    on_node(lab, course)


@pytest.mark.parametrize("target", ["10.96.0.53:80", "172.30.0.11:30053"])
def test_a_udp_client_that_keeps_sending_moves_to_the_new_endpoint(lab: PacketLab, api: FakeApi, target: str) -> None:
    packet = oracle.parse(f"172.31.0.2 > {target}/udp", NODE)

    def seed(*ips: str) -> None:
        api.seed(ENDPOINTSLICES, objects.endpoint_slice(*ips, of="dns", protocol="UDP"))

    async def course() -> None:
        made = objects.service("dns", "10.96.0.53", protocol="UDP", type="NodePort")
        made["spec"]["ports"][0]["nodePort"] = 30053
        api.seed(SERVICES, made)
        seed("10.244.2.1")
        async with running(api) as daemon:
            flow = lab.flow(packet)
            assert address.text(flow.send()) == "10.244.2.1"
            seed("10.244.2.1", "10.244.2.2")
            await api.until(lambda: daemon.report()["committed"] == str(api.revision))
            assert address.text(flow.send()) == "10.244.2.1"
            seed("10.244.2.2")
            await api.until(lambda: address.text(flow.send()) == "10.244.2.2")

    on_node(lab, course)


def test_a_udp_client_that_was_there_first_reaches_a_service_that_comes(lab: PacketLab, api: FakeApi) -> None:
    packet = oracle.parse("10.244.1.5 > 192.0.2.53:80/udp", NODE)

    async def course() -> None:
        async with running(api):
            flow = lab.flow(packet)
            assert address.text(flow.send()) == "192.0.2.53"
            api.seed(SERVICES, objects.service("dns", "10.96.0.53", protocol="UDP", externalIPs=["192.0.2.53"]))
            api.seed(ENDPOINTSLICES, objects.endpoint_slice("10.244.2.7", of="dns", protocol="UDP"))
            await api.until(lambda: address.text(flow.send()) == "10.244.2.7")

    on_node(lab, course)


def test_two_capabilities_are_enough(lab: PacketLab) -> None:
    """What the systemd unit and the DaemonSet leave us: no entering of namespaces, nothing else of root's."""
    program = (
        "import asyncio\n"
        "from netplane_proxy.plan.forwarding import Forwarding\n"
        "from netplane_proxy.run import nftables, flows\n"
        "flows.Conntrack()\n"
        "print(asyncio.run(nftables.open_target().replace(Forwarding())).operations > 0)\n"
    )
    limits = ["setpriv", "--bounding-set=-all,+net_admin,+net_raw", "--inh-caps=-all", "--no-new-privs"]
    done = netns.run_in(
        lab.node,
        lambda: subprocess.run(
            [*limits, sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False
        ),
    )
    assert (done.stdout, done.stderr) == ("True\n", "")
