"""What real connections meet on a node with the nftables backend: TCP and UDP, IPv4 and IPv6."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from netplane.model import address
from netplane.model.address import Family
from netplane.model.service import Protocol
from netplane_proxy.plan.forwarding import Backend, PortForwarding
from netplane_proxy.run.nftables import NftablesTarget
from tests.support.ports import (
    TCP,
    UDP,
    balancer,
    cluster_ip,
    external,
    forwarding,
    node_port,
    service_port,
    vip,
)
from tests.support.topology import (
    CLIENT,
    CLIENT_TOO,
    FACTS,
    NODE,
    POD1,
    POD2,
    SECOND,
    Answer,
    Topology,
    backend,
    topology,
)

pytestmark = [
    pytest.mark.parametrize("family", list(Family), ids=str),
]
source_ports = itertools.count(2000)
both_protocols = pytest.mark.parametrize("protocol", [TCP, UDP], ids=str)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    with topology(tmp_path_factory.mktemp("lab")) as made:
        yield made


@pytest.fixture(scope="module")
def target(lab: Topology) -> Iterator[NftablesTarget]:
    with contextlib.closing(lab.target()) as opened:
        yield opened


def hold(target: NftablesTarget, *ports: PortForwarding) -> None:
    """Make the node forward exactly this."""
    asyncio.run(target.replace(forwarding(*ports, node=FACTS)))


def change(target: NftablesTarget, port: PortForwarding) -> None:
    """Change one Service port."""
    asyncio.run(target.commit({port.key: port}, "2"))


def both(family: Family) -> list[Backend]:
    return [backend(POD1, family), backend(POD2, family)]


def names(answers: Counter[Answer]) -> set[str]:
    return {answer.name for answer in answers}


def sources(answers: Counter[Answer]) -> set[str]:
    return {answer.source for answer in answers}


@both_protocols
def test_a_pod_reaches_all_backends_of_a_cluster_ip_with_its_own_address(
    lab: Topology, target: NftablesTarget, family: Family, protocol: Protocol
) -> None:
    wanted = [backend(POD1, family), backend(NODE, family)]
    hold(target, service_port(cluster_ip(family, protocol=protocol), cluster=wanted))
    answers = lab.ask_often("pod2", (vip(family), 80), protocol, 30)
    assert names(answers) == {"pod1", "node"}
    assert sources(answers) == {POD2[family]}


@both_protocols
def test_the_node_and_strangers_reach_a_cluster_ip_masqueraded(
    lab: Topology, target: NftablesTarget, family: Family, protocol: Protocol
) -> None:
    hold(target, service_port(cluster_ip(family, protocol=protocol), cluster=both(family)))
    for place in ("node", "client"):
        answers = lab.ask_often(place, (vip(family), 80), protocol, 30)
        assert names(answers) == {"pod1", "pod2"}
        assert CLIENT[family] not in sources(answers)


@both_protocols
def test_a_node_port_answers_everybody_on_the_addresses_chosen(
    lab: Topology, target: NftablesTarget, family: Family, protocol: Protocol
) -> None:
    port = service_port(cluster_ip(family, protocol=protocol), node_port(protocol=protocol), cluster=both(family))
    hold(target, port)
    for place in ("client", "node", "pod1"):
        answers = lab.ask_often(place, (NODE[family], 30080), protocol, 30)
        assert names(answers) == {"pod1", "pod2"}
        assert not {CLIENT[family], POD1[family]} & sources(answers)
    assert lab.fate("client", (SECOND[family], 30080), protocol) == "refused"


@both_protocols
def test_local_external_policy_keeps_the_client_and_stays_on_the_node(
    lab: Topology, target: NftablesTarget, family: Family, protocol: Protocol
) -> None:
    frontends = (
        cluster_ip(family, protocol=protocol),
        node_port(protocol=protocol, local=True),
        balancer(family, protocol=protocol, local=True),
    )
    hold(target, service_port(*frontends, cluster=both(family), local=[backend(POD1, family)]))
    for where in ((NODE[family], 30080), (external(family), 80)):
        assert lab.ask_often("client", where, protocol, 12) == {Answer("pod1", CLIENT[family]): 12}
        inside = lab.ask_often("pod2", where, protocol, 24)
        assert names(inside) == {"pod1", "pod2"}
        assert Answer("pod1", POD2[family]) in inside
        assert names(lab.ask_often("node", where, protocol, 24)) == {"pod1", "pod2"}


@both_protocols
def test_local_policy_without_a_local_backend_is_silent_for_strangers_alone(
    lab: Topology, target: NftablesTarget, family: Family, protocol: Protocol
) -> None:
    external_port = service_port(
        cluster_ip(family, protocol=protocol), node_port(protocol=protocol, local=True), cluster=both(family)
    )
    internal = service_port(cluster_ip(family, 2, protocol=protocol, local=True), cluster=both(family), name="inner")
    hold(target, external_port, internal)
    assert lab.fate("client", (NODE[family], 30080), protocol, patience=0.4) == "silent"
    assert lab.fate("pod1", (NODE[family], 30080), protocol) == "answered"
    assert lab.fate("pod1", (vip(family, 2), 80), protocol, patience=0.4) != "answered"


@both_protocols
def test_local_internal_policy_stays_on_the_node(
    lab: Topology, target: NftablesTarget, family: Family, protocol: Protocol
) -> None:
    frontend = cluster_ip(family, protocol=protocol, local=True)
    hold(target, service_port(frontend, cluster=both(family), local=[backend(POD2, family)]))
    assert lab.ask_often("pod1", (vip(family), 80), protocol, 12) == {Answer("pod2", POD1[family]): 12}


@both_protocols
def test_a_pod_reaches_itself_through_its_service(
    lab: Topology, target: NftablesTarget, family: Family, protocol: Protocol
) -> None:
    hold(target, service_port(cluster_ip(family, protocol=protocol), cluster=[backend(POD1, family)]))
    answers = lab.ask_often("pod1", (vip(family), 80), protocol, 5)
    assert names(answers) == {"pod1"}
    assert POD1[family] not in sources(answers)


@both_protocols
def test_the_node_reaches_node_ports_at_its_loopback_address(
    lab: Topology, target: NftablesTarget, family: Family, protocol: Protocol
) -> None:
    here = "127.0.0.1" if family is Family.V4 else "::1"
    node = dataclasses.replace(FACTS, nodeport_addresses=(*FACTS.nodeport_addresses, address.parse(here)))
    many = [*both(family), backend(NODE, family)]
    served = service_port(node_port(protocol=protocol), cluster=many, affinity=60 if protocol is UDP else 0)
    local = service_port(node_port(30081, protocol=protocol, local=True), cluster=many[:1], name="local")
    nobody = service_port(node_port(30082, protocol=protocol), name="nobody", family=family)
    asyncio.run(target.replace(forwarding(served, local, nobody, node=node)))
    found = names(lab.ask_often("node", (here, 30080), protocol, 40))
    assert len(found) == 1 if protocol is UDP else found == {"pod1", "pod2", "node"}
    assert lab.ask("node", (here, 30081), protocol).name == "pod1"
    assert lab.fate("node", (here, 30082), protocol) == "refused"
    assert lab.ask("node", (here, 8080), protocol) == Answer("node", here)
    assert lab.run("node", "cat", "/proc/sys/net/ipv4/conf/all/route_localnet").strip() == "0"


@both_protocols
@pytest.mark.parametrize("place", ["pod1", "node", "client"])
def test_who_cannot_be_served_is_refused_at_once(
    lab: Topology, target: NftablesTarget, family: Family, protocol: Protocol, place: str
) -> None:
    frontends = cluster_ip(family, protocol=protocol), node_port(protocol=protocol), balancer(family, protocol=protocol)
    hold(target, service_port(*frontends))
    for where in ((vip(family), 80), (vip(family), 81), (NODE[family], 30080), (external(family), 80)):
        assert lab.fate(place, where, protocol) == "refused", where


@both_protocols
def test_source_ranges_let_only_those_in_who_are_named(
    lab: Topology, target: NftablesTarget, family: Family, protocol: Protocol
) -> None:
    allowed = [f"{CLIENT[family]}/{family.bits}"]
    frontends = cluster_ip(family, protocol=protocol), balancer(family, protocol=protocol, ranges=allowed)
    hold(target, service_port(*frontends, cluster=both(family)))
    where = external(family), 80
    assert lab.ask("client", where, protocol).name
    with pytest.raises((TimeoutError, PermissionError)):
        lab.ask("client", where, protocol, source=CLIENT_TOO[family], patience=0.3)
    assert lab.fate("pod1", where, protocol, patience=0.4) == "silent"
    assert lab.fate("pod1", (vip(family), 80), protocol) == "answered"


@both_protocols
def test_affinity_keeps_each_client_at_its_backend_until_that_is_gone(
    lab: Topology, target: NftablesTarget, family: Family, protocol: Protocol
) -> None:
    frontends = cluster_ip(family, protocol=protocol), node_port(protocol=protocol)
    many = [*both(family), backend(NODE, family)]
    hold(target, service_port(*frontends, cluster=many, affinity=3600))
    first = {}
    for place in ("client", "pod1", "pod2", "node"):
        answers = lab.ask_often(place, (vip(family), 80), protocol, 10)
        (first[place],) = names(answers)
        assert names(lab.ask_often(place, (NODE[family], 30080), protocol, 5)) == {first[place]}
    gone = {"pod1": POD1, "pod2": POD2, "node": NODE}[first["client"]]
    change(
        target, service_port(*frontends, cluster=[one for one in many if one != backend(gone, family)], affinity=3600)
    )
    for place, name in first.items():
        found = names(lab.ask_often(place, (vip(family), 80), protocol, 10))
        assert len(found) == 1
        assert (found != {name}) if name == first["client"] else (found == {name})


def test_affinity_ends_after_its_time(lab: Topology, target: NftablesTarget, family: Family) -> None:
    hold(target, service_port(cluster_ip(family), cluster=both(family), affinity=1))
    met = set()
    for _ in range(12):
        met |= names(lab.ask_often("client", (vip(family), 80), TCP, 2))
        if len(met) == 2:
            break
        time.sleep(1.1)
    assert met == {"pod1", "pod2"}


def test_affinity_of_local_and_cluster_backends_is_not_mixed(
    lab: Topology, target: NftablesTarget, family: Family
) -> None:
    frontends = cluster_ip(family), node_port(local=True)
    port = service_port(*frontends, cluster=[backend(POD2, family)], local=[backend(POD1, family)], affinity=60)
    hold(target, port)
    for _ in range(3):
        assert lab.ask("client", (NODE[family], 30080)) == Answer("pod1", CLIENT[family])
        assert lab.ask("client", (vip(family), 80)).name == "pod2"


@pytest.mark.parametrize("count", [2, 3, 7, 40, 300, 1000])
def test_backends_get_equal_shares(lab: Topology, target: NftablesTarget, family: Family, count: int) -> None:
    lab.ensure_ports("pod1", range(20000, 21000))
    hold(
        target,
        service_port(
            cluster_ip(family, protocol=UDP), cluster=[backend(POD1, family, 20000 + n) for n in range(count)]
        ),
    )
    draws = 6 * count if count > 100 else 300
    # Each from a port of its own: a port used again soon is the same flow to the kernel.
    asked = (lab.ask("client", (vip(family), 80), UDP, source_port=next(source_ports)) for _ in range(draws))
    shares = Counter(answer.name for answer in asked)
    mean = draws / count
    deviation = sum((shares[f"p{20000 + n}"] - mean) ** 2 / mean for n in range(count))
    # Chi square of count - 1 degrees of freedom: mean count - 1, variance twice that. Six sigma never happens.
    assert deviation < (count - 1) + 6 * (2 * (count - 1)) ** 0.5
    assert len(shares) > count * 0.98
