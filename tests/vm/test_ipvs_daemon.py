"""The daemon with the IPVS backend: it follows the API, and repairs what others undo. `make vm` runs it."""

from __future__ import annotations

import contextlib
import subprocess

import pytest

from netplane.kernel.ipvs.objects import Change
from netplane.kube.fake import FakeApi
from netplane.kube.types import ENDPOINTSLICES, NODES, SERVICES
from netplane_proxy.run import ipvs
from tests.support import kube_objects as objects
from tests.support.packet_lab import PacketLab, packet_lab
from tests.support.proxy_daemon import PATIENCE, goes_to, on_node, running


@pytest.mark.timeout(400)
def test_the_daemon_follows_the_api_and_repairs_what_others_undo() -> None:
    api = FakeApi()
    api.seed(NODES, objects.node())
    api.seed(SERVICES, objects.service())
    api.seed(ENDPOINTSLICES, objects.endpoint_slice("10.244.2.1"))

    async def course(lab: PacketLab) -> None:
        with contextlib.closing(ipvs.open_target()) as target:
            async with running(api, "ipvs", target=target):
                assert goes_to(lab) == "10.244.2.1"
                api.seed(ENDPOINTSLICES, objects.endpoint_slice("10.244.2.2"))
                await api.until(lambda: goes_to(lab) == "10.244.2.2", seconds=PATIENCE)
                target._ipvs.commit([Change("remove", one) for one in target._ipvs.servers()])
                await api.until(lambda: goes_to(lab) == "10.244.2.2", seconds=PATIENCE)
                subprocess.run(["nft", "delete", "table", "ip", "netplane_ipvs"], check=True, timeout=30)
                await api.until(lambda: "netplane_ipvs" in tables(), seconds=PATIENCE)
                api.seed(ENDPOINTSLICES, objects.endpoint_slice())
                await api.until(lambda: goes_to(lab) == "refused", seconds=PATIENCE)
            await target.cleanup()

    with packet_lab() as lab:
        on_node(lab, lambda: course(lab))


def tables() -> str:
    """List the tables of the namespace."""
    return subprocess.run(
        ["nft", "list", "tables", "ip"], capture_output=True, text=True, check=True, timeout=30
    ).stdout
