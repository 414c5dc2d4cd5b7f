"""The lab's names, addresses and refusals."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netplane.lab import spec, units
from netplane.lab.spec import LabSpec, SpecError


def test_node_addresses_follow_the_number_in_every_family() -> None:
    node = LabSpec(ip_family="dual").node(3)
    assert (node.name, node.addresses) == ("node-3", ("172.30.0.13", "fd00:30::d"))


@given(count=st.integers(1, spec.MAX_NODES), family=st.sampled_from(["ipv4", "ipv6", "dual"]))
def test_no_two_places_share_an_address(count: int, family: spec.IPFamily) -> None:
    lab = spec.check(LabSpec(nodes=tuple(range(1, count + 1)), ip_family=family))
    nodes = itertools.chain.from_iterable(node.addresses for node in lab.node_specs())
    everyone = [*nodes, *lab.api_addresses, *lab.client_addresses, *lab.client_gateways]
    assert len(everyone) == len(set(everyone))


def test_a_saved_spec_comes_back_whole() -> None:
    lab = LabSpec(name="x", nodes=(1, 4), ip_family="ipv6", fabric="direct", api_port=7443)
    assert spec.from_json(json.loads(json.dumps(spec.to_json(lab)))) == lab


def test_a_field_of_an_older_version_is_left_out() -> None:
    data = spec.to_json(LabSpec()) | {"gone": 1}
    assert spec.from_json(data) == LabSpec()


def test_a_new_node_never_takes_a_living_nodes_number() -> None:
    lab = spec.without_node(LabSpec(nodes=(1, 2, 3)), "node-2")
    assert spec.with_node(lab).nodes == (1, 3, 4)


@pytest.mark.parametrize(
    ("lab", "message"),
    [
        (LabSpec(nodes=()), "--nodes 0: between 1 and 50"),
        (LabSpec(nodes=tuple(range(1, 52))), "--nodes 51: between 1 and 50"),
        (LabSpec(name="No"), "--name 'No'"),
        (
            LabSpec(ipv4=replace(spec.IPV4, services="10.244.128.0/20")),
            "--pods-cidr 10.244.0.0/16 overlaps --services-cidr 10.244.128.0/20",
        ),
        (
            LabSpec(ipv4=replace(spec.IPV4, pods="10.244.0.1/16")),
            "--pods-cidr 10.244.0.1/16: 10.244.0.1/16 has host bits",
        ),
        (LabSpec(ipv4=replace(spec.IPV4, pods="10.244.0.0/24")), "--pods-cidr 10.244.0.0/24: a /24 for each node"),
        (LabSpec(ipv4=replace(spec.IPV4, underlay="172.30.0.0/29")), "--underlay-cidr 172.30.0.0/29: too small"),
    ],
)
def test_a_lab_that_cannot_be_is_refused_by_the_name_of_its_option(lab: LabSpec, message: str) -> None:
    with pytest.raises(SpecError) as refusal:
        spec.check(lab)
    assert str(refusal.value).startswith(message)


def test_removing_an_unknown_node_names_those_that_are() -> None:
    with pytest.raises(SpecError, match="node-9: no such node; there are node-1, node-2, node-3"):
        spec.without_node(LabSpec(), "node-9")


def test_every_node_runs_three_daemons_in_its_own_namespaces_and_the_first_the_front_door() -> None:
    lab = LabSpec(nodes=(1, 2))
    of_lab = units.of_lab(lab, spec.folders("lab"), "/bin/netplane")
    assert [unit.name for unit in of_lab] == [
        "server",
        *(f"node-1/{what}" for what in ("cni", "agent", "proxy", "ingress")),
        *(f"node-2/{what}" for what in ("cni", "agent", "proxy")),
    ]
    assert {unit.netns for unit in of_lab[1:5]} == {"lab-node-1"}


def test_the_server_listens_on_loopback_only_through_an_inherited_socket() -> None:
    server = units.server(LabSpec(ip_family="dual"), spec.folders("lab"), "/bin/netplane")
    assert server.listen == (("127.0.0.1", 6443),)
    assert [a for a in server.argv if a.startswith("--listen")] == [
        "--listen=172.30.0.1:6443",
        "--listen=[fd00:30::1]:6443",
    ]


@pytest.mark.parametrize("text", ["10.1.0.0/16,10.2.0.0/16", "", ","])
def test_a_range_option_takes_one_range_a_family(text: str) -> None:
    with pytest.raises(SpecError, match="--pods-cidr"):
        spec.by_family("pods-cidr", text)


def test_ranges_are_told_apart_by_family() -> None:
    assert spec.by_family("pods-cidr", "fd00::/48, 10.1.0.0/16") == {"ipv6": "fd00::/48", "ipv4": "10.1.0.0/16"}
    assert spec.by_family("pods-cidr", None) == {}


@pytest.mark.parametrize(
    ("part", "network", "nodes"),
    [
        ("pods", "10.244.0.0/22", 5),
        ("services", "10.96.0.0/31", 1),
        ("services", "127.0.0.0/8", 1),
        ("pods", "224.0.0.0/8", 1),
        ("underlay", "169.254.0.0/24", 1),
    ],
)
def test_a_range_that_cannot_serve_is_refused(part: str, network: str, nodes: int) -> None:
    lab = LabSpec(nodes=tuple(range(1, nodes + 1)), ipv4=spec.with_range(spec.IPV4, part, network))
    with pytest.raises(SpecError, match=f"--{part}-cidr {network}"):
        spec.check(lab)


def test_what_a_killed_daemon_of_a_node_leaves_goes_with_the_lab() -> None:
    lab, folders = LabSpec(runtime="containerd"), spec.folders("lab")
    for unit in units.of_node(lab, folders, "/bin/netplane", lab.node(1)):
        assert Path(unit.environment["TMPDIR"]).is_relative_to(folders.state)
