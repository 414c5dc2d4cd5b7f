"""The daemon against a real kernel: it follows, repairs, restarts without a gap and leaves no trace."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from netplane.kernel import netns
from netplane.kube.fake import FakeApi
from netplane.kube.types import ENDPOINTSLICES, NODES, SERVICES
from netplane_proxy.run import nftables
from tests.support import kube_objects as objects
from tests.support.packet_lab import PacketLab, packet_lab
from tests.support.proxy_daemon import PATIENCE, goes_to, on_node, running


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


def test_packets_follow_the_api(lab: PacketLab, api: FakeApi) -> None:
    async def course() -> None:
        async with running(api):
            assert goes_to(lab) == "10.244.2.1"
            api.seed(ENDPOINTSLICES, objects.endpoint_slice("10.244.2.2"))
            await api.until(lambda: goes_to(lab) == "10.244.2.2", seconds=PATIENCE)
            api.seed(ENDPOINTSLICES, objects.endpoint_slice())
            await api.until(lambda: goes_to(lab) == "refused", seconds=PATIENCE)
            api.seed(ENDPOINTSLICES, objects.endpoint_slice("10.244.2.1"))
            await api.until(lambda: goes_to(lab) == "10.244.2.1", seconds=PATIENCE)
            api.drop(SERVICES, "web", "default")
            await api.until(lambda: goes_to(lab) == "refused", seconds=PATIENCE)  # No silence where no Service is.

    on_node(lab, course)


def test_a_flushed_chain_is_repaired_and_reported(lab: PacketLab, api: FakeApi) -> None:
    async def course() -> None:
        async with running(api) as daemon:
            subprocess.run(["nft", "flush", "chain", "ip", "netplane", "services"], check=True, timeout=30)
            await api.until(lambda: goes_to(lab) == "10.244.2.1", seconds=PATIENCE)
            await api.until(lambda: daemon.report()["repairs"] == "1", seconds=PATIENCE)

    on_node(lab, course)


def test_a_deleted_table_comes_back(lab: PacketLab, api: FakeApi) -> None:
    async def course() -> None:
        async with running(api):
            subprocess.run(["nft", "delete", "table", "ip", "netplane"], check=True, timeout=30)
            await api.until(lambda: goes_to(lab) == "10.244.2.1", seconds=PATIENCE)

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
        listed = subprocess.run(["nft", "list", "ruleset"], check=True, timeout=30, capture_output=True, text=True)
        assert listed.stdout == ""

    on_node(lab, course)


def test_what_the_kernel_holds_can_be_listed_and_loaded_again(lab: PacketLab, api: FakeApi) -> None:
    async def course() -> None:
        async with running(api):
            listed = subprocess.run(["nft", "list", "ruleset"], check=True, timeout=30, capture_output=True, text=True)
        text = f"flush ruleset\n{listed.stdout}"
        subprocess.run(["nft", "-f", "-"], input=text, check=True, timeout=30, text=True)
        assert goes_to(lab) == "10.244.2.1"

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
            [*limits, sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
        ),
    )
    assert (done.stdout, done.stderr) == ("True\n", "")
