"""The command line says in one line what it does not do, and reads its options from flag, environment and file."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from netplane.kernel.errors import KernelError
from netplane.lib import cli
from netplane_proxy import main
from netplane_proxy.run import ipvs


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main.proxy, list(arguments), env=environment)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The options that `status` is given; it reads nothing else."""
    found: dict[str, Any] = {}

    def read_status(where: str) -> Mapping[str, Any]:
        found.update(click.get_current_context().obj)
        return {"mode": "nftables", "where": where}

    monkeypatch.setattr(main, "read_status", read_status)
    return found


def test_a_kernel_without_ipvs_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(scheduler: str) -> None:
        raise KernelError(errno.ENOENT, "look for IPVS in the kernel")

    monkeypatch.setattr(ipvs, "open_target", missing)
    with pytest.raises(cli.UserError, match=r"the kernel module ip_vs is missing; load it \(modprobe ip_vs\)"):
        main.open_target("ipvs", "rr")


def test_an_unknown_mode_is_a_mistake_of_usage() -> None:
    assert run("--mode", "ebpf").exit_code == 2


def test_status_without_a_proxy_says_so() -> None:
    result = run("--metrics-bind-address", "127.0.0.1:1", "status")
    assert result.exit_code == 1
    assert "no proxy answers at http://127.0.0.1:1/status" in result.stderr


def test_kube_proxys_names_work(seen: dict[str, Any]) -> None:
    run("--hostname-override", "n7", "--proxy-mode", "nftables", "--iptables-masquerade-bit", "15", "status")
    assert (seen["node_name"], seen["masquerade_bit"]) == ("n7", 15)


def test_node_port_addresses_of_several_flags_are_all_meant(seen: dict[str, Any]) -> None:
    first, second, third = "10.0.0.0/8", "192.0.2.0/24", "fd00::/48"
    run("--nodeport-addresses", f"{first},{second}", f"--nodeport-addresses={third}", "status")
    assert seen["nodeport_addresses"] == f"{first},{second},{third}"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("{}", "primary"),
        ("{nodeport-addresses: '10.0.0.0/8,192.0.2.0/24'}", "10.0.0.0/8,192.0.2.0/24"),
        ("{nodeport-addresses: [10.0.0.0/8, 192.0.2.0/24]}", "10.0.0.0/8,192.0.2.0/24"),
        ("{kind: KubeProxyConfiguration, nodePortAddresses: [10.0.0.0/8, 192.0.2.0/24]}", "10.0.0.0/8,192.0.2.0/24"),
        ("{kind: KubeProxyConfiguration, mode: ipvs}", "0.0.0.0/0,::/0"),
    ],
)
def test_a_file_says_where_node_ports_listen_and_flags_replace_it(
    seen: dict[str, Any], tmp_path: Path, said: str, expected: str
) -> None:
    path = tmp_path / "config.conf"
    path.write_text(said)
    run("--config", str(path), "status")
    assert seen["nodeport_addresses"] == expected
    run("--config", str(path), "--nodeport-addresses", "10.9.0.0/16", "status")
    assert seen["nodeport_addresses"] == "10.9.0.0/16"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--proxy-mode=iptables", "0.0.0.0/0,::/0"),
        ("--proxy-mode ipvs", "0.0.0.0/0,::/0"),
        ("--proxy-mode nftables", "primary"),
        ("--mode iptables", "primary"),
        ("--proxy-mode=iptables --nodeport-addresses 10.9.0.0/16", "10.9.0.0/16"),
    ],
)
def test_node_ports_listen_where_kube_proxys_flag_for_a_mode_has_them(
    seen: dict[str, Any], given: str, expected: str
) -> None:
    run(*given.split(), "status")
    assert seen["nodeport_addresses"] == expected


def test_the_environment_lists_node_port_addresses_by_commas(seen: dict[str, Any]) -> None:
    run("status", NETPLANE_NODEPORT_ADDRESSES="10.0.0.0/8,192.0.2.0/24")
    assert seen["nodeport_addresses"] == "10.0.0.0/8,192.0.2.0/24"


def test_a_flag_wins_over_the_environment_and_that_over_the_file(seen: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "proxy.yaml"
    path.write_text("node-name: of-file\ncluster-cidr: 10.1.0.0/16\nservice-cidr: 10.2.0.0/16\n")
    run(
        "--config",
        str(path),
        "--node-name",
        "of-flag",
        "status",
        NETPLANE_NODE_NAME="x",
        NETPLANE_CLUSTER_CIDR="10.3.0.0/16",
    )
    assert (seen["node_name"], seen["cluster_cidr"], seen["service_cidr"]) == ("of-flag", "10.3.0.0/16", "10.2.0.0/16")


def test_a_kube_proxy_file_is_understood(seen: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "config.conf"
    path.write_text(
        "kind: KubeProxyConfiguration\nclusterCIDR: 10.244.0.0/16\nmetricsBindAddress: 127.0.0.1:7\nipvs: {}\n"
    )
    run("--config", str(path), "status")
    assert (seen["cluster_cidr"], seen["metrics_bind_address"]) == ("10.244.0.0/16", "127.0.0.1:7")


def test_a_file_with_an_unknown_option_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "proxy.yaml"
    path.write_text("cluster-cdir: 10.1.0.0/16\n")
    result = run("--config", str(path), "status")
    assert result.exit_code == 2
    assert "did you mean cluster-cidr?" in result.stderr
