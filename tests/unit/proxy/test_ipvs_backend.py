"""The IPVS backend on fakes of the kernel: what it asks for, adopts, drains and leaves alone."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
from hypothesis import given, settings

from netplane.kernel.errors import KernelError
from netplane.kernel.ipvs import fake as ipvs
from netplane.kernel.ipvs.objects import Change, Destination, Load, Scheduling, Virtual
from netplane.kernel.link import fake as link
from netplane.kernel.nft import fake as nft
from netplane.kernel.nft.objects import Element, Set
from netplane.model import address
from netplane.model.address import Family
from netplane.model.service import Protocol
from netplane.model.snapshot import Snapshot
from netplane_proxy.plan import ledger
from netplane_proxy.plan.forwarding import Backend, PortForwarding
from netplane_proxy.plan.host import LOOPBACK
from netplane_proxy.plan.ipvs.tables import LAYOUTS
from netplane_proxy.plan.meaning import Meaning
from netplane_proxy.run.ipvs.host import LINK, SYSCTLS, Host
from netplane_proxy.run.ipvs.target import IpvsTarget, Parts
from tests.support.clusters import NODE
from tests.support.ports import TCP, UDP, balancer, cluster_ip, forwarding, node_port, service_port
from tests.support.random_clusters import snapshots

V4 = Family.V4
SETS = LAYOUTS[V4]
WEB = Virtual(2, 6, address.parse("10.96.0.1"), 80)
NODEPORT = Virtual(2, 6, address.parse("172.30.0.11"), 30080)


class Parameters:
    """Kernel parameters in memory."""

    def __init__(self) -> None:
        self.values = dict.fromkeys(SYSCTLS, "0")

    def read(self, name: str) -> str:
        return self.values[name]

    def ensure(self, name: str, value: str | int) -> bool:
        is_new = self.values[name] != str(value)
        self.values[name] = str(value)
        return is_new


class Machine:
    """A kernel in memory, and targets on it."""

    def __init__(self) -> None:
        self.ipvs, self.nft, self.links, self.parameters = ipvs.Kernel(), nft.Kernel(), link.Fake(), Parameters()

    def target(self, scheduler: str = "rr") -> IpvsTarget:
        return IpvsTarget(Parts(self.ipvs, self.nft, Host(self.links, self.parameters)), scheduler=scheduler)

    def addresses(self) -> set[str]:
        found = self.links.link(LINK)
        return {address.text(one.address) for one in self.links.addresses(found.index)} if found else set()

    def elements(self, target: Set) -> dict[bytes, Element]:
        return {element.key: element for element in self.nft.dump(target)}


async def first_drift(target: IpvsTarget) -> str:
    return await anext(aiter(target.drift()))


def backend(number: int) -> Backend:
    return Backend(bytes((10, 244, 1, number)), 8080)


def web(*numbers: int, affinity: int = 0, protocol: Protocol = TCP, local: tuple[int, ...] = ()) -> PortForwarding:
    frontends = cluster_ip(V4, protocol=protocol), node_port(protocol=protocol, local=bool(local))
    cluster = [backend(number) for number in numbers]
    return service_port(
        *frontends, cluster=cluster, local=[backend(number) for number in local], affinity=affinity, family=V4
    )


def destination(number: int) -> Destination:
    return Destination(*backend(number))


async def test_every_frontend_is_a_virtual_server_and_its_address_stands_on_the_link() -> None:
    machine = Machine()
    await machine.target("wlc").replace(forwarding(web(1, 2, affinity=60), node=NODE))
    found = machine.ipvs.servers()
    assert set(found) == {WEB, NODEPORT}
    assert found[WEB].scheduling == Scheduling("wlc", 0, 60)
    assert found[WEB].loads == {destination(1): Load(1), destination(2): Load(1)}
    assert machine.addresses() == {"10.96.0.1"}
    assert machine.parameters.values == {name: str(value) for name, value in SYSCTLS.items()}


async def test_a_second_look_finds_nothing_to_do_nor_does_another_process() -> None:
    machine = Machine()
    wanted = forwarding(web(1, 2, local=(1,)), node=NODE)
    target = machine.target()
    assert (await target.replace(wanted)).operations
    assert (await target.replace(wanted)).operations == 0
    assert (await machine.target().replace(wanted)).operations == 0


async def test_node_ports_stand_at_loopback_for_as_long_as_they_are_wanted_there() -> None:
    machine = Machine()
    looped = dataclasses.replace(NODE, nodeport_addresses=(*NODE.nodeport_addresses, *LOOPBACK.values()))
    target = machine.target()

    def chains() -> int:
        return sum(name.startswith(("from_", "to_")) for name in machine.nft.chains(SETS.table))

    await target.replace(forwarding(web(1), node=looped))
    assert set(machine.ipvs.servers()) == {WEB, NODEPORT, NODEPORT._replace(address=LOOPBACK[V4])}
    assert machine.addresses() == {"10.96.0.1"}  # the loopback address has a link of its own
    assert (chains(), len(machine.elements(SETS.nodeports))) == (2, 1)
    assert (await machine.target().replace(forwarding(web(1), node=looped))).operations == 0
    await target.commit({web().key: None}, "2")
    assert machine.elements(SETS.nodeports) == {}
    await target.replace(forwarding(web(1), node=NODE))
    assert set(machine.ipvs.servers()) == {WEB, NODEPORT}
    assert (chains(), machine.elements(SETS.nodeports)) == (0, {})


async def test_where_the_client_decides_a_server_by_mark_has_all_backends() -> None:
    machine = Machine()
    await machine.target().replace(forwarding(web(1, 2, local=(1,)), node=NODE))
    found = machine.ipvs.servers()
    (marked,) = (one for one in found if one.mark)
    assert set(found[marked].loads) == {destination(1), destination(2)}
    assert set(found[NODEPORT].loads) == {destination(1)}
    assert [str(one.data) for one in machine.elements(SETS.frontends).values()] == ["goto serve", "goto split"]


async def test_marks_survive_a_restart_whatever_comes_before_them() -> None:
    machine = Machine()
    other = service_port(balancer(V4, local=True), cluster=[backend(3)], local=[backend(3)], name="later")
    await machine.target().replace(forwarding(other, node=NODE))
    before = machine.elements(SETS.marks)
    await machine.target().replace(forwarding(web(1, 2, local=(1,)), other, node=NODE))
    after = machine.elements(SETS.marks)
    assert before.items() <= after.items()
    assert len({element.data for element in after.values()}) == 2


async def test_a_change_of_endpoints_touches_destinations_alone() -> None:
    machine = Machine()
    target = machine.target()
    await target.replace(forwarding(web(1, 2), node=NODE))
    generation, before = machine.nft.generation(), len(machine.ipvs.commits)
    await target.commit({web().key: web(2, 3)}, "2")
    changes = [change for commit in machine.ipvs.commits[before:] for change in commit]
    assert {(change.verb, change.destination) for change in changes} == {
        ("add", destination(3)),
        ("set", destination(1)),
    }
    # Who may come to itself stands in the table.
    assert machine.nft.generation() == generation + 1


async def test_a_deleted_service_keeps_what_its_connections_need_and_a_restart_knows() -> None:
    machine = Machine()
    target = machine.target()
    await target.replace(forwarding(web(1), node=NODE))
    machine.ipvs.connect(WEB, destination(1), 1)
    await target.commit({web().key: None}, "2")
    assert machine.ipvs.servers()[WEB].loads == {destination(1): Load(0, 1)}
    assert machine.addresses() == {"10.96.0.1"}
    assert machine.elements(SETS.frontends) == {}
    restarted = machine.target()
    await restarted.replace(forwarding(node=NODE))
    assert set(machine.ipvs.servers()) == {WEB}
    machine.ipvs.connect(WEB, destination(1), 0)
    await restarted.replace(forwarding(node=NODE))
    assert (machine.ipvs.servers(), machine.addresses(), machine.elements(SETS.owned)) == ({}, set(), {})


async def test_udp_destinations_go_at_once() -> None:
    machine = Machine()
    target = machine.target()
    await target.replace(forwarding(web(1, 2, protocol=UDP), node=NODE))
    await target.commit({web(protocol=UDP).key: web(2, protocol=UDP)}, "2")
    assert all(set(held.loads) == {destination(2)} for held in machine.ipvs.servers().values())


async def test_a_service_without_endpoints_is_refused_by_the_table() -> None:
    machine = Machine()
    await machine.target().replace(forwarding(web(), node=NODE))
    assert machine.ipvs.servers() == {}
    assert machine.addresses() == {"10.96.0.1"}
    assert {str(one.data) for one in machine.elements(SETS.frontends).values()} == {"goto refuse"}


async def test_servers_of_somebody_else_are_left_alone_and_cleanup_removes_all_others() -> None:
    machine = Machine()
    foreign = Virtual(2, 6, address.parse("192.0.2.77"), 99)
    machine.ipvs.commit([Change("add", foreign)])
    target = machine.target()
    await target.replace(forwarding(web(1, local=(1,)), node=NODE))
    await target.cleanup()
    await target.cleanup()
    assert set(machine.ipvs.servers()) == {foreign}
    assert (machine.nft.tables(), machine.links.link(LINK)) == ([], None)
    assert set(machine.parameters.values.values()) == {"0"}


async def test_after_a_refusal_only_a_comparison_helps() -> None:
    machine = Machine()
    target = machine.target()
    await target.replace(forwarding(web(1), node=NODE))
    machine.ipvs.commit([Change("remove", WEB)])
    with pytest.raises(KernelError, match="ESRCH"):
        await target.commit({web().key: web(1, 2)}, "2")
    with pytest.raises(KernelError, match="compare first"):
        await target.commit({web().key: web(1, 2)}, "2")
    await target.replace(forwarding(web(1, 2), node=NODE))
    assert set(machine.ipvs.servers()[WEB].loads) == {destination(1), destination(2)}


@settings(max_examples=40, deadline=None)
@given(snapshots(), snapshots())
async def test_any_steps_end_where_one_comparison_ends(before: Snapshot, after: Snapshot) -> None:
    machine, direct = Machine(), Machine()
    meaning = Meaning(NODE)
    target = machine.target()
    await target.replace(meaning.forwarding("0"))
    for snapshot in (before, after):
        for key in sorted({*meaning.services, *snapshot.services}):
            meaning.take_service(key, snapshot.services.get(key))
            await target.commit({port: step.now for port, step in meaning.settle().items()}, "1")
        for key in [("default", f"s{index}") for index in range(6)]:
            meaning.take_slice(key, snapshot.slices.get(key))
            await target.commit({port: step.now for port, step in meaning.settle().items()}, "1")
    wanted = ledger.of_snapshot(after, NODE)
    await target.replace(wanted)
    assert (await target.replace(wanted)).operations == 0
    await direct.target().replace(wanted)
    assert machine.addresses() == direct.addresses()
    for sets in LAYOUTS.values():
        for one in sets.compiled:
            assert set(machine.elements(one)) == set(direct.elements(one)), one
    unmarked = [{one for one in found.ipvs.servers() if not one.mark} for found in (machine, direct)]
    assert unmarked[0] == unmarked[1]


async def test_a_mode_that_retires_lets_connections_end_first() -> None:
    machine = Machine()
    target = machine.target()
    await target.replace(forwarding(web(1), node=NODE))
    machine.ipvs.connect(WEB, destination(1), 1)
    await target.empty(limit=0.01)
    await target.cleanup()
    assert Change("set", WEB, destination(1), 0) in [change for commit in machine.ipvs.commits for change in commit]
    assert (machine.ipvs.servers(), machine.nft.tables(), machine.links.link(LINK)) == ({}, [], None)


async def test_a_flush_is_noticed_while_destinations_wait_for_their_connections() -> None:
    machine = Machine()
    target = machine.target()
    await target.replace(forwarding(web(1, 2), node=NODE))
    await target.commit({web().key: web(2)}, "2")
    machine.ipvs.commit([Change("remove", WEB), Change("remove", NODEPORT)])
    assert await anext(aiter(target.drift())) == "somebody changed virtual server tcp 10.96.0.1:80"


async def test_one_weight_among_all_servers_is_noticed_and_connections_are_no_change() -> None:
    machine = Machine()
    target = machine.target()
    await target.replace(forwarding(web(1, 2), node=NODE))
    heard = asyncio.create_task(first_drift(target))
    await asyncio.sleep(0.7)
    machine.ipvs.connect(NODEPORT, destination(1), 5)
    done, _ = await asyncio.wait([heard], timeout=0.7)
    assert not done
    machine.ipvs.commit([Change("set", NODEPORT, destination(1), 3)])
    assert await asyncio.wait_for(heard, 20) == "somebody changed virtual server tcp 172.30.0.11:30080"


async def test_a_local_frontend_that_stands_nowhere_takes_no_mark() -> None:
    machine = Machine()
    nowhere = dataclasses.replace(NODE, nodeport_addresses=())
    first, second = web(1, local=(1,)), service_port(balancer(V4, local=True), cluster=[backend(3)], name="later")
    target = machine.target()
    await target.replace(forwarding(first, second, node=nowhere))
    assert len([one for one in machine.ipvs.servers() if one.mark]) == 1
    assert (await target.replace(forwarding(first, second, node=nowhere))).operations == 0
