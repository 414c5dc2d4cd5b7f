"""Flags, kube-proxy's file and the Node object become the facts of this node."""

from __future__ import annotations

import pytest

from netplane.lib import cli
from netplane.model import address
from netplane.model.node import Node
from netplane_proxy import settings
from netplane_proxy.plan import host
from tests.support.clusters import ip_list

NODE = Node(
    "node-1",
    internal_ips=ip_list("172.30.0.11,fd00:30::11,172.30.0.99"),
    pod_cidrs=(address.prefix("10.244.1.0/24"),),
    labels={"topology.kubernetes.io/zone": "a"},
)
HAS = ip_list("127.0.0.1,172.30.0.11,192.0.2.7,10.244.1.1,fe80::1,fd00:30::11")


OPTIONS = {
    **dict.fromkeys(("cluster_cidr", "service_cidr", "pod_bridge_interface", "pod_interface_name_prefix"), ""),
    "node_name": "node-1", "nodeport_addresses": "primary", "detect_local_mode": "ClusterCIDR", "mode": "nftables",
    "masquerade_bit": 14, "masquerade_all": False, "localhost_nodeports": True,
}  # fmt: skip


def prefixes(text: str) -> tuple[address.Prefix, ...]:
    return settings.prefixes("x", text)


def test_primary_means_the_nodes_first_address_of_each_family() -> None:
    facts = host.facts(host.Settings("node-1"), NODE, HAS)
    assert facts.nodeport_addresses == facts.node_ips == ip_list("172.30.0.11,fd00:30::11")
    assert facts.zone == "a"


def test_networks_choose_among_the_addresses_the_node_has() -> None:
    wanted = host.Settings("node-1", nodeport_prefixes=prefixes("192.0.2.0/24, 172.30.0.0/16"))
    assert host.facts(wanted, NODE, HAS).nodeport_addresses == ip_list("172.30.0.11,192.0.2.7")


def test_all_addresses_leave_out_loopback_and_link_local() -> None:
    facts = host.facts(host.Settings("node-1", nodeport_prefixes=prefixes("0.0.0.0/0,::/0")), NODE, HAS)
    assert set(facts.nodeport_addresses) == set(ip_list("172.30.0.11,192.0.2.7,10.244.1.1,fd00:30::11"))


@pytest.mark.parametrize(
    ("networks", "expected"),
    [
        (None, "127.0.0.1,172.30.0.11,::1,fd00:30::11"),
        ("0.0.0.0/0", "10.244.1.1,127.0.0.1,172.30.0.11,192.0.2.7"),
        ("172.30.0.0/16", "172.30.0.11"),
    ],
)
def test_localhost_has_node_ports_unless_the_networks_leave_it_out(networks: str | None, expected: str) -> None:
    chosen = None if networks is None else prefixes(networks)
    wanted = host.Settings("node-1", nodeport_prefixes=chosen, has_localhost_nodeports=True)
    assert set(host.facts(wanted, NODE, HAS).nodeport_addresses) == set(ip_list(expected))


def test_localhost_has_no_node_ports_in_a_family_in_which_the_node_has_no_address() -> None:
    four = Node("node-1", internal_ips=ip_list("172.30.0.11"))
    facts = host.facts(host.Settings("node-1", has_localhost_nodeports=True), four, HAS)
    assert set(facts.nodeport_addresses) == set(ip_list("127.0.0.1,172.30.0.11"))


def test_before_the_node_is_known_networks_already_count() -> None:
    facts = host.facts(host.Settings("node-1", nodeport_prefixes=prefixes("172.30.0.0/16")), None, HAS)
    assert (facts.node_ips, facts.nodeport_addresses) == ((), ip_list("172.30.0.11"))


def test_node_cidr_mode_takes_the_nodes_own_pod_network() -> None:
    facts = host.facts(host.Settings("node-1", local_mode="NodeCIDR"), NODE, HAS)
    assert facts.pod_cidrs == NODE.pod_cidrs


@pytest.mark.parametrize(
    ("mode", "option", "expected"),
    [
        ("BridgeInterface", "pod_bridge_interface", "cbr0"),
        ("InterfaceNamePrefix", "pod_interface_name_prefix", "cbr0*"),
    ],
)
def test_modes_of_interfaces_know_pods_by_where_packets_come_in(mode: str, option: str, expected: str) -> None:
    facts = host.facts(settings.of_options(OPTIONS | {"detect_local_mode": mode, option: "cbr0"}), NODE, HAS)
    assert (facts.pod_cidrs, facts.pod_interfaces) == ((), expected)
    assert facts.is_pod(HAS[0], "cbr0")
    assert facts.is_pod(HAS[0], "cbr01") == expected.endswith("*")
    assert not facts.is_pod(address.parse("10.244.0.9"), "eth0")


@pytest.mark.parametrize(
    ("mode", "name", "expected"),
    [
        ("BridgeInterface", "", r"BridgeInterface needs --pod-bridge-interface \(or detectLocal.bridgeInterface"),
        ("InterfaceNamePrefix", "", r"needs --pod-interface-name-prefix \(or detectLocal.interfaceNamePrefix"),
        ("BridgeInterface", "cbr0+", "'cbr0\\+' is not an interface's name; give one like cbr0"),
        ("BridgeInterface", "a-name-of-16-char", "is not an interface's name"),
    ],
)
def test_a_mode_of_interfaces_without_a_name_says_which_option_lacks(mode: str, name: str, expected: str) -> None:
    given = {"detect_local_mode": mode, "pod_bridge_interface": name, "pod_interface_name_prefix": name}
    with pytest.raises(cli.UserError, match=expected):
        settings.of_options(OPTIONS | given)


def test_a_network_that_is_none_is_named() -> None:
    with pytest.raises(cli.UserError, match=r"--cluster-cidr: '10.0.0.0/40' is not a network"):
        settings.prefixes("cluster-cidr", "10.0.0.0/40")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("[::]:1", ("::", 1)),
        ("", None),
        ("::", ("::", 10256)),
        ("10.0.0.1", ("10.0.0.1", 10256)),
    ],
)
def test_a_bind_address_reads(text: str, expected: object) -> None:
    assert settings.bind("healthz-bind-address", text) == expected


@pytest.mark.parametrize("text", ["10256", "localhost:1", "0.0.0.0:x", "0.0.0.0:70000"])
def test_a_bind_address_that_is_none_is_named(text: str) -> None:
    with pytest.raises(cli.UserError, match="--healthz-bind-address"):
        settings.bind("healthz-bind-address", text)


def test_a_nodes_name_has_no_capitals() -> None:
    assert settings.of_options({**OPTIONS, "node_name": " Node-1 "}).node_name == "node-1"
    with pytest.raises(cli.UserError, match="--node-name is empty"):
        settings.of_options({**OPTIONS, "node_name": " "})


@pytest.mark.parametrize(("prefix", "expected"), [("veth", "veth*"), ("a" * 14, "a" * 14 + "*"), ("a" * 15, "a" * 15)])
def test_a_prefix_as_long_as_a_name_is_the_name(prefix: str, expected: str) -> None:
    wanted = host.Settings("node-1", local_mode="InterfaceNamePrefix", pod_interface=prefix)
    assert host.facts(wanted, NODE, HAS).pod_interfaces == expected
