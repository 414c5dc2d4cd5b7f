"""What becomes of packets: every Service feature, asked of the oracle in words."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from netplane.model import address
from netplane.model.service import EndpointSlice, Protocol, Service
from netplane_proxy.plan import oracle
from tests.support.clusters import (
    DROP,
    NODE,
    REJECT,
    UNTOUCHED,
    ask,
    backend,
    decide,
    dnat,
    draining,
    endpoint,
    ip_list,
    local,
    piece,
    service,
)

POD = "10.244.1.5"
OUTSIDER = "172.31.0.2"
HERE_ONE, AWAY = local("10.244.1.7"), endpoint("10.244.2.9")
BOTH = piece(HERE_ONE, AWAY)


def exposed(**fields: Any) -> Service:
    """A Service with all kinds of frontends."""
    return service(
        ports="80/tcp:30080",
        type="LoadBalancer",
        external_ips=ip_list("192.0.2.10"),
        load_balancer_vips=ip_list("192.0.2.20"),
        **fields,
    )


EXTERNALS = ["172.30.0.11:30080", "192.0.2.10:80", "192.0.2.20:80"]


@pytest.mark.parametrize("ip", ["127.0.0.1", "0.0.0.0", "224.0.0.9"])
def test_no_service_takes_an_address_that_is_of_no_machine_or_of_every(ip: str) -> None:
    claimed = service(type="LoadBalancer", external_ips=ip_list(ip), load_balancer_vips=ip_list(ip))
    assert ask(f"node > {ip}:80/tcp", claimed, BOTH) == UNTOUCHED
    assert ask(f"node > {ip}:80/tcp", service(ips=ip), BOTH) == UNTOUCHED


def test_a_service_with_none_but_special_endpoints_rejects() -> None:
    assert ask(f"{POD} > 10.96.0.1:80/tcp", service(), piece(local("127.0.0.1"))) == REJECT


def test_a_pod_reaches_any_backend_with_its_own_address() -> None:
    assert ask(f"{POD} > 10.96.0.1:80/tcp", service(), BOTH) == dnat("10.244.1.7:8080", "10.244.2.9:8080")


@pytest.mark.parametrize("source", [OUTSIDER, "node"])
def test_who_is_no_pod_is_masqueraded_to_a_cluster_ip(source: str) -> None:
    verdict = ask(f"{source} > 10.96.0.1:80/tcp", service(), BOTH)
    assert verdict == dnat("10.244.1.7:8080", "10.244.2.9:8080", masquerade=True)


@pytest.mark.parametrize(("interface", "masqueraded"), [("veth1", ""), ("eth0", " masqueraded"), ("", " masqueraded")])
def test_where_pods_are_known_by_their_interface_addresses_do_not_matter(interface: str, masqueraded: str) -> None:
    node = dataclasses.replace(NODE, pod_cidrs=(), pod_interfaces="veth*")
    packet = oracle.parse(f"{OUTSIDER}{f' on {interface}' * bool(interface)} > 10.96.0.1:80/tcp", node)
    said = oracle.Oracle(decide(service(), BOTH, node=node)).verdict(packet)
    assert {str(one) for one in said.outcomes} == {f"10.244.1.7:8080{masqueraded}", f"10.244.2.9:8080{masqueraded}"}
    assert str(packet).partition(" > ")[0].partition(" on ")[2] == interface


def test_a_pod_that_meets_itself_is_masqueraded() -> None:
    verdict = ask("10.244.1.7 > 10.96.0.1:80/tcp", service(), BOTH)
    assert [outcome.masquerade for outcome in verdict.outcomes] == [True, False]


def test_both_families_have_backends_of_their_own() -> None:
    facts = service(ips="10.96.0.1,fd00:96::1"), piece(AWAY), piece(endpoint("fd00:244::9"))
    assert ask(f"{POD} > 10.96.0.1:80/tcp", *facts) == dnat("10.244.2.9:8080")
    assert ask("fd00:244::5 > [fd00:96::1]:80/tcp", *facts) == dnat("[fd00:244::9]:8080")


def test_a_family_without_endpoints_is_rejected() -> None:
    facts = service(ips="10.96.0.1,fd00:96::1"), piece(AWAY)
    assert ask("fd00:244::5 > [fd00:96::1]:80/tcp", *facts) == REJECT


@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp"])
def test_one_port_on_many_protocols_is_many_ports(protocol: str) -> None:
    names = {"tcp": 1, "udp": 2, "sctp": 3}
    ports = " ".join(f"p{number}=80/{name}" for name, number in names.items())
    slices = [
        piece(endpoint(f"10.244.2.{number}"), ports=f"p{number}=8080/{name}", name=name)
        for name, number in names.items()
    ]
    verdict = ask(f"{POD} > 10.96.0.1:80/{protocol}", service(ports=ports), *slices)
    assert verdict == dnat(f"10.244.2.{names[protocol]}:8080")


@pytest.mark.parametrize("target", ["10.96.0.1:80", *EXTERNALS])
def test_without_any_endpoint_all_are_rejected(target: str) -> None:
    for local_policy in (False, True):
        facts = exposed(external_local=local_policy, internal_local=local_policy)
        assert ask(f"{OUTSIDER} > {target}/tcp", facts) == REJECT


def test_a_cluster_ip_rejects_ports_it_does_not_have() -> None:
    assert ask(f"{POD} > 10.96.0.1:81/tcp", service(), BOTH) == REJECT
    assert ask(f"{POD} > 10.96.0.1:80/udp", service(), BOTH) == REJECT


def test_a_service_address_nobody_has_rejects() -> None:
    assert ask(f"{POD} > 10.96.7.7:80/tcp", service(), BOTH) == REJECT


@pytest.mark.parametrize("target", ["10.244.2.9:8080", "172.30.0.11:22", "192.0.2.10:81", "172.30.0.12:30080"])
def test_everything_else_is_untouched(target: str) -> None:
    assert ask(f"{POD} > {target}/tcp", exposed(), BOTH) == UNTOUCHED


def test_a_node_port_of_one_family_does_not_open_the_other() -> None:
    assert ask("fd00:31::2 > [fd00:30::11]:30080/tcp", exposed(), BOTH) == UNTOUCHED


@pytest.mark.parametrize("target", EXTERNALS)
@pytest.mark.parametrize("source", [POD, OUTSIDER, "node"])
def test_external_traffic_is_masqueraded_to_any_backend(source: str, target: str) -> None:
    verdict = ask(f"{source} > {target}/tcp", exposed(), BOTH)
    assert verdict == dnat("10.244.1.7:8080", "10.244.2.9:8080", masquerade=True)


@pytest.mark.parametrize("target", EXTERNALS)
class TestExternalTrafficPolicyLocal:
    """externalTrafficPolicy Local."""

    def test_keeps_the_clients_address_and_to_this_node(self, target: str) -> None:
        assert ask(f"{OUTSIDER} > {target}/tcp", exposed(external_local=True), BOTH) == dnat("10.244.1.7:8080")

    def test_drops_outsiders_without_a_local_backend(self, target: str) -> None:
        assert ask(f"{OUTSIDER} > {target}/tcp", exposed(external_local=True), piece(AWAY)) == DROP

    def test_falls_back_to_local_backends_that_terminate(self, target: str) -> None:
        slices = piece(draining(HERE_ONE), AWAY)
        assert ask(f"{OUTSIDER} > {target}/tcp", exposed(external_local=True), slices) == dnat("10.244.1.7:8080")

    def test_lets_pods_to_any_backend_as_they_are(self, target: str) -> None:
        assert ask(f"{POD} > {target}/tcp", exposed(external_local=True), piece(AWAY)) == dnat("10.244.2.9:8080")

    def test_lets_the_node_to_any_backend_masqueraded(self, target: str) -> None:
        verdict = ask(f"node > {target}/tcp", exposed(external_local=True), piece(AWAY))
        assert verdict == dnat("10.244.2.9:8080", masquerade=True)

    def test_a_remote_pod_sent_back_to_itself_is_masqueraded(self, target: str) -> None:
        verdict = ask(f"10.244.2.9 > {target}/tcp", exposed(external_local=True), piece(AWAY))
        assert verdict == dnat("10.244.2.9:8080", masquerade=True)


def test_internal_policy_local_keeps_to_this_node() -> None:
    assert ask(f"{POD} > 10.96.0.1:80/tcp", service(internal_local=True), BOTH) == dnat("10.244.1.7:8080")


def test_internal_policy_local_drops_without_a_local_backend() -> None:
    assert ask(f"{POD} > 10.96.0.1:80/tcp", service(internal_local=True), piece(AWAY)) == DROP


def test_internal_policy_local_leaves_external_traffic_alone() -> None:
    assert ask(f"{OUTSIDER} > 192.0.2.10:80/tcp", exposed(internal_local=True), piece(AWAY)) == dnat(
        "10.244.2.9:8080", masquerade=True
    )


class TestSourceRanges:
    """loadBalancerSourceRanges."""

    ranged = exposed(source_ranges=(address.prefix("172.31.0.0/24"), address.prefix("fd00::/8")))

    def test_drop_all_others_at_the_balancers_address(self) -> None:
        assert ask("198.51.100.1 > 192.0.2.20:80/tcp", self.ranged, BOTH) == DROP
        assert ask(f"{POD} > 192.0.2.20:80/tcp", self.ranged, BOTH) == DROP

    def test_let_those_inside_in(self) -> None:
        verdict = ask(f"{OUTSIDER} > 192.0.2.20:80/tcp", self.ranged, piece(AWAY))
        assert verdict == dnat("10.244.2.9:8080", masquerade=True)

    @pytest.mark.parametrize("target", ["172.30.0.11:30080", "192.0.2.10:80"])
    def test_do_not_guard_other_frontends(self, target: str) -> None:
        assert ask(f"198.51.100.1 > {target}/tcp", self.ranged, BOTH).action is oracle.Action.DNAT

    def test_of_the_other_family_alone_guard_nothing(self) -> None:
        facts = exposed(source_ranges=(address.prefix("fd00::/8"),))
        assert ask("198.51.100.1 > 192.0.2.20:80/tcp", facts, BOTH).action is oracle.Action.DNAT

    def test_that_hold_the_node_also_let_it_come_from_the_vip(self) -> None:
        facts = exposed(source_ranges=(address.prefix("172.30.0.0/24"),))
        assert ask("192.0.2.20 > 192.0.2.20:80/tcp", facts, BOTH).action is oracle.Action.DNAT


def test_affinity_binds_a_client_to_its_backend() -> None:
    forwarding = decide(service(affinity_seconds=10), BOTH)
    (row,) = forwarding.ports.values()
    packet = oracle.parse(f"{POD} > 10.96.0.1:80/tcp", NODE)
    bound = {oracle.AffinityKey(packet.source, row.key, False): backend("10.244.2.9:8080")}
    assert oracle.Oracle(forwarding).verdict(packet, affinity=bound) == dnat("10.244.2.9:8080")


def test_affinity_to_a_backend_that_is_gone_is_forgotten() -> None:
    forwarding = decide(service(affinity_seconds=10), piece(AWAY))
    (row,) = forwarding.ports.values()
    packet = oracle.parse(f"{POD} > 10.96.0.1:80/tcp", NODE)
    bound = {oracle.AffinityKey(packet.source, row.key, False): backend("10.244.1.7:8080")}
    assert oracle.Oracle(forwarding).verdict(packet, affinity=bound) == dnat("10.244.2.9:8080")


@pytest.mark.parametrize(
    "facts",
    [
        service(ips="", is_headless=True),
        service(type="ExternalName", external_name="example.com"),
        service(proxy_name="other"),
        service(ips=""),
    ],
)
def test_services_that_are_not_ours_do_nothing(facts: Service) -> None:
    assert decide(facts, BOTH).ports == {}


def test_without_pod_networks_nobody_is_masqueraded_for_being_no_pod() -> None:
    node = dataclasses.replace(NODE, pod_cidrs=())
    assert ask(f"{OUTSIDER} > 10.96.0.1:80/tcp", service(), piece(AWAY), node=node) == dnat("10.244.2.9:8080")


def test_masquerade_all_takes_pods_along() -> None:
    node = dataclasses.replace(NODE, masquerade_all=True)
    verdict = ask(f"{POD} > 10.96.0.1:80/tcp", service(), piece(AWAY), node=node)
    assert verdict == dnat("10.244.2.9:8080", masquerade=True)


@pytest.mark.parametrize(
    ("packet", "facts", "reason"),
    [
        ("10.244.1.5 > 10.96.0.1:80/tcp", (service(),), "default/web at 10.96.0.1:80/tcp has no backend"),
        ("10.244.1.5 > 10.96.0.1:81/tcp", (service(),), "10.96.0.1 is a cluster IP without port 81/tcp"),
        ("10.244.1.5 > 10.96.0.9:80/tcp", (), "10.96.0.9 is a Service address that nobody has"),
        ("172.31.0.2 > 192.0.2.10:80/tcp", (exposed(external_local=True), piece(AWAY)), "no backend is on this node"),
    ],
)
def test_a_verdict_says_why(packet: str, facts: tuple[Service | EndpointSlice, ...], reason: str) -> None:
    assert reason in ask(packet, *facts).reason


@pytest.mark.parametrize(
    ("sender", "protocol", "action"),
    [
        ("10.244.1.5:8080", Protocol.TCP, oracle.Action.DROP),  # a pod
        ("172.30.0.12:6443", Protocol.TCP, oracle.Action.DROP),  # a backend that is no pod
        ("172.30.0.12:6443", Protocol.UDP, oracle.Action.UNTOUCHED),
        ("172.30.0.12:22", Protocol.TCP, oracle.Action.UNTOUCHED),
        ("172.31.0.2:6443", Protocol.TCP, oracle.Action.UNTOUCHED),
    ],
)
def test_of_what_fits_no_connection_only_what_endpoints_send_is_dropped(
    sender: str, protocol: Protocol, action: oracle.Action
) -> None:
    meaning = decide(service(), piece(endpoint("172.30.0.12"), ports="6443/tcp"))
    assert oracle.Oracle(meaning).stray(backend(sender), protocol).action is action


def test_affinity_lasts_a_day_at_most() -> None:
    (row,) = decide(service(affinity_seconds=10**12), BOTH).ports.values()
    assert row.affinity_seconds == 86400
