"""Requests, results and errors are those of the CNI specification."""

from __future__ import annotations

import json
from typing import Any

import pytest

from netplane.model import address
from netplane_cni import spec
from netplane_cni.spec import CniError

ENVIRONMENT = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/run/netns/x",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web",
}


def decode(config: dict[str, Any] | None = None, **environment: str) -> spec.Request:
    content = {"cniVersion": "1.0.0", "name": "netplane", **(config or {})}
    return spec.decode({**ENVIRONMENT, **environment}, json.dumps(content).encode())


def refusal(config: dict[str, Any] | None = None, **environment: str) -> CniError:
    with pytest.raises(CniError) as caught:
        decode(config, **environment)
    return caught.value


def result(version: str, previous: dict[str, Any] | None = None) -> dict[str, Any]:
    request = decode({"cniVersion": version, **({"prevResult": previous} if previous else {})})
    interfaces = (
        spec.Interface("np1", "02:00:00:00:00:01", mtu=1450),
        spec.Interface("eth0", "02:00:00:00:00:02", "/n", 1450),
    )
    ip = spec.IpConfig(address.parse("10.1.0.2"), 32, address.parse("169.254.1.1"), 1)
    routes = ((address.prefix("0.0.0.0/0"), address.parse("169.254.1.1")),)
    found: dict[str, Any] = json.loads(spec.encode_result(spec.Result(interfaces, (ip,), routes), request))
    return found


def test_a_request_is_read_whole() -> None:
    request = decode({"runtimeConfig": {"mac": "02-00-00-00-00-aA", "ips": ["10.1.0.9/24", "fd00::9"]}})
    assert (request.command, request.container, request.netns, request.ifname) == ("ADD", "c1", "/run/netns/x", "eth0")
    assert request.pod == "default/web"
    assert request.mac == bytes.fromhex("0200000000aa")
    assert [address.text(ip) for ip in request.ips] == ["10.1.0.9", "fd00::9"]


def test_a_pod_asks_for_addresses_by_annotation_and_the_runtime_comes_first() -> None:
    annotated = {"io.kubernetes.cri.pod-annotations": {"netplane.io/ips": "10.1.0.9, fd00::9", "other": "x"}}
    assert [address.text(ip) for ip in decode({"runtimeConfig": annotated}).ips] == ["10.1.0.9", "fd00::9"]
    both = {**annotated, "ips": ["10.1.0.7/24"]}
    assert [address.text(ip) for ip in decode({"runtimeConfig": both}).ips] == ["10.1.0.7"]
    wrong = {"io.kubernetes.cri.pod-annotations": {"netplane.io/ips": "ten"}}
    assert refusal({"runtimeConfig": wrong}).code == 7


@pytest.mark.parametrize(
    "row",
    [
        {"hostPort": 80, "containerPort": 8080, "protocol": "tcp", "hostIP": "10.0.0.1"},
        {"HostPort": 80, "ContainerPort": 8080, "Protocol": "TCP", "HostIP": "10.0.0.1"},
    ],
)
def test_port_mappings_are_read_in_both_spellings(row: dict[str, Any]) -> None:
    request = decode({"runtimeConfig": {"portMappings": [row, {"hostPort": 0, "containerPort": 1}]}})
    assert request.ports == (spec.PortMapping("tcp", 80, 8080, address.parse("10.0.0.1")),)


def test_a_host_ip_of_all_zeros_means_every_address() -> None:
    row = {"hostPort": 80, "containerPort": 8080, "hostIP": "0.0.0.0"}
    assert decode({"runtimeConfig": {"portMappings": [row]}}).ports == (spec.PortMapping("tcp", 80, 8080),)


