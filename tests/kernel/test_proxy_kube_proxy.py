"""What kube-proxy left is removed on request, in whichever mode it ran, and nothing of anybody else."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from netplane.kernel import netns
from netplane_proxy.run import kube_proxy
from tests.support import apiserver

IPTABLES = """*mangle
:KUBE-PROXY-CANARY - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-IPTABLES-HINT - [0:0]
COMMIT
*filter
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-ROUTER-INPUT - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals -j KUBE-X" -j KUBE-EXTERNAL-SERVICES
-A INPUT -j KUBE-FIREWALL
-A INPUT -j KUBE-ROUTER-INPUT
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -s 192.0.2.7/32 -j DROP
-A KUBE-FIREWALL -m comment --comment "block incoming localnet connections" -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
COMMIT
*nat
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SEP-6E7XQMQ4RAYOWTTM - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-SVC-TCOU7JCQXEZGVUNU - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -j CNI-HOSTPORT-DNAT
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-SEP-6E7XQMQ4RAYOWTTM -s 10.244.0.3/32 -m comment --comment "kube-system/kube-dns:dns" -j KUBE-MARK-MASQ
-A KUBE-SERVICES -d 10.96.0.10/32 -p udp -m udp --dport 53 -j KUBE-SVC-TCOU7JCQXEZGVUNU
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
-A KUBE-SVC-TCOU7JCQXEZGVUNU -m statistic --mode random --probability 0.5 -j KUBE-SEP-6E7XQMQ4RAYOWTTM
-A KUBE-SVC-TCOU7JCQXEZGVUNU -j KUBE-SEP-6E7XQMQ4RAYOWTTM
COMMIT
"""  # noqa: E501
IPVS_SETS = "create KUBE-CLUSTER-IP hash:ip,port\ncreate KUBE-NODE-PORT-TCP bitmap:port range 0-65535\n"


class Host:
    """A namespace to run programs in."""

    def __init__(self, place: str) -> None:
        self.place = place

    def run(self, *argv: str, feed: str = "") -> str:
        def act() -> str:
            done = subprocess.run(argv, input=feed, text=True, capture_output=True, timeout=20, check=False)
            assert done.returncode == 0, f"{argv}: {done.stderr}"
            return done.stdout

        return netns.run_in(self.place, act)

    def remove(self) -> list[str]:
        return netns.run_in(self.place, lambda: asyncio.run(kube_proxy.remove()))

    def rules(self, tool: str) -> list[str]:
        return [line for line in self.run(f"{tool}-save").splitlines() if line.startswith((":KUBE", "-A", ":CNI"))]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    path = str(tmp_path / "host")
    netns.create(path)
    yield Host(path)
    netns.remove_if_present(path)


def left_of(text: str) -> list[str]:
    """What is the kubelet's and others'."""
    foreign = ("KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT", "KUBE-FIREWALL", "KUBE-ROUTER", "CNI-HOSTPORT", "192.0.2.7")
    return sorted(line.split(" [")[0] for line in text.splitlines() if any(name in line for name in foreign))


@pytest.mark.parametrize("tool", ["iptables-nft", "iptables-legacy", "ip6tables-nft", "ip6tables-legacy"])
def test_the_chains_of_its_iptables_mode_go_and_the_kubelets_stay(host: Host, tool: str) -> None:
    text = IPTABLES
    if tool.startswith("ip6"):
        for four, six in (("192.0.2.7/32", "2001:db8::192.0.2.7/128"), ("10.244.0.3/32", "fd00::3/128")):
            text = text.replace(four, six)
        text = text.replace("10.96.0.10/32", "fd00::10/128").replace("2001:db8::192.0.2.7/128", "2001:db8::7/128")
    host.run(f"{tool}-restore", feed=text)
    before = host.rules(tool)
    wanted = left_of("\n".join(before))
    assert host.remove() == [f"12 chains of {tool}"]
    left = sorted(line.split(" [")[0] for line in host.rules(tool))
    assert [line for line in left if "2001:db8::7" not in line] == wanted
    assert host.remove() == []


def test_what_a_plugin_of_somebody_else_uses_stays(host: Host) -> None:
    extra = "-A CNI-HOSTPORT-DNAT -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ\nCOMMIT\n"
    host.run("iptables-nft-restore", feed=IPTABLES[: -len("COMMIT\n")] + extra)
    host.remove()
    left = host.rules("iptables-nft")
    assert "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000" in left
    assert not any("KUBE-SERVICES" in line for line in left)


def test_the_command_removes_the_tables_of_its_nftables_mode_and_none_of_ours(host: Host) -> None:
    text = "table {0} kube-proxy {{ chain services {{ type nat hook prerouting priority -100; }}\n}}\n"
    own = "table ip netplane {\n}\n"
    host.run("nft", "-f", "-", feed=text.format("ip") + text.format("ip6") + own)
    said = host.run(*apiserver.program(), "proxy", "cleanup", "--kube-proxy")
    assert said.splitlines() == ["table ip kube-proxy", "table ip6 kube-proxy"]
    assert host.run("nft", "list", "tables").strip() == "table ip netplane"


def test_the_link_and_sets_of_its_ipvs_mode_go_and_others_stay(host: Host) -> None:
    host.run("ip", "link", "add", "kube-ipvs0", "type", "bridge")  # not all kernels have dummy
    host.run("ip", "link", "add", "ipvs0", "type", "bridge")
    host.run("ipset", "restore", feed=IPVS_SETS + "create KUBE-OTHERS hash:ip\ncreate mine hash:ip\n")
    assert host.remove() == ["ipset KUBE-CLUSTER-IP", "ipset KUBE-NODE-PORT-TCP", "link kube-ipvs0"]
    assert sorted(host.run("ipset", "list", "-name").split()) == ["KUBE-OTHERS", "mine"]
    assert ": ipvs0:" in host.run("ip", "link")
