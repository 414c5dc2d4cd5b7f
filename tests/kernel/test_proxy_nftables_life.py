"""The nftables backend through its life: changes under load, restarts, foreign hands, replacement of its own tables."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterator

import pytest

from netplane.kernel import netns
from netplane.kernel.errors import KernelError
from netplane.kernel.nft.objects import Batch
from netplane.kernel.nft.run import Socket
from netplane.model import address
from netplane.model.address import Family
from netplane_proxy.plan.forwarding import PortForwarding
from netplane_proxy.plan.nftables.layout import LAYOUTS
from netplane_proxy.run.nftables import NftablesTarget
from tests.support.ports import UDP, balancer, cluster_ip, forwarding, node_port, service_port, vip
from tests.support.topology import FACTS, NODE, POD1, POD2, Load, Topology, backend, topology

V4, V6 = Family.V4, Family.V6
WEB = vip(V4), 80


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    with topology(tmp_path_factory.mktemp("life")) as made:
        made.ensure_ports("pod1", range(20000, 20100))
        yield made


@pytest.fixture
def target(lab: Topology) -> Iterator[NftablesTarget]:
    """A backend, started on a node without a trace of a former one."""
    with contextlib.closing(lab.target()) as opened:
        asyncio.run(opened.cleanup())
        yield opened


@pytest.fixture
def kernel(lab: Topology) -> Iterator[Socket]:
    """The node's nf_tables, as somebody else sees it."""
    with contextlib.closing(netns.run_in(lab.places["node"], Socket)) as opened:
        yield opened


def web(family: Family = V4, *where: dict[Family, str], affinity: int = 0, name: str = "web") -> PortForwarding:
    """A Service port at the first cluster IP."""
    pods = where or (POD1, POD2)
    return service_port(
        cluster_ip(family), cluster=[backend(one, family) for one in pods], affinity=affinity, name=name
    )


def every_shape() -> list[PortForwarding]:
    """Service ports that between them use every set, map and chain, in both families."""
    ports = []
    for family in Family:
        both = [backend(POD1, family), backend(POD2, family)]
        allowed = [f"{NODE[family]}/{family.bits}", "10.0.0.0/8" if family is V4 else "fd00:99::/64"]
        ports += [
            web(family),
            service_port(
                cluster_ip(family, protocol=UDP), node_port(protocol=UDP), cluster=both, name="dns", affinity=30
            ),
            service_port(
                cluster_ip(family, 2),
                node_port(30082, local=True),
                balancer(family, 2, local=True, ranges=allowed),
                cluster=both,
                local=both[:1],
                affinity=10800,
                name="all",
            ),
            service_port(cluster_ip(family, 3, local=True), cluster=both, name="none-here"),
            service_port(cluster_ip(family, 4), balancer(family, 4, ranges=allowed[:1]), name="none"),
            service_port(
                cluster_ip(family, 5), cluster=[backend(POD1, family, 1000 + n) for n in range(50)], name="many"
            ),
        ]
    return ports


async def first_drift(target: NftablesTarget) -> str:
    async for line in target.drift():
        return line
    raise AssertionError("deaf")


async def test_endpoints_swapped_under_load_lose_no_connection(lab: Topology, target: NftablesTarget) -> None:
    await target.replace(forwarding(web(), node=FACTS))
    ways = [web(V4, POD1), web(V4, POD2), web(V4, POD2, NODE), web(V4, NODE, POD1, POD2), web(V4, POD1, NODE)]
    with Load(lab, "client", WEB) as load:
        for turn in range(2000):
            port = ways[turn % len(ways)]
            await target.commit({port.key: port}, str(turn))
            if turn % 100 == 0:
                await asyncio.to_thread(load.until, 20)
    assert load.failures == []
    assert set(load.answers) == {"pod1", "pod2", "node"}


async def test_a_restart_changes_nothing_when_nothing_changed(
    lab: Topology, target: NftablesTarget, kernel: Socket
) -> None:
    wanted = forwarding(*every_shape(), node=FACTS)
    await target.replace(wanted)
    # History that a new process cannot know: endpoints out of order, ids out of order.
    await target.commit({web().key: web(V4, POD2, NODE)}, "2")
    await target.commit({web().key: None}, "3")
    await target.commit({web().key: web(V4, POD1, POD2, NODE)}, "4")
    await target.commit({web().key: web(V4, POD2, NODE)}, "5")
    changed = dict(wanted.ports) | {web().key: web(V4, POD2, NODE)}
    before = kernel.generation()
    with contextlib.closing(lab.target()) as other:
        result = await other.replace(forwarding(*changed.values(), node=FACTS))
        assert result.operations == 0
        assert kernel.generation() == before
        # And it knows enough to go on.
        await other.commit({web().key: web(V4, POD1)}, "6")
        assert kernel.generation() == before + 1
        assert {lab.ask("client", WEB).name for _ in range(5)} == {"pod1"}