@pytest.mark.parametrize(
    "code, config, environment",
    [
        (4, {}, {"CNI_COMMAND": "MAKE"}),
        (4, {}, {"CNI_CONTAINERID": ""}),
        (4, {}, {"CNI_CONTAINERID": "-x"}),
        (4, {}, {"CNI_CONTAINERID": "a/b"}),
        (4, {}, {"CNI_NETNS": ""}),
        (4, {}, {"CNI_IFNAME": ""}),
        (4, {}, {"CNI_IFNAME": "sixteen-letters-"}),
        (4, {}, {"CNI_IFNAME": "a/b"}),
        (4, {}, {"CNI_IFNAME": "a:b"}),
        (4, {}, {"CNI_IFNAME": ".."}),
        (4, {}, {"CNI_ARGS": "NOVALUE"}),
        (1, {"cniVersion": "9.9.9"}, {}),
        (1, {"cniVersion": "0.3.1"}, {"CNI_COMMAND": "CHECK"}),
        (1, {"cniVersion": "1.0.0"}, {"CNI_COMMAND": "STATUS"}),
        (1, {"cniVersion": "1.0.0"}, {"CNI_COMMAND": "GC"}),
        (7, {"name": ""}, {}),
        (7, {"name": "a b"}, {}),
        (7, {"runtimeConfig": "x"}, {}),
        (7, {"runtimeConfig": {"portMappings": [{"hostPort": 70000, "containerPort": 1}]}}, {}),
        (7, {"runtimeConfig": {"portMappings": [{"hostPort": 1, "containerPort": 1, "protocol": "icmp"}]}}, {}),
        (7, {"runtimeConfig": {"ips": ["nonsense"]}}, {}),
        (7, {"runtimeConfig": {"mac": "01:00:00:00:00:00"}}, {}),
        (7, {"cniVersion": "1.1.0", "cni.dev/valid-attachments": [{"x": 1}]}, {"CNI_COMMAND": "GC"}),
    ],
)  # fmt: skip
def test_wrong_requests_get_the_specifications_code(
    code: int, config: dict[str, Any], environment: dict[str, str]
) -> None:
    assert refusal(config, **environment).code == code


def test_what_is_not_json_is_a_decoding_failure() -> None:
    for stdin in (b"{", b"[]", b"\xff"):
        with pytest.raises(CniError) as caught:
            spec.decode(ENVIRONMENT, stdin)
        assert caught.value.code == 6


def test_del_needs_no_namespace() -> None:
    assert decode(CNI_COMMAND="DEL", CNI_NETNS="").netns == ""


def test_gc_lists_what_is_valid() -> None:
    rows = [{"containerID": "a", "ifname": "eth0"}]
    request = decode({"cniVersion": "1.1.0", "cni.dev/valid-attachments": rows}, CNI_COMMAND="GC")
    assert request.valid_attachments == {("a", "eth0")}


def test_version_needs_no_network() -> None:
    assert spec.decode({"CNI_COMMAND": "VERSION"}, b'{"cniVersion":"0.4.0"}').command == "VERSION"
    assert json.loads(spec.encode_version())["supportedVersions"] == ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]


def test_a_result_is_written_in_the_version_asked_for() -> None:
    newest, older, oldest = result("1.1.0"), result("1.0.0"), result("0.3.1")
    assert newest["interfaces"][1] == {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/n", "mtu": 1450}
    assert "mtu" not in older["interfaces"][1]
    assert older["ips"] == [{"address": "10.1.0.2/32", "gateway": "169.254.1.1", "interface": 1}]
    assert oldest["ips"][0]["version"] == "4"
    assert [found["cniVersion"] for found in (newest, older, oldest)] == ["1.1.0", "1.0.0", "0.3.1"]


def test_a_previous_plugins_result_is_kept_and_ours_added() -> None:
    previous = {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "lo", "sandbox": "/n"}],
        "ips": [{"address": "127.0.0.1/8", "interface": 0}],
        "dns": {"nameservers": ["10.96.0.10"]},
    }
    found = result("1.0.0", previous)
    assert [interface["name"] for interface in found["interfaces"]] == ["lo", "np1", "eth0"]
    assert [ip["interface"] for ip in found["ips"]] == [0, 2]
    assert found["dns"] == {"nameservers": ["10.96.0.10"]}


def test_an_error_carries_version_code_message_and_details() -> None:
    body = json.loads(spec.encode_error(CniError(11, "try again", "later"), "0.4.0"))
    assert body == {"cniVersion": "0.4.0", "code": 11, "msg": "try again", "details": "later"}


def test_answers_to_nonsense_are_in_a_version_all_know() -> None:
    assert [spec.version_of(stdin) for stdin in (b"", b"{", b"[1]", b'{"cniVersion":"7"}')] == ["1.0.0"] * 4
    assert spec.version_of(b'{"cniVersion":"0.4.0"}') == "0.4.0"
