"""The nftables backend on a fake kernel: what it adopts, repairs and refuses."""

from __future__ import annotations

import dataclasses
import errno

import pytest

from netplane.kernel.errors import CommandFailed, KernelError
from netplane.kernel.nft.fake import Kernel
from netplane.kernel.nft.objects import Batch, Element
from netplane.model import address
from netplane.model.address import Family
from netplane_proxy.plan.forwarding import Backend, PortForwarding
from netplane_proxy.plan.nftables import rows
from netplane_proxy.plan.nftables.layout import LAYOUTS
from netplane_proxy.run.nftables import NftablesTarget
from tests.support.clusters import NODE
from tests.support.ports import cluster_ip, forwarding, node_port, service_port

V4 = Family.V4
SETS = LAYOUTS[V4]


def backends(*numbers: int) -> tuple[Backend, ...]:
    return tuple(Backend(bytes((10, 244, 1, number)), 8080) for number in sorted(numbers))


def web(*numbers: int, affinity: int = 0, name: str = "web", port: int = 80) -> PortForwarding:
    frontends = cluster_ip(V4, port=port), node_port(30000 + port)
    return service_port(*frontends, cluster=backends(*numbers), affinity=affinity, name=name, family=V4)


def opened(kernel: Kernel) -> NftablesTarget:
    return NftablesTarget(kernel, None, close=lambda: None)


async def test_a_new_node_gets_both_tables_and_a_second_look_finds_nothing_to_do() -> None:
    kernel = Kernel()
    target = opened(kernel)
    assert (await target.replace(forwarding(web(1, 2), node=NODE))).operations
    assert {str(table) for table in kernel.tables()} == {"ip netplane", "ip6 netplane"}
    before = kernel.generation()
    assert (await target.replace(forwarding(web(1, 2), node=NODE))).operations == 0
    assert kernel.generation() == before


async def test_another_process_adopts_the_order_and_the_numbers() -> None:
    kernel = Kernel()
    target = opened(kernel)
    await target.replace(forwarding(web(1, 2, 3), web(4, name="other", port=81), node=NODE))
    await target.commit({web().key: None}, "2")
    await target.commit({web().key: web(3, 5, 7)}, "3")
    await target.commit({web().key: web(2, 5)}, "4")
    before = kernel.generation()
    wanted = forwarding(web(2, 5), web(4, name="other", port=81), node=NODE)
    assert (await opened(kernel).replace(wanted)).operations == 0
    assert kernel.generation() == before


async def test_loading_leaves_what_refuses_others_to_the_last() -> None:
    kernel = Kernel()
    await opened(kernel).replace(forwarding(*(web(1, name=f"s{n}", port=n) for n in range(1, 1500)), node=NODE))
    touched = [{target.name for _, target, _ in batch.runs} for batch in kernel.commits]
    assert sum("frontends" in names for names in touched) > 1
    assert all(not names & {"cluster_ips", "service_cidrs"} for names in touched[:-1])
    assert touched[-1] == {"cluster_ips", "service_cidrs"}


async def test_all_that_one_service_port_needs_comes_in_one_transaction() -> None:
    kernel = Kernel()
    await opened(kernel).replace(forwarding(*(web(1, 2, 3, name=f"s{n}", port=n) for n in range(1, 1500)), node=NODE))
    for batch in kernel.commits:
        added = {target: elements for verb, target, elements in batch.runs if verb == "add"}
        ids = {element.key for element in added.get(SETS.lists, ())}
        assert {element.key[:4] for element in added.get(SETS.endpoints, ())} == ids
        assert len(added.get(SETS.frontends, ())) == len(ids)


async def test_a_refused_change_voids_what_is_known_until_the_next_comparison() -> None:
    kernel = Kernel()
    target = opened(kernel)
    await target.replace(forwarding(web(1), node=NODE))
    kernel.refuse_next = KernelError(errno.ENOMEM, "commit")
    with pytest.raises(KernelError, match="ENOMEM"):
        await target.commit({web().key: web(2)}, "2")
    with pytest.raises(KernelError, match="compare first"):
        await target.commit({web().key: web(2)}, "2")
    assert (await target.replace(forwarding(web(2), node=NODE))).operations == 4
    await target.commit({web().key: web(3)}, "3")


async def test_before_the_first_comparison_nothing_can_be_changed() -> None:
    with pytest.raises(KernelError, match="compare first"):
        await opened(Kernel()).commit({web().key: web(2)}, "2")


