"""Addresses, families and node ports of services."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netplane.controlplane.registry.services import allocate, defaults

V4 = ip_network("10.96.0.0/24")
V6 = ip_network("fd00:96::/112")
SINGLE = allocate.Ranges((V4,))
DUAL = allocate.Ranges((V4, V6))
NOTHING = allocate.Taken()


def service(**spec: Any) -> dict[str, Any]:
    obj = {"metadata": {"name": "web"}, "spec": {"ports": [{"name": "http", "port": 80}], **spec}}
    defaults.service(obj)
    return obj


def allocated(
    obj: dict[str, Any], old: dict[str, Any] | None = None, *, ranges: Any = SINGLE, taken: Any = NOTHING
) -> list[str]:
    if old is not None:
        allocate.prepare_update(obj, old)
    return [str(each) for each in allocate.allocate(obj, old, ranges=ranges, taken=taken, pick=lambda n: 0)]


def test_a_new_service_gets_an_address_of_the_primary_family() -> None:
    obj = service()
    assert not allocated(obj)
    assert obj["spec"]["clusterIPs"] == [obj["spec"]["clusterIP"]] == ["10.96.0.17"]
    assert (obj["spec"]["ipFamilies"], obj["spec"]["ipFamilyPolicy"]) == (["IPv4"], "SingleStack")


def test_addresses_in_use_are_passed_over() -> None:
    obj = service()
    allocated(obj, taken=allocate.Taken({"10.96.0.17", "10.96.0.18"}))
    assert obj["spec"]["clusterIP"] == "10.96.0.19"


def test_the_static_band_is_used_when_nothing_else_is_left() -> None:
    taken = {str(V4[index]) for index in range(17, 256)}
    obj = service()
    assert not allocated(obj, taken=allocate.Taken(taken))
    assert obj["spec"]["clusterIP"] == "10.96.0.1"


def test_a_full_range_is_no_fault_of_a_field() -> None:
    with pytest.raises(allocate.Full, match="failed to allocate a serviceIP: range is full"):
        allocated(service(), taken=allocate.Taken({str(each) for each in V4}))
    with pytest.raises(allocate.Full, match="failed to allocate a nodePort: range is full"):
        allocated(service(type="NodePort"), taken=allocate.Taken(node_ports=range(65536)))


def test_a_chosen_address_must_be_free_and_in_range() -> None:
    assert not allocated(service(clusterIP="10.96.0.10"))
    assert (
        "provided IP is already allocated"
        in allocated(service(clusterIP="10.96.0.10"), taken=allocate.Taken({"10.96.0.10"}))[0]
    )
    outside = "failed to allocate IP 10.97.0.1: the provided network does not match the current range"
    assert outside in allocated(service(clusterIP="10.97.0.1"))[0]


def test_an_address_may_be_of_any_open_range_and_of_no_other() -> None:
    more = allocate.Ranges((V4,), open=(V4, ip_network("10.97.0.0/24")))
    assert not allocated(service(clusterIP="10.97.0.9"), ranges=more)
    closed = allocate.Ranges((V4,), open=(ip_network("10.97.0.0/24"),))
    assert "does not match the current range" in allocated(service(clusterIP="10.96.0.9"), ranges=closed)[0]
    with pytest.raises(allocate.Full):
        allocated(service(), ranges=allocate.Ranges((V4,), open=()))


def test_the_first_address_and_the_last_of_ipv4_are_of_no_range_but_a_wider_one() -> None:
    for address in ("10.97.0.0", "10.97.0.255"):
        ranges = [ip_network("10.97.0.0/24")]
        assert allocated(service(clusterIP=address), ranges=allocate.Ranges((V4,), open=tuple(ranges)))
        ranges.append(ip_network("10.96.0.0/15"))
        assert not allocated(service(clusterIP=address), ranges=allocate.Ranges((V4,), open=tuple(ranges)))


def test_a_full_range_is_passed_over_and_every_address_of_all_is_given_in_the_end() -> None:
    networks = (ip_network("10.96.0.0/27"), ip_network("10.97.0.0/24"), ip_network("10.98.0.0/30"))
    ranges, taken = allocate.Ranges((V4,), open=networks), set[str]()
    for _ in range(30 + 254 + 2):
        obj = service()
        assert not allocated(obj, ranges=ranges, taken=allocate.Taken(taken))
        taken.add(obj["spec"]["clusterIP"])
    assert len(taken) == 30 + 254 + 2
    with pytest.raises(allocate.Full):
        allocated(service(), ranges=ranges, taken=allocate.Taken(taken))


def test_a_service_keeps_an_address_whose_range_is_gone() -> None:
    old = service()
    allocated(old)
    new = service(clusterIP=old["spec"]["clusterIP"], clusterIPs=old["spec"]["clusterIPs"])
    assert not allocated(new, old, ranges=allocate.Ranges((V4,), open=()))
    assert new["spec"]["clusterIPs"] == old["spec"]["clusterIPs"]


def test_the_families_are_the_clusters_whatever_ranges_there_are() -> None:
    ranges = allocate.Ranges((V4,), open=(V4, V6))
    for asked in ({"ipFamilies": ["IPv6"]}, {"clusterIP": "fd00:96::9", "clusterIPs": ["fd00:96::9"]}):
        found = allocated(service(**asked), ranges=ranges)
        assert found == ['spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster']
    both = service(ipFamilyPolicy="PreferDualStack", ipFamilies=["IPv4"], clusterIPs=["10.96.0.9", "fd00:96::9"])
    assert allocated(both, ranges=ranges) == [
        'spec.ipFamilies[1]: Invalid value: "IPv6": not configured on this cluster'
    ]


def test_addresses_of_ranges_larger_than_can_be_walked_through_are_given() -> None:
    wide = ip_network("fd00::/48")
    ranges = allocate.Ranges((wide,))
    obj = service()
    found = allocate.allocate(obj, None, ranges=ranges, taken=NOTHING, pick=lambda count: count - 1)
    assert not found
    assert obj["spec"]["clusterIP"] == str(wide[-1])


def test_dual_stack_gives_an_address_of_each_family() -> None:
    obj = service(ipFamilyPolicy="PreferDualStack")
    assert not allocated(obj, ranges=DUAL)
    assert obj["spec"]["ipFamilies"] == ["IPv4", "IPv6"]
    assert obj["spec"]["clusterIPs"] == ["10.96.0.17", "fd00:96::101"]


def test_the_first_family_is_the_clients_choice() -> None:
    obj = service(ipFamilyPolicy="RequireDualStack", ipFamilies=["IPv6"])
    assert not allocated(obj, ranges=DUAL)
    assert obj["spec"]["ipFamilies"] == ["IPv6", "IPv4"]
    assert obj["spec"]["clusterIP"].startswith("fd00:")


def test_preferring_dual_stack_is_content_with_one_family() -> None:
    obj = service(ipFamilyPolicy="PreferDualStack")
    assert not allocated(obj)
    assert obj["spec"]["ipFamilies"] == ["IPv4"]


def test_requiring_what_the_cluster_lacks_is_a_fault() -> None:
    faults = allocated(service(ipFamilyPolicy="RequireDualStack"))
    assert faults == [
        'spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services'
    ]
    assert "not configured on this cluster" in allocated(service(ipFamilies=["IPv6"]))[0]


def test_a_headless_service_keeps_none() -> None:
    obj = service(clusterIP="None", selector={"a": "b"})
    assert not allocated(obj, ranges=DUAL)
    assert obj["spec"]["clusterIPs"] == ["None"]
    assert obj["spec"]["ipFamilies"] == ["IPv4"]


def test_a_headless_service_without_selector_is_of_both_families() -> None:
    obj = service(clusterIP="None")
    assert not allocated(obj, ranges=DUAL)
    assert (obj["spec"]["ipFamilyPolicy"], obj["spec"]["ipFamilies"]) == ("RequireDualStack", ["IPv4", "IPv6"])


def test_an_external_name_needs_nothing() -> None:
    obj = service(type="ExternalName", externalName="example.com")
    assert not allocated(obj)
    assert "clusterIP" not in obj["spec"]
    assert "ipFamilies" not in obj["spec"]


def test_node_ports_are_given_and_one_port_in_two_protocols_shares_one() -> None:
    obj = service(
        type="NodePort",
        ports=[{"name": "a", "port": 53, "protocol": "UDP"}, {"name": "b", "port": 53}, {"name": "c", "port": 80}],
    )
    assert not allocated(obj)
    assert [each["nodePort"] for each in obj["spec"]["ports"]] == [30000, 30000, 30001]


def test_a_node_port_in_use_or_out_of_range_is_a_fault() -> None:
    taken = allocate.Taken(node_ports={30000})
    assert allocated(service(type="NodePort", ports=[{"port": 80, "nodePort": 30000}]), taken=taken) == [
        "spec.ports[0].nodePort: Invalid value: 30000: provided port is already allocated"
    ]
    assert "valid ports is 30000-32767" in allocated(service(type="NodePort", ports=[{"port": 80, "nodePort": 80}]))[0]


def test_a_local_load_balancer_gets_a_health_check_port() -> None:
    obj = service(type="LoadBalancer", externalTrafficPolicy="Local")
    assert not allocated(obj)
    assert obj["spec"]["healthCheckNodePort"] == 30001
    assert allocate.held(obj)[1] == {30000, 30001}


def test_an_update_keeps_what_it_does_not_speak_of() -> None:
    old = service(type="NodePort")
    allocated(old)
    new = service(type="NodePort")
    assert not allocated(new, old, taken=allocate.Taken(*allocate.held(old)))
    assert new["spec"] == old["spec"]


def test_going_inward_gives_up_node_ports() -> None:
    old = service(type="NodePort")
    allocated(old)
    new = service(
        type="ClusterIP", ports=[dict(each) for each in old["spec"]["ports"]], clusterIP=old["spec"]["clusterIP"]
    )
    assert not allocated(new, old)
    assert "nodePort" not in new["spec"]["ports"][0]
    assert new["spec"]["clusterIP"] == old["spec"]["clusterIP"]


def test_dual_stack_comes_and_goes_with_its_policy() -> None:
    old = service()
    allocated(old, ranges=DUAL)
    two = service(ipFamilyPolicy="PreferDualStack", clusterIP=old["spec"]["clusterIP"])
    assert not allocated(two, old, ranges=DUAL)
    assert two["spec"]["clusterIPs"] == ["10.96.0.17", "fd00:96::101"]
    one = service(ipFamilyPolicy="SingleStack", clusterIP="10.96.0.17", clusterIPs=["10.96.0.17", "fd00:96::101"])
    assert not allocated(one, two, ranges=DUAL)
    assert (one["spec"]["clusterIPs"], one["spec"]["ipFamilies"]) == (["10.96.0.17"], ["IPv4"])


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer"]), st.booleans()), max_size=12),
    st.integers(0, 10**6),
)
def test_no_two_services_ever_hold_the_same(kinds: list[tuple[str, bool]], seed: int) -> None:
    addresses: set[str] = set()
    ports: set[int] = set()
    for kind, is_dual in kinds:
        obj = service(type=kind, **({"ipFamilyPolicy": "RequireDualStack"} if is_dual else {}))
        taken = allocate.Taken(addresses, ports)
        assert not allocate.allocate(obj, None, ranges=DUAL, taken=taken, pick=lambda n: seed % n)
        mine = allocate.held(obj)
        assert not mine[0] & addresses
        assert not mine[1] & ports
        addresses |= mine[0]
        ports |= mine[1]
