"""Only UDP flows that no Service would make again are forgotten."""

from __future__ import annotations

import pytest

from netplane.model import address
from netplane.model.service import Endpoint, EndpointSlice, Protocol, Service
from netplane_proxy.plan import stale
from netplane_proxy.plan.forwarding import Place
from tests.support.clusters import backend, decide, draining, endpoint, local, piece, service

DNS = service("dns", ports="53/udp:30053")
ONE, TWO = endpoint("10.244.2.1"), local("10.244.1.1")


def flow(target: str, answered_by: str, protocol: Protocol = Protocol.UDP) -> stale.Flow:
    ip, port = backend(target)
    return stale.Flow(protocol, address.parse("10.244.1.5"), 5000, ip, port, backend(answered_by))


def dns(*endpoints: Endpoint) -> EndpointSlice:
    return piece(*endpoints, ports="5353/udp", of="dns")


def is_stale(one: stale.Flow, *facts: Service | EndpointSlice, gone: stale.Gone | None = None) -> bool:
    return stale.flows([one], decide(*facts), gone=gone) == [one]


TO_ONE = flow("10.96.0.1:53", "10.244.2.1:5353")


def test_a_flow_to_a_serving_endpoint_stays() -> None:
    assert not is_stale(TO_ONE, DNS, dns(ONE, TWO))


def test_a_flow_to_a_gone_endpoint_goes() -> None:
    assert is_stale(TO_ONE, DNS, dns(TWO))


def test_a_flow_to_another_port_of_a_living_pod_goes() -> None:
    assert is_stale(flow("10.96.0.1:53", "10.244.2.1:53"), DNS, dns(ONE))


def test_a_flow_goes_when_no_endpoint_is_left() -> None:
    assert is_stale(TO_ONE, DNS)


def test_a_flow_from_before_the_first_endpoint_goes() -> None:
    assert is_stale(flow("10.96.0.1:53", "10.96.0.1:53"), DNS, dns(ONE))


def test_a_flow_to_a_draining_endpoint_stays_though_new_ones_go_elsewhere() -> None:
    assert not is_stale(TO_ONE, DNS, dns(draining(ONE), TWO))


def test_a_new_policy_cuts_no_flow() -> None:
    assert not is_stale(TO_ONE, service("dns", ports="53/udp", internal_local=True), dns(ONE, TWO))


def test_a_flow_to_a_gone_service_goes() -> None:
    assert is_stale(TO_ONE)


def test_an_untranslated_flow_to_a_free_service_address_stays() -> None:
    assert not is_stale(flow("10.96.0.9:53", "10.96.0.9:53"))


def test_tcp_is_left_to_itself() -> None:
    assert not is_stale(flow("10.96.0.1:53", "10.244.2.1:5353", Protocol.TCP))


def test_node_ports_are_judged_on_node_port_addresses_alone() -> None:
    assert is_stale(flow("172.30.0.11:30053", "10.244.2.1:5353"), DNS, dns(TWO))
    assert not is_stale(flow("172.30.0.12:30053", "10.244.2.1:5353"), DNS, dns(TWO))


@pytest.mark.parametrize(("answered_by", "expected"), [("10.244.2.1:5353", True), ("10.244.9.9:5353", False)])
def test_a_place_a_service_left_loses_that_services_flows_alone(answered_by: str, expected: bool) -> None:
    (row,) = decide(DNS, dns(ONE)).ports.values()
    gone = stale.gone(row, None)
    assert set(gone) == {
        Place(address.parse("10.96.0.1"), Protocol.UDP, 53),
        Place(b"", Protocol.UDP, 30053),
    }
    assert is_stale(flow("172.30.0.11:30053", answered_by), gone=gone) is expected


def test_flows_need_a_look_only_when_udp_lost_something_or_just_began() -> None:
    (both,) = decide(DNS, dns(ONE, TWO)).ports.values()
    (one,) = decide(DNS, dns(ONE)).ports.values()
    (none,) = decide(DNS).ports.values()
    (tcp,) = decide(service()).ports.values()
    assert stale.concerns(both, one)
    assert stale.concerns(none, one)
    assert stale.concerns(None, one)
    assert stale.concerns(one, None)
    assert not stale.concerns(one, both)
    assert not stale.concerns(tcp, None)
