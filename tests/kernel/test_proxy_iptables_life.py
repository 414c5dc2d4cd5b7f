"""The iptables backend through its life: changes under load, restarts, foreign hands, the lock, its end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import os
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from netplane.kernel import netns
from netplane.kernel.errors import KernelError
from netplane.kernel.xtables import lock, run
from netplane.kernel.xtables.objects import Variant
from netplane.kernel.xtables.walk import Walker
from netplane.lib import metrics
from netplane.model import address
from netplane.model.address import Family
from netplane.model.service import Protocol
from netplane_proxy.plan.forwarding import PortForwarding
from netplane_proxy.plan.iptables import layout
from netplane_proxy.run import backends, iptables
from netplane_proxy.run.iptables import IptablesTarget
from tests.kernel import test_proxy_stray_packets as stray_packets
from tests.support.ports import TCP, UDP, balancer, cluster_ip, forwarding, node_port, service_port, vip
from tests.support.topology import FACTS, NODE, POD1, POD2, Answer, Load, Topology, backend, topology

V4 = Family.V4
WEB = vip(V4), 80


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    with topology(tmp_path_factory.mktemp("iptables")) as made:
        yield made


@pytest.fixture(params=["legacy", "nft"])
def target(lab: Topology, request: pytest.FixtureRequest) -> Iterator[IptablesTarget]:
    """A backend, started on a node without a trace of a former one."""
    clean(lab)
    with contextlib.closing(opened(lab, request.param)) as made:
        yield made


def clean(lab: Topology) -> None:
    netns.run_in(lab.places["node"], lambda: asyncio.run(iptables.cleanup()))


def opened(lab: Topology, variant: Variant | None = None) -> IptablesTarget:
    return netns.run_in(lab.places["node"], lambda: iptables.open_target(variant))


def tool(target: IptablesTarget, name: str) -> str:
    return name.replace("tables", f"tables-{target.variant}", 1)


def listing(lab: Topology, target: IptablesTarget) -> str:
    saved = [lab.run("node", tool(target, f"{name}-save")) for name in ("iptables", "ip6tables")]
    return "\n".join(line.partition(" [")[0] for line in "".join(saved).splitlines() if not line.startswith("#"))


def counted(name: str, **labels: str) -> float:
    """What a metric shows."""
    return metrics.REGISTRY.get_sample_value(name, labels) or 0.0


def web(family: Family = V4, *where: dict[Family, str], affinity: int = 0) -> PortForwarding:
    """A Service port at the first cluster IP."""
    pods = where or (POD1, POD2)
    return service_port(cluster_ip(family), cluster=[backend(one, family) for one in pods], affinity=affinity)


def every_shape() -> list[PortForwarding]:
    """Service ports that between them use every chain and match, in both families."""
    ports = []
    for family in Family:
        both = [backend(POD1, family), backend(POD2, family)]
        allowed = [f"{NODE[family]}/{family.bits}", "10.0.0.0/8" if family is V4 else "fd00:99::/64"]
        dns = cluster_ip(family, protocol=UDP), node_port(protocol=UDP)
        every = cluster_ip(family, 2), node_port(30082, local=True), balancer(family, 2, local=True, ranges=allowed)
        ports += [
            web(family),
            service_port(*dns, cluster=both, name="dns", affinity=30),
            service_port(*every, cluster=both, local=both[:1], affinity=10800, name="all"),
            service_port(cluster_ip(family, 3, local=True), cluster=both, name="none-here"),
            service_port(cluster_ip(family, 4), balancer(family, 4, ranges=allowed[:1]), node_port(30084), name="none"),
        ]
    return ports


async def first_drift(target: IptablesTarget) -> str:
    async for line in target.drift():
        return line
    raise AssertionError("deaf")


async def until(is_so: Callable[[], bool]) -> None:
    for _ in range(600):
        if is_so():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("not in half a minute")


async def test_endpoints_swapped_under_load_by_iptables_lose_no_connection(
    lab: Topology, target: IptablesTarget
) -> None:
    await target.replace(forwarding(web(), node=FACTS))
    ways = [web(V4, POD1), web(V4, POD2), web(V4, POD2, NODE), web(V4, NODE, POD1, POD2), web(V4, POD1, NODE)]
    with Load(lab, "client", WEB) as load:
        for turn in range(60):
            port = ways[turn % len(ways)]
            await target.commit({port.key: port}, str(turn))
        await asyncio.to_thread(load.until, 20)
    assert load.failures == []
    assert set(load.answers) == {"pod1", "pod2", "node"}


async def test_a_restart_on_iptables_changes_nothing_when_nothing_changed(
    lab: Topology, target: IptablesTarget
) -> None:
    wanted = forwarding(*every_shape(), node=FACTS)
    await target.replace(wanted)
    await target.commit({web().key: web(V4, POD2, NODE)}, "2")
    await target.commit({web().key: web(V4, POD1, POD2)}, "3")
    before = listing(lab, target)
    assert (await target.replace(wanted)).operations == 0
    with contextlib.closing(opened(lab)) as other:
        assert other.variant == target.variant  # It finds out where its predecessor worked.
        assert (await other.replace(wanted)).operations == 0
        assert listing(lab, target) == before
        # And it knows enough to go on.
        await other.commit({web().key: web(V4, POD1)}, "4")
        assert {lab.ask("client", WEB).name for _ in range(5)} == {"pod1"}


@pytest.mark.parametrize(
    "hands",
    [
        "{iptables} -t nat -F",
        "{iptables} -F",
        "{iptables} -t nat -F NETPLANE-SERVICES",
        "{iptables} -t nat -D PREROUTING -j NETPLANE-SERVICES",
        "{ip6tables} -t nat -I NETPLANE-SERVICES -j RETURN",
        "{iptables} -t filter -N NETPLANE-UNKNOWN",
    ],
)
async def test_what_others_change_in_iptables_is_noticed_and_repaired(
    lab: Topology, target: IptablesTarget, hands: str
) -> None:
    wanted = forwarding(*every_shape(), node=FACTS)
    await target.replace(wanted)
    before = listing(lab, target)
    noticed = asyncio.create_task(first_drift(target))
    await asyncio.sleep(0)
    tools = {name: tool(target, name) for name in ("iptables", "ip6tables")}
    await asyncio.to_thread(lab.run, "node", *hands.format(**tools).split())
    line = await asyncio.wait_for(noticed, 30)
    assert "NETPLANE-" in line or "PREROUTING" in line, line
    assert (await target.replace(wanted)).operations
    assert listing(lab, target) == before
    assert {lab.ask("client", WEB).name for _ in range(20)} == {"pod1", "pod2"}


async def test_a_rule_exchanged_for_another_of_its_size_is_noticed(lab: Topology, target: IptablesTarget) -> None:
    await target.replace(forwarding(web(V4, POD1), node=FACTS))
    rules = [line.split() for line in listing(lab, target).splitlines() if line.startswith("-A NETPLANE-I")]
    ((_, chain, *words),) = [rule for rule in rules if "DNAT" in rule]
    noticed = asyncio.create_task(first_drift(target))
    await until(lambda: target.variant == "nft" or target._hashes is not None)  # else there is nothing to compare with
    words[-1] = f"{POD2[V4]}:8080"
    await asyncio.to_thread(lab.run, "node", tool(target, "iptables"), "-t", "nat", "-R", chain, "1", *words)
    assert chain in await asyncio.wait_for(noticed, 30)
    assert (await target.replace(forwarding(web(V4, POD1), node=FACTS))).operations == 1
    assert {lab.ask("client", WEB).name for _ in range(5)} == {"pod1"}


async def test_a_rule_exchanged_before_the_first_look_after_a_change_is_noticed(lab: Topology) -> None:
    clean(lab)
    with contextlib.closing(opened(lab, "legacy")) as target:
        await target.replace(forwarding(web(V4, POD1), node=FACTS))
        rules = [line.split() for line in listing(lab, target).splitlines() if line.startswith("-A NETPLANE-I")]
        ((_, chain, *words),) = [rule for rule in rules if "DNAT" in rule]
        words[-1] = f"{POD2[V4]}:8080"
        lab.run("node", tool(target, "iptables"), "-t", "nat", "-R", chain, "1", *words)
        assert chain in await asyncio.wait_for(first_drift(target), 30)


async def test_what_leads_to_our_chains_is_counted(lab: Topology) -> None:
    clean(lab)
    with contextlib.closing(opened(lab, "legacy")) as target:
        await target.replace(forwarding(web(), node=FACTS))
        heard = asyncio.create_task(first_drift(target))
        lab.ask("client", WEB)
        await until(lambda: "baseJumps" in target.account())
        heard.cancel()
        counted = target.account()["baseJumps"]
        assert isinstance(counted, dict)
        assert counted["iptables nat PREROUTING 1"] >= 1
        assert len(counted) == 18  # three chains of the filter, with two looks each, and three of nat, in two families
        await target.cleanup()


async def test_a_look_that_dies_is_followed_by_another(lab: Topology) -> None:
    with contextlib.closing(opened(lab, "legacy")) as target:
        await target.replace(forwarding(web(), node=FACTS))
        with contextlib.closing(Walker(layout.PREFIX, lab.places["node"])) as walker:
            before = walker.look()
            assert walker._child._process is not None
            walker._child._process.kill()
            walker._child._process.wait()
            with pytest.raises(KernelError, match="ended"):
                walker.look()
            assert walker.look() == before
        await target.cleanup()


@pytest.mark.parametrize("family", list(Family), ids=str)
@pytest.mark.parametrize("client", ["pod2", "client", "node"])
async def test_a_stray_segment_of_a_pod_ends_no_connection_by_iptables(
    lab: Topology, target: IptablesTarget, family: Family, client: str
) -> None:
    port = service_port(cluster_ip(family), cluster=[backend(POD1, family, stray_packets.PORT)])
    await target.replace(forwarding(port, node=FACTS))
    with stray_packets.connected(lab, client, "pod1", family) as connection:
        stray_packets.stray(lab, "pod1", POD1[family], connection)
        assert stray_packets.survives(connection)
    await target.look()
    assert counted("kubeproxy_iptables_ct_state_invalid_dropped_packets_total") > 0


@pytest.mark.parametrize("protocol", [TCP, UDP], ids=str)
@pytest.mark.parametrize("family", list(Family), ids=str)
async def test_by_iptables_the_node_reaches_node_ports_at_its_loopback_address(
    lab: Topology, target: IptablesTarget, family: Family, protocol: Protocol
) -> None:
    here = "127.0.0.1" if family is V4 else "::1"
    node = dataclasses.replace(FACTS, nodeport_addresses=(*FACTS.nodeport_addresses, address.parse(here)))
    many = [backend(one, family) for one in (POD1, POD2, NODE)]
    served = service_port(node_port(protocol=protocol), cluster=many)
    local = service_port(node_port(30081, protocol=protocol, local=True), cluster=many[:1], name="local")
    nobody = service_port(node_port(30082, protocol=protocol), name="nobody", family=family)
    await target.replace(forwarding(served, local, node=node))
    await target.commit({nobody.key: nobody}, "2")
    assert (await target.replace(forwarding(served, local, nobody, node=node))).operations == 0
    assert {one.name for one in lab.ask_often("node", (here, 30080), protocol, 40)} == {"pod1", "pod2", "node"}
    assert lab.ask("node", (here, 30081), protocol).name == "pod1"
    assert lab.fate("node", (here, 30082), protocol) == "refused"
    assert lab.ask("node", (here, 8080), protocol) == Answer("node", here)
    assert lab.run("node", "cat", "/proc/sys/net/ipv4/conf/all/route_localnet").strip() == "0"
    await target.look()
    assert 42 <= counted("kubeproxy_iptables_localhost_nodeports_accepted_packets_total") < 100
    await target.commit({nobody.key: None, local.key: None}, "3")
    assert (await target.replace(forwarding(served, node=node))).operations == 0
    noticed = asyncio.create_task(first_drift(target))
    await asyncio.sleep(0)
    lab.run("node", "nft", "delete", "table", "ip" if family is V4 else "ip6", "netplane_localhost")
    assert "netplane_localhost" in await asyncio.wait_for(noticed, 30)
    assert (await target.replace(forwarding(served, node=node))).operations
    assert lab.ask("node", (here, 30080), protocol).name
    await target.cleanup()
    assert "netplane" not in lab.run("node", "nft", "list", "ruleset")


async def test_neither_our_own_changes_nor_those_of_others_rules_are_drift(
    lab: Topology, target: IptablesTarget
) -> None:
    await target.replace(forwarding(web(), node=FACTS))
    heard = asyncio.create_task(first_drift(target))
    await asyncio.sleep(0)
    await target.commit({web().key: web(V4, POD1)}, "2")
    for verb in ("-A", "-D"):
        lab.run("node", tool(target, "iptables"), "-t", "nat", verb, "PREROUTING", "-s", "192.0.2.9", "-j", "ACCEPT")
        done, _ = await asyncio.wait([heard], timeout=0.5)
        assert not done
    heard.cancel()


async def test_cleanup_leaves_no_trace_in_iptables_and_touches_nobody_else(
    lab: Topology, target: IptablesTarget
) -> None:
    foreign = ("-t", "nat", "PREROUTING", "-s", "192.0.2.9/32", "-j", "ACCEPT")
    lab.run("node", tool(target, "iptables"), *foreign[:2], "-A", *foreign[2:])
    before = listing(lab, target)
    await target.replace(forwarding(*every_shape(), node=FACTS))
    await target.cleanup()
    after = listing(lab, target)
    lab.run("node", tool(target, "iptables"), *foreign[:2], "-D", *foreign[2:])
    assert layout.PREFIX not in after
    assert set(before.splitlines()) <= set(after.splitlines())
    await target.cleanup()


async def test_a_refused_change_of_iptables_is_mended_by_a_comparison(lab: Topology, target: IptablesTarget) -> None:
    await target.replace(forwarding(web(), node=FACTS))
    for words in ("-N FOREIGN", "-A FOREIGN -j NETPLANE-HAIRPIN"):
        lab.run("node", tool(target, "iptables"), "-t", "nat", *words.split())
    with pytest.raises(KernelError, match="restore"):
        await target.cleanup()
    for verb in ("-F", "-X"):
        lab.run("node", tool(target, "iptables"), "-t", "nat", verb, "FOREIGN")
    with pytest.raises(KernelError, match="compare first"):
        await target.commit({web().key: web(V4, NODE)}, "2")
    await target.replace(forwarding(web(V4, NODE), node=FACTS))
    assert lab.ask("client", WEB).name == "node"


async def test_a_client_bound_to_a_backend_that_leaves_is_free_at_once(lab: Topology, target: IptablesTarget) -> None:
    await target.replace(forwarding(web(affinity=100), node=FACTS))
    (bound,) = {lab.ask("client", WEB).name for _ in range(10)}
    other = POD2 if bound == "pod1" else POD1
    await target.commit({web().key: web(V4, other, affinity=100)}, "2")
    (moved,) = {lab.ask("client", WEB).name for _ in range(5)}
    assert moved != bound
    await target.commit({web().key: web(affinity=100)}, "3")
    assert {lab.ask("client", WEB).name for _ in range(10)} == {moved}


async def test_the_holder_of_the_lock_is_named_while_it_is_waited_for(
    lab: Topology, tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", f"{tmp_path}/lock")
    with contextlib.closing(opened(lab, "legacy")) as target, open(lock.path(), "w") as held:
        await target.cleanup()
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = asyncio.create_task(target.replace(forwarding(web(), node=FACTS)))
        await asyncio.sleep(0.8)
        assert not waiting.done()
        (said,) = (record for record in caplog.records if record.name == "netplane.xtables")
        assert f"process {os.getpid()} (" in str(vars(said)["fields"])
        fcntl.flock(held, fcntl.LOCK_UN)
        await asyncio.wait_for(waiting, 20)
    assert lock.holder() == ""


@pytest.mark.parametrize("family", list(Family), ids=str)
@pytest.mark.parametrize("modes", [("nftables", "iptables"), ("iptables", "nftables")])
def test_one_backend_takes_over_from_another_without_a_lost_connection(
    lab: Topology, modes: tuple[str, str], family: Family
) -> None:
    async def forward(mode: str, *where: dict[Family, str]) -> None:
        with contextlib.closing(backends.BUILT[mode].open()) as target:
            await target.replace(forwarding(web(family, *where), node=FACTS))
            await backends.retire_others(mode)

    def on_node(course: Coroutine[Any, Any, None]) -> None:
        netns.run_in(lab.places["node"], lambda: asyncio.run(course))

    on_node(backends.cleanup())
    former, later = modes
    on_node(forward(former, POD1))
    with contextlib.ExitStack() as stack:
        load = stack.enter_context(Load(lab, "client", (vip(family), 80)))
        load.until(10)
        on_node(forward(later, POD2))
        load.until(10)
    assert load.failures == []
    assert {lab.ask("client", (vip(family), 80)).name for _ in range(5)} == {"pod2"}
    on_node(backends.cleanup())
    saved = lab.run("node", "iptables-legacy-save") + lab.run("node", "iptables-nft-save")
    assert layout.PREFIX not in saved
    assert "netplane" not in lab.run("node", "nft", "list", "tables")


def test_the_variant_is_that_of_our_chains_then_of_the_kubelet_then_of_the_host(lab: Topology) -> None:
    def detect() -> Variant:
        return netns.run_in(lab.places["client"], lambda: run.detect(layout.PREFIX))

    def each(text: str) -> list[Variant]:
        found = []
        for variant in ("legacy", "nft"):
            lab.run("client", f"iptables-{variant}", "-t", "mangle", "-N", text)
            found.append(detect())
            lab.run("client", f"iptables-{variant}", "-t", "mangle", "-X", text)
        return found

    usual = subprocess.run(["iptables", "-V"], capture_output=True, text=True, check=True).stdout
    assert detect() == ("nft" if "nf_tables" in usual else "legacy")
    assert each("KUBE-IPTABLES-HINT") == ["legacy", "nft"]
    assert each(f"{layout.PREFIX}SERVICES") == ["legacy", "nft"]