async def test_what_changed_while_nobody_was_here_is_all_that_a_restart_changes(
    lab: Topology, target: NftablesTarget
) -> None:
    await target.replace(forwarding(*every_shape(), node=FACTS))
    ports = {port.key: port for port in every_shape()}
    ports[web().key] = web(V4, POD1, NODE)
    with contextlib.closing(lab.target()) as other:
        result = await other.replace(forwarding(*ports.values(), node=FACTS))
        assert result.operations == 4  # One backend out, one in, who may be its own client, and is no pod.
        assert {lab.ask("client", WEB).name for _ in range(20)} == {"pod1", "node"}


@pytest.mark.parametrize(
    "hands",
    [
        "flush ruleset",
        "delete table ip netplane",
        "flush chain ip netplane services",
        "flush chain ip netplane lb2",
        "flush map ip netplane frontends",
        "flush map ip netplane lists",
        "flush map ip netplane balance",
        "delete element ip netplane pod_cidrs { 10.244.0.0/16 }",
        "add element ip netplane hairpin { 1.2.3.4 . 1.2.3.4 }",
        "add chain ip netplane unknown { type filter hook input priority 0; }",
        "add rule ip netplane services drop",
    ],
)
async def test_what_others_change_is_noticed_and_repaired(
    lab: Topology, target: NftablesTarget, kernel: Socket, hands: str
) -> None:
    wanted = forwarding(*every_shape(), node=FACTS)
    await target.replace(wanted)
    before = lab.run("node", "nft", "list", "ruleset")
    noticed = asyncio.create_task(first_drift(target))
    await asyncio.sleep(0)
    await asyncio.to_thread(lab.run, "node", "nft", "-f", "-", feed=f"{hands}\n")
    line = await asyncio.wait_for(noticed, 30)
    assert "(nft)" in line
    assert "netplane" in line
    assert (await target.replace(wanted)).operations
    if "frontends" not in hands:  # They hold the names by which the numbers are known.
        assert sorted_lines(lab.run("node", "nft", "list", "ruleset")) == sorted_lines(before)
    assert {lab.ask("client", WEB).name for _ in range(20)} == {"pod1", "pod2"}
    assert (await target.replace(wanted)).operations == 0


def sorted_lines(listing: str) -> list[str]:
    """The listing without the order of elements, and without the hash that a reload may change."""
    words = listing.replace("elements = {", "").replace(",", "").replace("}", "")
    return sorted(line.strip() for line in words.splitlines() if line.strip() and "frame=" not in line)


async def test_our_own_changes_are_no_drift(lab: Topology, target: NftablesTarget) -> None:
    await target.replace(forwarding(web(), node=FACTS))
    heard = asyncio.create_task(first_drift(target))
    await asyncio.sleep(0)
    await target.commit({web().key: web(V4, POD1)}, "2")
    await target.commit({web().key: web(V4, POD1, affinity=77)}, "3")
    await target.replace(forwarding(*every_shape(), node=FACTS))
    lab.run("node", "nft", "add", "table", "ip", "somebody_elses")
    done, _ = await asyncio.wait([heard], timeout=0.2)
    lab.run("node", "nft", "delete", "table", "ip", "somebody_elses")
    heard.cancel()
    assert not done


async def test_a_table_of_another_version_is_replaced_without_a_gap(
    lab: Topology, target: NftablesTarget, kernel: Socket
) -> None:
    wanted = forwarding(*every_shape(), node=FACTS)
    await target.replace(wanted)
    with Load(lab, "client", WEB) as load:
        for _ in range(3):
            for sets in LAYOUTS.values():
                batch = Batch()
                batch.remove(sets.about, kernel.dump(sets.about))
                kernel.commit(batch)
            await target.replace(wanted)
            await asyncio.to_thread(load.until, 30)
    assert load.failures == []
    assert (await target.replace(wanted)).operations == 0
    assert [str(table) for table in kernel.tables()] == ["ip netplane", "ip6 netplane"]


