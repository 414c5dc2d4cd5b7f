"""The daemon with the IPVS backend: it follows the API, and repairs what others undo. `make vm` runs it."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess

from netplane.kernel import netns
from netplane.kernel.ipvs.objects import Change
from netplane.kube.fake import FakeApi
from netplane.kube.types import ENDPOINTSLICES, NODES, SERVICES
from netplane.lib import clock
from netplane.model import address
from netplane_proxy.plan import host, oracle
from netplane_proxy.run import ipvs
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


def goes_to(lab: PacketLab) -> str:
    """Send a packet and say where it went."""
    (left,) = lab.send([POD_TO_WEB])
    if left is None:
        return "nowhere"
    return address.text(left.destination) if left.end == "sent" else left.end


def test_the_daemon_follows_the_api_and_repairs_what_others_undo() -> None:
    api = FakeApi()
    api.seed(NODES, objects.node())
    api.seed(SERVICES, objects.service())
    api.seed(ENDPOINTSLICES, objects.endpoint_slice("10.244.2.1"))

    async def course(lab: PacketLab) -> None:
        with contextlib.ExitStack() as stack:
            target = stack.enter_context(contextlib.closing(ipvs.open_target()))
            sweeper = Sweeper(stack.enter_context(contextlib.closing(Conntrack())), clock=clock.SYSTEM)
            daemon = Daemon(SETTINGS, Parts(api, target, sweeper))
            async with asyncio.TaskGroup() as group:
                task = group.create_task(daemon.run())
                await api.until(lambda: bool(daemon.report()["verified"]), seconds=30)
                assert goes_to(lab) == "10.244.2.1"
                api.seed(ENDPOINTSLICES, objects.endpoint_slice("10.244.2.2"))
                await api.until(lambda: goes_to(lab) == "10.244.2.2", seconds=10)
                target._ipvs.commit([Change("remove", one) for one in target._ipvs.servers()])
                await api.until(lambda: goes_to(lab) == "10.244.2.2", seconds=10)
                subprocess.run(["nft", "delete", "table", "ip", "netplane_ipvs"], check=True, timeout=10)
                await api.until(lambda: "netplane_ipvs" in tables(), seconds=10)
                api.seed(ENDPOINTSLICES, objects.endpoint_slice())
                await api.until(lambda: goes_to(lab) == "refused", seconds=10)
                task.cancel()
            await target.cleanup()

    with packet_lab() as lab:
        netns.run_in(lab.node, lambda: asyncio.run(course(lab)))


def tables() -> str:
    """List the tables of the namespace."""
    return subprocess.run(
        ["nft", "list", "tables", "ip"], capture_output=True, text=True, check=True, timeout=10
    ).stdout
