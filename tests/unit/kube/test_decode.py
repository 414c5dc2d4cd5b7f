"""Kubernetes JSON becomes facts, or an error that names the field."""

from typing import Any

import pytest

from netplane.kube import decode
from netplane.model import address
from netplane.model.service import Protocol


def service_object(spec: dict[str, Any], **rest: Any) -> dict[str, Any]:
    return {"metadata": {"namespace": "default", "name": "web", "resourceVersion": "7"}, "spec": spec, **rest}


def slice_object(**fields: Any) -> dict[str, Any]:
    labels = {"kubernetes.io/service-name": "web"}
    base = {"metadata": {"namespace": "default", "name": "web-x", "labels": labels}, "addressType": "IPv4"}
    return {**base, "ports": [{"name": "http", "port": 8080}], **fields}


def test_a_service_keeps_what_forwarding_needs() -> None:
    ports = [{"name": "http", "port": 80, "targetPort": "web", "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]
    spec = {"type": "NodePort", "clusterIPs": ["10.96.0.1", "fd00:96::1"], "clusterIP": "10.96.0.1", "ports": ports}
    found = decode.service(service_object(spec))
    assert found.key == ("default", "web")
    assert [address.text(ip) for ip in found.cluster_ips] == ["10.96.0.1", "fd00:96::1"]
    assert [(row.name, row.protocol, row.port, row.target_port, row.node_port) for row in found.ports] == [
        ("http", Protocol.TCP, 80, "web", 30080),
        ("", Protocol.UDP, 53, 0, 0),
    ]
    assert found.revision == "7"


def test_only_vip_addresses_of_a_balancer_are_ours() -> None:
    ingress = [
        {"ip": "192.0.2.1"},
        {"ip": "192.0.2.2", "ipMode": "Proxy"},
        {"ip": "192.0.2.3", "ipMode": "VIP"},
        {"ip": "192.0.2.4", "ipMode": None},
        {"hostname": "x"},
    ]
    obj = service_object({"type": "LoadBalancer"}, status={"loadBalancer": {"ingress": ingress}})
    assert [address.text(ip) for ip in decode.service(obj).load_balancer_vips] == [
        "192.0.2.1",
        "192.0.2.3",
        "192.0.2.4",
    ]


def test_what_a_load_balancer_wrote_that_is_no_address_does_not_take_the_service_with_it() -> None:
    ingress = [{"ip": "x"}, {"ip": "192.0.2.1"}]
    read = decode.service(service_object({"type": "LoadBalancer"}, status={"loadBalancer": {"ingress": ingress}}))
    assert [address.text(ip) for ip in read.load_balancer_vips] == ["192.0.2.1"]


def test_affinity_lasts_three_hours_unless_told() -> None:
    assert decode.service(service_object({"sessionAffinity": "ClientIP"})).affinity_seconds == 10800
    config = {"clientIP": {"timeoutSeconds": 5}}
    assert (
        decode.service(
            service_object({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config})
        ).affinity_seconds
        == 5
    )
    assert decode.service(service_object({"sessionAffinity": "None"})).affinity_seconds == 0


@pytest.mark.parametrize(
    ("spec", "is_local"),
    [
        ({"type": "NodePort"}, True),
        ({"type": "ClusterIP"}, False),
        ({"type": "ClusterIP", "externalIPs": ["192.0.2.1"]}, True),
    ],
)
def test_external_policy_counts_only_where_outsiders_can_come(spec: dict[str, Any], is_local: bool) -> None:
    assert decode.service(service_object({**spec, "externalTrafficPolicy": "Local"})).external_local is is_local


def test_a_health_check_port_belongs_to_local_balancers() -> None:
    spec = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000}
    assert decode.service(service_object(spec)).health_check_node_port == 31000
    assert decode.service(service_object({**spec, "externalTrafficPolicy": "Cluster"})).health_check_node_port == 0


def test_the_proxy_name_label_counts_even_when_empty() -> None:
    obj = service_object({})
    assert decode.service(obj).proxy_name is None
    obj["metadata"]["labels"] = {decode.PROXY_NAME_LABEL: ""}
    assert decode.service(obj).proxy_name == ""


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"ports": [{"port": 1}, {"port": 70000}]}, "spec.ports[1].port: 70000 > 65535"),
        ({"ports": [{"port": "80"}]}, "spec.ports[0].port: '80' is not a number"),
        ({"ports": [{"port": 80, "protocol": "ICMP"}]}, "spec.ports[0].protocol: 'ICMP' is none of TCP, UDP, SCTP"),
        ({"clusterIPs": ["10.96.0.1", "x"]}, "spec.clusterIPs[1]: 'x' is not an IP address"),
        ({"type": "Magic"}, "spec.type: 'Magic' is none of"),
        ({"ports": 5}, "has a field of the wrong type"),
    ],
)
def test_an_error_names_object_and_field(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(decode.DecodeError) as caught:
        decode.service(service_object(spec))
    assert f"Service default/web: {message}" in str(caught.value)


def test_an_object_without_metadata_is_named_so() -> None:
    with pytest.raises(decode.DecodeError, match=r"Service \(without metadata\): metadata.name: is missing"):
        decode.service({"spec": {}})


def test_missing_conditions_mean_ready() -> None:
    found = decode.endpoint_slice(slice_object(endpoints=[{"addresses": ["10.0.0.1"]}])).endpoints[0]
    assert (found.ready, found.serving, found.terminating) == (True, True, False)


def test_an_endpoint_carries_its_place_and_hints() -> None:
    row = {
        "addresses": ["10.0.0.1"],
        "conditions": {"ready": False, "serving": True, "terminating": True},
        "nodeName": "node-1",
        "zone": "a",
        "hints": {"forZones": [{"name": "a"}], "forNodes": [{"name": "node-1"}]},
        "targetRef": {"kind": "Pod", "namespace": "default", "name": "web-0"},
    }
    found = decode.endpoint_slice(slice_object(endpoints=[row])).endpoints[0]
    assert (found.ready, found.serving, found.terminating) == (False, True, True)
    assert (found.node_name, found.zone_hints, found.node_hints) == ("node-1", frozenset("a"), frozenset(["node-1"]))
    assert found.pod == ("default", "web-0")


def test_endpoints_without_address_or_of_another_family_are_left_out() -> None:
    found = decode.endpoint_slice(slice_object(endpoints=[{"addresses": []}, {"addresses": ["fd00::1"]}]))
    assert found.endpoints == ()


def test_a_slice_port_without_number_is_left_out() -> None:
    assert decode.endpoint_slice(slice_object(ports=[{"name": "all", "port": None}])).ports == ()


def test_names_are_no_addresses() -> None:
    found = decode.endpoint_slice(slice_object(addressType="FQDN", endpoints=[{"addresses": ["example.com"]}]))
    assert (found.family, found.endpoints) == (None, ())


def test_a_bad_endpoint_address_is_named() -> None:
    with pytest.raises(decode.DecodeError, match=r"endpoints\[0\].addresses: '10.0.0.300' is not an IP address"):
        decode.endpoint_slice(slice_object(endpoints=[{"addresses": ["10.0.0.300"]}]))


def test_a_node_knows_its_primary_addresses_and_zone() -> None:
    rows = [
        ("Hostname", "n1"),
        ("InternalIP", "172.30.0.11"),
        ("InternalIP", "fd00:30::11"),
        ("ExternalIP", "192.0.2.1"),
    ]
    found = decode.node(
        {
            "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "a"}},
            "spec": {
                "podCIDRs": ["10.244.1.0/24", "fd00:244:0:1::/64"],
                "taints": [{"key": "k", "effect": "NoSchedule"}],
            },
            "status": {"addresses": [{"type": kind, "address": text} for kind, text in rows]},
        }
    )
    assert found.zone == "a"
    assert found.ip(address.Family.V6) == address.parse("fd00:30::11")
    assert found.pod_cidr(address.Family.V4) == address.prefix("10.244.1.0/24")
    assert found.taints[0].key == "k"


def test_a_pod_knows_its_addresses_and_host_ports() -> None:
    found = decode.pod(
        {
            "metadata": {"namespace": "default", "name": "web-0", "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "containers": [{"ports": [{"containerPort": 80, "hostPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": "10.244.1.2", "conditions": [{"type": "Ready", "status": "True"}]},
        }
    )
    assert found.ips == (address.parse("10.244.1.2"),)
    assert (found.ports[0].port, found.ports[0].host_port) == (80, 8080)
    assert found.is_ready
    assert not found.is_finished


def test_a_health_check_port_is_a_port() -> None:
    balanced = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 70000}
    with pytest.raises(decode.DecodeError, match=r"spec\.healthCheckNodePort: 70000 > 65535"):
        decode.service(service_object(balanced))
