"""The iptables backend on fake tables: what it adopts, repairs and refuses."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import cast

import pytest

from netplane.kernel.errors import KernelError
from netplane.kernel.nft import fake as nft
from netplane.kernel.xtables.fake import Kernel
from netplane.kernel.xtables.objects import Command, Rules
from netplane.kernel.xtables.stamp import Stamp
from netplane.lib import metrics
from netplane.model.address import Family
from netplane_proxy.plan.forwarding import PortForwarding
from netplane_proxy.plan.host import LOOPBACK
from netplane_proxy.run.iptables import IptablesTarget
from netplane_proxy.run.localhost import Localhost
from tests.support.clusters import NODE, backend
from tests.support.ports import cluster_ip, forwarding, node_port, service_port


class Clock:
    """Stamps that a test moves on."""

    def __init__(self) -> None:
        self.now = self.hidden = self.looks = 0
        self.is_in_use = False

    def read(self) -> Stamp:
        return (self.now,)

    def look(self) -> Stamp:
        seen = self.now, self.hidden
        self.looks += 1
        return seen

    def heard(self) -> bool:
        was, self.is_in_use = self.is_in_use, False
        return was

    def close(self) -> None:
        self.now = -1


async def until(is_so: Callable[[], bool]) -> None:
    for _ in range(1500):
        if is_so():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("not in half a minute")


async def first_drift(target: IptablesTarget) -> str:
    return await anext(aiter(target.drift()))


def opened(kernel: Kernel, clock: Clock | None = None) -> IptablesTarget:
    return IptablesTarget(kernel, clock or Clock(), variant="legacy")


def web(*numbers: int) -> PortForwarding:
    backends = [backend(f"10.244.2.{number}:80") for number in numbers]
    return service_port(cluster_ip(Family.V4), cluster=backends, hairpin=[])


async def test_a_second_look_finds_nothing_to_do_and_loads_nothing() -> None:
    kernel = Kernel()
    target = opened(kernel)
    wanted = forwarding(web(1), node=NODE)
    assert (await target.replace(wanted)).operations
    loads = kernel.loads
    assert (await target.replace(wanted)).operations == 0
    assert (await opened(kernel).replace(wanted)).operations == 0
    assert kernel.loads == loads


async def test_rules_are_counted_as_they_stand_in_the_tables() -> None:
    kernel = Kernel()
    target = opened(kernel)
    await target.replace(forwarding(web(1, 2), web(3)._replace(key=web(3).key._replace(service="other")), node=NODE))

    def agree() -> bool:
        return all(
            _shown("total", family, table) == sum(map(len, chains.values()))
            for family, command in ((Family.V4, "iptables"), (Family.V6, "ip6tables"))
            for table, chains in kernel.tables[cast(Command, command)].items()
        )

    assert agree()
    assert _shown("last", Family.V4, "nat") == _shown("total", Family.V4, "nat")
    await target.commit({web(1).key: web(1, 2, 4)}, "2")
    assert agree()
    assert 0 < _shown("last", Family.V4, "nat") < _shown("total", Family.V4, "nat")
    assert _shown("last", Family.V6, "nat") == 0
    await target.commit({web(1).key: None}, "3")
    assert agree()


def _shown(what: str, family: Family, table: str) -> float:
    labels = {"table": table, "ip_family": str(family)}
    return metrics.REGISTRY.get_sample_value(f"kubeproxy_sync_proxy_rules_iptables_{what}", labels) or 0.0


async def test_a_change_loads_one_family_once() -> None:
    kernel = Kernel()
    target = opened(kernel)
    await target.replace(forwarding(web(1), node=NODE))
    loads = kernel.loads
    result = await target.commit({web().key: web(1, 2)}, "2")
    assert (result.operations, kernel.loads) == (1, loads + 1)
    assert (await target.replace(forwarding(web(1, 2), node=NODE))).operations == 0


async def test_before_a_comparison_and_after_a_failure_nothing_is_committed() -> None:
    kernel = Kernel()
    target = opened(kernel)
    with pytest.raises(KernelError, match="compare first"):
        await target.commit({web().key: web(1)}, "1")
    await target.replace(forwarding(web(1), node=NODE))
    kernel.tables["iptables"]["nat"]["FOREIGN"] = ["-j NETPLANE-NOWHERE"]
    with pytest.raises(KernelError, match="failed"):
        await target.commit({web().key: web(2)}, "2")
    with pytest.raises(KernelError, match="compare first"):
        await target.commit({web().key: web(2)}, "2")
    del kernel.tables["iptables"]["nat"]["FOREIGN"]
    assert (await target.replace(forwarding(web(2), node=NODE))).operations == 1


async def test_rules_of_others_stay_where_they_are() -> None:
    kernel = Kernel()
    target = opened(kernel)
    await target.replace(forwarding(web(1), node=NODE))
    chain = kernel.tables["iptables"]["nat"]["PREROUTING"]
    chain[:0] = ["-s 192.0.2.9/32 -j ACCEPT"]
    assert (await target.replace(forwarding(web(1), node=NODE))).operations == 0
    await target.cleanup()
    assert chain is not kernel.tables["iptables"]["nat"]["PREROUTING"]
    assert {name: rules for name, rules in kernel.tables["iptables"]["nat"].items() if rules} == {
        "PREROUTING": ["-s 192.0.2.9/32 -j ACCEPT"]
    }
    assert not any(name.startswith("NETPLANE-") for name in kernel.tables["iptables"]["nat"])


async def test_a_foreign_change_is_told_once_and_only_when_it_is_of_our_rules() -> None:
    kernel, clock = Kernel(), Clock()
    target = opened(kernel, clock)
    await target.replace(forwarding(web(1), node=NODE))
    told: list[str] = []

    async def listen() -> None:
        async for line in target.drift():
            told.append(line)

    async with asyncio.TaskGroup() as group:
        listening = group.create_task(listen())
        clock.now += 1
        await asyncio.sleep(0.5)
        assert told == []
        kernel.tables["ip6tables"]["nat"]["NETPLANE-SERVICES"].clear()
        clock.now += 1
        await until(lambda: bool(told))
        await asyncio.sleep(0.5)
        assert told == ["somebody changed ip6tables -t nat: NETPLANE-SERVICES"]
        listening.cancel()


async def test_a_change_that_only_a_deeper_look_shows_is_told() -> None:
    kernel, clock = Kernel(), Clock()
    target = opened(kernel, clock)
    await target.replace(forwarding(web(1), node=NODE))
    told = asyncio.create_task(first_drift(target))
    await until(lambda: clock.looks > 0)  # else there is nothing to compare with
    kernel.tables["iptables"]["nat"]["NETPLANE-SERVICES"].clear()
    clock.hidden += 1
    assert await asyncio.wait_for(told, 30) == "somebody changed iptables -t nat: NETPLANE-SERVICES"


class Counting(Kernel):
    """Counts how often it is listed."""

    listings = 0

    async def save(self, command: Command, prefix: str) -> dict[str, dict[str, Rules]]:
        self.listings += 1
        return await super().save(command, prefix)


async def test_what_was_found_to_differ_is_repaired_without_another_listing() -> None:
    kernel, clock = Counting(), Clock()
    target = opened(kernel, clock)
    wanted = forwarding(web(1), node=NODE)
    await target.replace(wanted)
    before, loads = await kernel.save("iptables", "NETPLANE-"), kernel.loads
    kernel.tables["iptables"]["nat"]["NETPLANE-SERVICES"].clear()
    clock.now += 1
    await asyncio.wait_for(first_drift(target), 15)
    listings = kernel.listings
    assert (await target.replace(wanted)).operations == 1
    assert (kernel.listings, kernel.loads) == (listings, loads + 1)
    assert await kernel.save("iptables", "NETPLANE-") == before
    assert (await target.replace(wanted)).operations == 0


async def test_what_was_found_to_differ_is_looked_at_again_when_something_else_is_wanted() -> None:
    kernel, clock = Kernel(), Clock()
    target = opened(kernel, clock)
    await target.replace(forwarding(web(1), node=NODE))
    kernel.tables["iptables"]["nat"]["NETPLANE-SERVICES"].clear()
    clock.now += 1
    await asyncio.wait_for(first_drift(target), 15)
    wanted = forwarding(web(2), node=NODE)
    await target.replace(wanted)
    twin = Kernel()
    await opened(twin).replace(wanted)
    assert kernel.tables == twin.tables


async def test_who_was_at_work_before_the_first_look_is_not_missed() -> None:
    kernel, clock = Kernel(), Clock()
    target = opened(kernel, clock)
    await target.replace(forwarding(web(1), node=NODE))
    kernel.tables["iptables"]["nat"]["NETPLANE-SERVICES"].clear()
    clock.is_in_use = True
    told = await asyncio.wait_for(first_drift(target), 15)
    assert told == "somebody changed iptables -t nat: NETPLANE-SERVICES"


async def test_node_ports_stand_at_loopback_only_where_something_brings_them_there() -> None:
    node = dataclasses.replace(NODE, nodeport_addresses=(*NODE.nodeport_addresses, *LOOPBACK.values()))
    ports = service_port(node_port(), cluster=[backend("10.244.2.1:80")], hairpin=[])
    without, beside = Kernel(), Kernel()
    await opened(without).replace(forwarding(ports, node=node))
    tables = nft.Kernel()
    target = IptablesTarget(beside, Clock(), variant="legacy", loopback=Localhost(tables))
    await target.replace(forwarding(ports, node=node))
    jump = "-d 127.0.0.1/32 -j NETPLANE-NODEPORTS"
    assert [jump in one.tables["iptables"]["nat"]["NETPLANE-SERVICES"] for one in (without, beside)] == [False, True]
    assert [str(one) for one in tables.tables()] == ["ip netplane_localhost", "ip6 netplane_localhost"]
    assert (await target.replace(forwarding(ports, node=node))).operations == 0
    assert target.account()["localhostNodePorts"] is True
    await target.cleanup()
    assert tables.tables() == []
