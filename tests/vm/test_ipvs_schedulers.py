"""Every scheduler of Debian's kernel serves, by its name."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from netplane.kernel import netns
from netplane.model.address import Family
from netplane.model.service import Protocol
from netplane_proxy.plan.ipvs.rows import SCHEDULERS
from netplane_proxy.run import ipvs
from tests.support.ports import UDP, cluster_ip, forwarding, service_port, vip
from tests.support.topology import FACTS, POD1, POD2, Topology, backend


@pytest.fixture(scope="module", autouse=True)
def _cleaned(lab: Topology) -> Iterator[None]:
    yield
    netns.run_in(lab.places["node"], lambda: asyncio.run(ipvs.cleanup()))


SPREADS = frozenset(("rr", "wrr", "lc", "wlc"))
"""Those that give one client's connections to all backends in turn; others go by the client or its load."""


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_scheduler_serves_by_its_name_and_is_exchanged_in_place(lab: Topology, scheduler: str) -> None:
    ports = [
        service_port(cluster_ip(family, protocol=protocol), name=f"{protocol}",
                     cluster=[backend(pod, family) for pod in (POD1, POD2)])
        for family in Family for protocol in (Protocol.TCP, UDP)
    ]  # fmt: skip

    async def hold(target: ipvs.IpvsTarget) -> None:
        await target.replace(forwarding(*ports, node=FACTS))

    with contextlib.closing(netns.run_in(lab.places["node"], lambda: ipvs.open_target(scheduler))) as target:
        netns.run_in(lab.places["node"], lambda: asyncio.run(hold(target)))
        assert {held.scheduling.scheduler for held in target._ipvs.servers().values()} == {scheduler}
    for family in Family:
        answers = {one.name for one in lab.ask_often("client", (vip(family), 80), Protocol.TCP, 4)}
        assert answers == {"pod1", "pod2"} if scheduler in SPREADS else answers <= {"pod1", "pod2"}
        assert lab.ask("client", (vip(family), 80), UDP).name in ("pod1", "pod2")
