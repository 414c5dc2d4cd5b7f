"""What a status may say, whoever writes it."""

from __future__ import annotations

import copy
from typing import Any

from netplane.controlplane.registry import strategy
from tests.support.registry_objects import created, pod, type_of


def told(name: str, old: dict[str, Any], status: dict[str, Any]) -> list[str]:
    """Return the faults of a status."""
    new = {**copy.deepcopy(old), "status": status}
    return [str(each) for each in strategy.update_status(type_of(name), new, old)]


def test_a_node_has_no_less_than_nothing_and_no_address_twice() -> None:
    address = {"type": "InternalIP", "address": "1.1.1.1"}
    found = told("nodes", created("nodes", {}), {"capacity": {"cpu": "-1"}, "addresses": [address, dict(address)]})
    assert found == [
        'status.capacity.cpu: Invalid value: "-1": must be greater than or equal to 0',
        'status.addresses[1]: Duplicate value: map[string]string{"address":"1.1.1.1", "type":"InternalIP"}',
    ]
    fit = {"capacity": {"cpu": "2", "example.com/gpu": "1"}, "addresses": [address, {**address, "type": "ExternalIP"}]}
    assert told("nodes", created("nodes", {}), fit) == []


def test_a_pod_has_one_address_of_each_family() -> None:
    old = created("pods", pod())
    assert told("pods", old, {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}) == []
    (fault,) = told("pods", old, {"podIP": "999"})
    assert fault.startswith('status.podIPs[0]: Invalid value: "999": must be a valid IP address')
    (fault, *_) = told("pods", old, {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]})
    assert fault.endswith("may specify no more than one IP for each IP family")
    (fault,) = told("pods", old, {"hostIP": "10.0.0.1", "hostIPs": [{"ip": "10.0.0.1"}, {"ip": "z"}]})
    assert fault.startswith('status.hostIPs[1]: Invalid value: "z"')


def balanced(kind: str, *entries: dict[str, Any]) -> list[str]:
    old = created("services", {"spec": {"type": kind, "ports": [{"port": 80}]}})
    return told("services", old, {"loadBalancer": {"ingress": list(entries)}})


def test_a_load_balancer_is_reached_at_addresses_or_names() -> None:
    assert balanced("LoadBalancer", {"ip": "192.0.2.1", "ipMode": "VIP"}, {"hostname": "a.example"}) == []
    at = "status.loadBalancer.ingress"
    found = balanced("LoadBalancer", {"ip": "x", "ipMode": "Foo"}, {"hostname": "192.0.2.1", "ipMode": "VIP"})
    assert found == [
        f'{at}[0].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)',
        f'{at}[0].ipMode: Unsupported value: "Foo": supported values: "Proxy", "VIP"',
        f"{at}[1].ipMode: Forbidden: may not be specified when `ip` is not set",
        f'{at}[1].hostname: Invalid value: "192.0.2.1": must be a DNS name, not an IP address',
    ]
    assert balanced("ClusterIP", {"ip": "192.0.2.1"}) == [
        f"{at}: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"
    ]
