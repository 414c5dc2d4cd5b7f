"""A node on which kube-proxy ran in its IPVS mode is taken over: nothing is cut, and all that was its own goes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from netplane.model.address import Family
from tests.support import kube_objects
from tests.support.proxy_process import ECHO_PORT, PACE_IN_A_MACHINE, Nursery, Proxies, Steady, proxies
from tests.support.topology import POD1, POD2, Topology

WEB = "10.96.0.1", 80
NODE_PORT = "172.30.0.11", 30080
PODS = POD1[Family.V4], POD2[Family.V4]
PATHS = ("client", WEB), ("client", NODE_PORT), ("pod1", WEB), ("node", WEB)

RULES = """*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-SERVICES ! -s 10.244.0.0/16 -m set --match-set KUBE-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT
-A KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT
-A KUBE-NODE-PORT -p tcp -m set --match-set KUBE-NODE-PORT-TCP dst -j KUBE-MARK-MASQ
-A KUBE-POSTROUTING -m set --match-set KUBE-LOOP-BACK dst,dst,src -j MASQUERADE
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
COMMIT
"""
SETS = f"""create KUBE-CLUSTER-IP hash:ip,port
add KUBE-CLUSTER-IP {WEB[0]},tcp:{WEB[1]}
create KUBE-NODE-PORT-TCP bitmap:port range 0-65535
add KUBE-NODE-PORT-TCP {NODE_PORT[1]}
create KUBE-LOOP-BACK hash:ip,port,ip
{"".join(f"add KUBE-LOOP-BACK {pod},tcp:{ECHO_PORT},{pod}{chr(10)}" for pod in PODS)}"""
FOREIGN = "192.0.2.9:99"
PARAMETERS = [f"net.ipv4.vs.{name}" for name in ("conntrack", "expire_nodest_conn", "expire_quiescent_template")]


@pytest.fixture
def rig(lab: Topology, tmp_path: Path, proxy_nursery: Nursery) -> Iterator[Proxies]:
    with proxies(lab, tmp_path, proxy_nursery) as made:
        made.put(kube_objects.node())
        service = kube_objects.service("web", WEB[0])
        service["spec"]["type"] = "NodePort"
        service["spec"]["ports"][0]["nodePort"] = NODE_PORT[1]
        made.put(service)
        piece = kube_objects.endpoint_slice(*PODS, node="node-1")
        piece["ports"] = [{"name": "", "port": ECHO_PORT, "protocol": "TCP"}]
        made.put(piece)
        lab.run("node", "ipvsadm", "-Ln")  # loads the module, whose parameters there are none of before
        before = lab.run("node", "sysctl", "-e", *PARAMETERS)
        _be_kube_proxy(lab)
        yield made
        lab.run("node", "ipvsadm", "-D", "-t", FOREIGN)
        lab.run("node", "sysctl", "-q", "-p", "-", feed=before)


def _be_kube_proxy(lab: Topology) -> None:
    """Leave what kube-proxy's IPVS mode leaves when it ends, and a server that is somebody else's."""
    places = [f"{address}:{port}" for address, port in (WEB, NODE_PORT)]
    for line in (
        "ip link add kube-ipvs0 type dummy",
        f"ip address add {WEB[0]}/32 dev kube-ipvs0",
        *(f"ipvsadm -A -t {place} -s rr" for place in (*places, FOREIGN)),
        *(f"ipvsadm -a -t {place} -r {pod}:{ECHO_PORT} -m -w 1" for place in places for pod in PODS),
        *(f"sysctl -qw {name}=1" for name in PARAMETERS),
    ):
        lab.run("node", *line.split())
    lab.run("node", "ipset", "restore", feed=SETS)
    lab.run("node", "iptables-restore", "--noflush", feed=RULES)


@contextlib.contextmanager
def busy(lab: Topology, *, stays: bool) -> Iterator[list[Steady]]:
    """Let everybody talk all the time."""
    with contextlib.ExitStack() as stack:
        made = [
            stack.enter_context(Steady(lab, place, where, stays=stays, pace=PACE_IN_A_MACHINE))
            for place, where in PATHS
        ]
        for one in made:
            one.more(1)
        yield made


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", ["ipvs", "nftables"])
def test_a_node_of_kube_proxy_is_taken_over_and_cleaned_and_no_connection_is_lost(rig: Proxies, mode: str) -> None:
    lab = rig.lab
    with ThreadPoolExecutor(1) as background, busy(lab, stays=False) as new:
        with busy(lab, stays=True) as old:
            proxy = rig.start(mode)
            cleaning = background.submit(rig.command, "cleanup", "--kube-proxy")
            if mode == "ipvs":
                said = cleaning.result(60)
            for one in (*old, *new):
                one.more(10)
            # Its servers have become ours, or wait for their connections.
            assert cleaning.done() == (mode == "ipvs")
        if mode != "ipvs":
            said = cleaning.result(60)
        for one in new:
            one.more(5)
    for one in new:
        assert one.failures == [], one.name
        assert one.answered == {"pod1", "pod2"}, one.name
    is_virtual = [line.startswith("virtual server") for line in said.splitlines()]
    assert any(is_virtual) == (mode != "ipvs"), said
    assert "link kube-ipvs0" in said
    assert "KUBE-" not in lab.run("node", "iptables-save") + lab.run("node", "ipset", "save")
    proxy.stop()
    rig.command("cleanup")
    assert [line.split()[1] for line in lab.run("node", "ipvsadm", "-Sn").splitlines()] == ["-t"]
    assert FOREIGN in lab.run("node", "ipvsadm", "-Sn")