async def test_only_the_elements_that_differ_are_repaired() -> None:
    kernel = Kernel()
    target = opened(kernel)
    wanted = forwarding(web(1, 2, 3), node=NODE)
    await target.replace(wanted)
    (frontend,) = kernel.dump(SETS.frontends)
    batch = Batch()
    batch.remove(SETS.frontends, [frontend])
    batch.remove(SETS.endpoints, kernel.dump(SETS.endpoints)[1:2])
    batch.add(SETS.hairpin, [Element(bytes(8))])
    kernel.commit(batch)
    loads = len(kernel.loads)
    # The backends behind the gap are unknown to the list: one moves into it, and its old place is made anew.
    assert (await target.replace(wanted)).operations <= 5
    assert len(kernel.loads) == loads
    assert (await target.replace(wanted)).operations == 0


async def test_chains_that_somebody_changed_are_loaded_again_and_the_elements_stay() -> None:
    kernel = Kernel()
    target = opened(kernel)
    wanted = forwarding(web(1, 2, 3), node=NODE)
    await target.replace(wanted)
    await kernel.load("table ip netplane {\n\tchain services {\n\t\tdrop\n\t}\n}\n")
    before = kernel.dump(SETS.endpoints)
    commits = len(kernel.commits)
    await target.replace(wanted)
    assert kernel.dump(SETS.endpoints) == before
    assert "delete table" not in kernel.loads[-1]
    assert all(not {t.name for _, t, _ in batch.runs} - {"about"} for batch in kernel.commits[commits:])
    assert (await target.replace(wanted)).operations == 0


async def test_a_table_of_another_version_is_replaced_in_one_transaction_while_another_serves() -> None:
    kernel = Kernel()
    await kernel.load("table ip netplane {\n\tmap frontends { typeof ip daddr : meta mark; }\n}\n")
    await opened(kernel).replace(forwarding(web(1, 2), node=NODE))
    _, stand_in, emptied, text, *removed = kernel.loads
    assert "delete table ip netplane\n" in text
    assert 'comment "default/web:http"' in text
    assert "chain lb2 {" in text
    assert "delete table ip6" not in text
    assert stand_in.replace("netplane_next", "netplane") in text
    assert emptied == "flush table ip netplane\n"
    assert removed[0] == "flush table ip netplane_next\n"
    assert SETS.table in kernel.tables()
    assert len(kernel.tables()) == 2


async def test_a_new_affinity_time_brings_its_chains() -> None:
    kernel = Kernel()
    target = opened(kernel)
    await target.replace(forwarding(web(1), node=NODE))
    assert "remember1_600s" not in kernel.chains(SETS.table)
    await target.commit({web().key: web(1, affinity=600)}, "2")
    assert "remember1_600s" in kernel.chains(SETS.table)
    assert len(kernel.dump(SETS.remember)) == 4
    assert (await target.replace(forwarding(web(1, affinity=600), node=NODE))).operations == 0


async def test_clients_are_freed_from_backends_that_are_gone() -> None:
    kernel = Kernel()
    target = opened(kernel)
    await target.replace(forwarding(web(1, 2, affinity=600), node=NODE))
    (affinity,) = SETS.affinity
    list_id = next(iter(kernel.dump(SETS.lists))).key
    for client, number in ((1, 1), (2, 2), (3, 2)):
        slot = rows.slot(backends(number)[0])
        kernel.add_by_packet(affinity, Element(bytes((192, 0, 2, client)) + list_id, slot))
    await target.commit({web().key: web(1, 3, affinity=600)}, "2")
    assert [element.key[:4] for element in kernel.dump(affinity)] == [bytes((192, 0, 2, 1))]
    await target.commit({web().key: web(1, 3)}, "3")
    assert kernel.dump(affinity) == []


async def test_other_node_facts_change_rules_only_where_these_say_so() -> None:
    kernel = Kernel()
    target = opened(kernel)
    await target.replace(forwarding(web(1), node=NODE))
    loads = len(kernel.loads)
    node = dataclasses.replace(NODE, nodeport_addresses=(address.parse("172.30.0.99"),))
    assert (await target.replace(forwarding(web(1), node=node))).operations == 3  # Two addresses go, one comes.
    assert len(kernel.loads) == loads
    assert (await target.replace(forwarding(web(1), node=node))).operations == 0
    await target.replace(forwarding(web(1), node=dataclasses.replace(node, masquerade_bit=3)))
    assert len(kernel.loads) == loads + 1


async def test_cleaning_up_removes_both_tables_and_finds_nothing_the_next_time() -> None:
    kernel = Kernel()
    target = opened(kernel)
    await target.replace(forwarding(web(1), node=NODE))
    await target.cleanup()
    assert kernel.tables() == []
    loads = len(kernel.loads)
    await target.cleanup()
    assert len(kernel.loads) == loads


async def test_the_fake_refuses_text_it_does_not_know() -> None:
    with pytest.raises(CommandFailed, match="syntax error"):
        await Kernel().load("frobnicate ruleset\n")
