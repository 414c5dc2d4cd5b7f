"""kube-proxy's own flags and configuration file: what means the same is taken, and a line names what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from netplane_proxy import kube_proxy, main

KUBEADM = """
apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection: {acceptContentTypes: "", burst: 0, contentType: "", kubeconfig: /var/lib/kube-proxy/kubeconfig.conf, qps: 0}
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack: {maxPerCore: null, min: null, tcpBeLiberal: false, tcpCloseWaitTimeout: null, tcpEstablishedTimeout: null, udpStreamTimeout: 0s, udpTimeout: 0s}
detectLocal: {bridgeInterface: "", interfaceNamePrefix: ""}
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables: {localhostNodePorts: null, masqueradeAll: false, masqueradeBit: null, minSyncPeriod: 0s, syncPeriod: 0s}
ipvs: {excludeCIDRs: null, minSyncPeriod: 0s, scheduler: "", strictARP: false, syncPeriod: 0s, tcpFinTimeout: 0s, tcpTimeout: 0s, udpTimeout: 0s}
kind: KubeProxyConfiguration
logging: {flushFrequency: 0, options: {json: {infoBufferSize: "0"}, text: {infoBufferSize: "0"}}, verbosity: 0}
metricsBindAddress: ""
mode: ""
nftables: {masqueradeAll: false, masqueradeBit: null, minSyncPeriod: 0s, syncPeriod: 0s}
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel: {enableDSR: false, forwardHealthCheckVip: false, networkName: "", rootHnsEndpointName: "", sourceVip: ""}
"""  # noqa: E501 - as kubeadm writes it, but for its line breaks


def read(folder: Path, text: str) -> dict[str, Any] | None:
    path = folder / "config.conf"
    path.write_text(text)
    return kube_proxy.read_file(path)


def of_kind(folder: Path, text: str) -> dict[str, Any] | None:
    return read(folder, f"kind: KubeProxyConfiguration\n{text}")


def test_kubeadms_file_is_taken_without_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert read(tmp_path, KUBEADM) == {
        "kubeconfig": "/var/lib/kube-proxy/kubeconfig.conf",
        "cluster_cidr": "10.244.0.0/16",
        "masquerade_all": False,
        "bind_address_hard_fail": False,
    }
    assert capsys.readouterr().err == ""


def test_a_file_gives_what_means_the_same(tmp_path: Path) -> None:
    text = (
        "mode: nftables\nclusterCIDR: 10.244.0.0/16\nnodePortAddresses: [10.0.0.0/8, 192.0.2.0/24]\n"
        "hostnameOverride: n7\nnftables: {masqueradeAll: true, masqueradeBit: 3}\n"
        "iptables: {localhostNodePorts: false}\n"
        "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: veth}\nlogging: {format: json}\n"
        "healthzBindAddress: 0.0.0.0\nmetricsBindAddress: '[::]:7'\n"
    )
    assert of_kind(tmp_path, text) == {
        "mode": "nftables",
        "cluster_cidr": "10.244.0.0/16",
        "nodeport_addresses": ["10.0.0.0/8", "192.0.2.0/24"],
        "node_name": "n7",
        "masquerade_all": True,
        "masquerade_bit": 3,
        "localhost_nodeports": False,
        "detect_local_mode": "InterfaceNamePrefix",
        "pod_interface_name_prefix": "veth",
        "log_format": "json",
        "healthz_bind_address": "0.0.0.0",
        "metrics_bind_address": "[::]:7",
    }


@pytest.mark.parametrize(("mode", "bit"), [("nftables", 9), ("iptables", 7), ("ipvs", 7), ("''", 7)])
def test_the_section_of_the_mode_says_how_to_masquerade(tmp_path: Path, mode: str, bit: int) -> None:
    found = of_kind(tmp_path, f"mode: {mode}\niptables: {{masqueradeBit: 7}}\nnftables: {{masqueradeBit: 9}}\n")
    assert found is not None
    assert found["masquerade_bit"] == bit


@pytest.mark.parametrize(
    ("mode", "expected"), [("iptables", ["0.0.0.0/0", "::/0"]), ("ipvs", ["0.0.0.0/0", "::/0"]), ("nftables", None)]
)
def test_node_ports_listen_where_that_mode_of_kube_proxy_has_them(
    tmp_path: Path, mode: str, expected: list[str] | None
) -> None:
    assert (of_kind(tmp_path, f"mode: {mode}\n") or {}).get("nodeport_addresses") == expected


def test_a_field_that_is_not_applied_is_named_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert of_kind(tmp_path, "conntrack: {maxPerCore: 32768}\nipvs: {udpTimeout: 5s}\nbindAddress: 10.0.0.1\n") == {}
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    for line, field in zip(lines, ("conntrack.maxPerCore", "ipvs.udpTimeout", "bindAddress"), strict=True):
        assert f"config.conf: {field} of kube-proxy is not applied here: " in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nodePortAdresses: []", "has no field nodePortAdresses; did you mean nodePortAddresses"),
        ("iptables: {masqueradeAl: true}", "no field iptables.masqueradeAl; did you mean iptables.masqueradeAll"),
        ("ipvs: 7", "ipvs must be a mapping"),
    ],
)
def test_a_field_that_there_is_none_of_is_refused_by_name(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(click.UsageError, match=expected):
        of_kind(tmp_path, text)


@pytest.mark.parametrize("content", ["kind: Other", "cluster-cidr: 10.0.0.0/8", "[", ""])
def test_any_other_file_is_left_to_the_common_reader(tmp_path: Path, content: str) -> None:
    assert read(tmp_path, content) is None


FLAGS = (
    *("bind-address", "bind-address-hard-fail", "cleanup", "cluster-cidr", "config", "config-sync-period"),
    *("conntrack-max-per-core", "conntrack-min", "conntrack-tcp-be-liberal"),
    *("conntrack-tcp-timeout-close-wait", "conntrack-tcp-timeout-established", "conntrack-udp-timeout"),
    *("conntrack-udp-timeout-stream", "detect-local-mode", "feature-gates", "healthz-bind-address"),
    *("healthz-port", "help", "hostname-override", "init-only", "iptables-localhost-nodeports"),
    *("iptables-masquerade-bit", "iptables-min-sync-period", "iptables-sync-period", "ipvs-exclude-cidrs"),
    *("ipvs-min-sync-period", "ipvs-scheduler", "ipvs-strict-arp", "ipvs-sync-period", "ipvs-tcp-timeout"),
    *("ipvs-tcpfin-timeout", "ipvs-udp-timeout", "kube-api-burst", "kube-api-content-type", "kube-api-qps"),
    *("kubeconfig", "log-flush-frequency", "logging-format", "log-json-info-buffer-size"),
    *("log-json-split-stream", "log-text-info-buffer-size", "log-text-split-stream", "masquerade-all"),
    *("master", "metrics-bind-address", "metrics-port", "nodeport-addresses", "oom-score-adj"),
    *("pod-bridge-interface", "pod-interface-name-prefix", "profiling", "proxy-mode"),
    *("show-hidden-metrics-for-version", "v", "vmodule", "write-config-to"),
)  # fmt: skip
"""All of kube-proxy 1.34 on Linux."""


def test_every_flag_of_kube_proxy_is_known() -> None:
    ours = {flag.removeprefix("--") for option in main.proxy.params for flag in option.opts} | {"help"}
    others = kube_proxy.FLAGS_NOT_MISSED, kube_proxy.FLAGS_NOT_APPLIED, kube_proxy.FLAGS_REFUSED
    assert set(FLAGS) - ours == set().union(*others, kube_proxy.FLAGS_RENAMED)
    assert set(kube_proxy.FLAGS_RENAMED.values()) <= ours


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ("--masquerade-all=false status", "--no-masquerade-all status"),
        ("--iptables-localhost-nodeports=true", "--iptables-localhost-nodeports"),
        ("--cleanup=false", ""),
        ("--bind-address-hard-fail=false", "--no-bind-address-hard-fail"),
        ("-v 2 --v=4 status", "status"),
        ("--iptables-sync-period 30s --proxy-mode ipvs", "--proxy-mode ipvs"),
        ("--ipvs-strict-arp --ipvs_sync_period=5s status -o json", "status -o json"),
        ("--logging-format=json", "--log-format=json"),
    ],
)
def test_flags_read_as_kube_proxy_reads_them(given: str, left: str) -> None:
    assert list(kube_proxy.translated(given.split())) == left.split()


def test_a_flag_that_is_not_applied_is_named_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    given = (
        "--conntrack-min 131072 --oom-score-adj=-998 --conntrack-tcp-timeout-established=0s --profiling=false status"
    )
    assert list(kube_proxy.translated(given.split())) == ["status"]
    first, second = capsys.readouterr().err.splitlines()
    assert "--conntrack-min of kube-proxy is not applied here: set the kernel's parameters" in first
    assert "--oom-score-adj of kube-proxy is not applied here: set it in the unit" in second


@pytest.mark.parametrize(
    ("given", "expected"),
    [("--master=https://x", "--kubeconfig"), ("--masquerade-all=maybe", "'maybe' is neither true nor false")],
)
def test_a_flag_that_would_be_misunderstood_is_refused(given: str, expected: str) -> None:
    with pytest.raises(click.UsageError, match=expected):
        list(kube_proxy.translated([given]))