async def test_rules_are_replaced_without_a_gap(lab: Topology, target: NftablesTarget) -> None:
    wanted = forwarding(*every_shape(), node=FACTS)
    await target.replace(wanted)
    with Load(lab, "client", WEB) as load:
        for bit in (3, 15, 14, 20):
            facts = dataclasses.replace(FACTS, masquerade_bit=bit, masquerade_all=bool(bit & 1))
            await target.replace(forwarding(*every_shape(), node=facts))
            await asyncio.to_thread(load.until, 30)
    assert load.failures == []
    facts = dataclasses.replace(FACTS, masquerade_bit=20)
    assert (await target.replace(forwarding(*every_shape(), node=facts))).operations == 0
    assert "0x00100000" in lab.run("node", "nft", "list", "ruleset")


async def test_other_facts_of_the_node_are_taken_in_place(lab: Topology, target: NftablesTarget) -> None:
    await target.replace(forwarding(*every_shape(), node=FACTS))
    facts = dataclasses.replace(
        FACTS,
        nodeport_addresses=(address.parse("172.30.0.12"),),
        pod_cidrs=tuple(map(address.prefix, ("10.244.0.0/24", "10.244.1.0/24", "10.244.8.0/21", "fd00:244::/50"))),
        service_cidrs=(address.prefix("10.96.0.0/12"), address.prefix("0.0.0.0/0")),
    )
    for one in (facts, FACTS):
        assert (await target.replace(forwarding(*every_shape(), node=one))).operations
        assert (await target.replace(forwarding(*every_shape(), node=one))).operations == 0


async def test_services_that_were_there_answer_while_thousands_are_loaded(
    lab: Topology, target: NftablesTarget
) -> None:
    await target.replace(forwarding(web(), node=FACTS))
    one = [backend(POD1, V4)]
    more = [service_port(cluster_ip(V4, 2, port=1000 + n), cluster=one, name=f"s{n:05}") for n in range(6000)]
    with contextlib.closing(lab.target()) as other, Load(lab, "client", WEB) as load:
        for ports in ([web(), *more], [web()], [web(V4, NODE), *more], [web()]):
            await other.replace(forwarding(*ports, node=FACTS))
            await asyncio.to_thread(load.until, 20)
    assert load.failures == []


async def test_the_listing_of_every_shape_loads_again(lab: Topology, target: NftablesTarget) -> None:
    await target.replace(forwarding(*every_shape(), node=FACTS))
    for family in Family:
        for where in ((vip(family, 2), 80), (NODE[family], 30082)):
            lab.ask("client", where)
    listing = lab.run("node", "nft", "list", "ruleset")
    assert 'comment "default/all:http"' in listing
    lab.run("client", "nft", "-f", "-", feed=listing)
    again = lab.run("client", "nft", "list", "ruleset")
    lab.run("client", "nft", "flush", "ruleset")
    assert without_expiry(again) == without_expiry(listing)


def without_expiry(listing: str) -> list[str]:
    return sorted(line.split(" expires ")[0].strip() for line in listing.splitlines() if "frame=" not in line)


async def test_a_refused_change_changes_nothing_and_a_comparison_mends(lab: Topology, target: NftablesTarget) -> None:
    wanted = forwarding(web(), node=FACTS)
    await target.replace(wanted)
    lab.run("node", "nft", "flush", "map", "ip", "netplane", "endpoints")
    with pytest.raises(KernelError, match=r"delete element ip netplane endpoints .* ENOENT"):
        await target.commit({web().key: web(V4, NODE)}, "2")
    with pytest.raises(KernelError, match="compare first"):
        await target.commit({web().key: web(V4, NODE)}, "2")
    await target.replace(forwarding(web(V4, NODE), node=FACTS))
    assert lab.ask("client", WEB).name == "node"


async def test_cleaning_up_leaves_no_trace(lab: Topology, target: NftablesTarget) -> None:
    lab.run("node", "nft", "add", "table", "ip", "somebody_elses")
    await target.replace(forwarding(*every_shape(), node=FACTS))
    await target.cleanup()
    await target.cleanup()
    assert lab.run("node", "nft", "list", "ruleset").split() == ["table", "ip", "somebody_elses", "{", "}"]
    lab.run("node", "nft", "delete", "table", "ip", "somebody_elses")


async def test_affinity_of_gone_backends_is_forgotten_at_a_restart_too(
    lab: Topology, target: NftablesTarget, kernel: Socket
) -> None:
    for family in Family:
        sticky = web(family, POD1, affinity=600)
        await target.replace(forwarding(sticky, node=FACTS))
        assert lab.ask("client", (vip(family), 80)).name == "pod1"
        assert len(kernel.dump(LAYOUTS[family].affinity[0])) == 1
        with contextlib.closing(lab.target()) as other:
            await other.replace(forwarding(web(family, POD2, affinity=600), node=FACTS))
            assert kernel.dump(LAYOUTS[family].affinity[0]) == []
            assert lab.ask("client", (vip(family), 80)).name == "pod2"
