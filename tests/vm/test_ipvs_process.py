"""`netplane proxy --mode ipvs` as a process of its own: killed, started again, asked to end, cleaned up after."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from netplane.kernel import netns, sysctl
from netplane.kernel.ipvs import run as ipvs
from netplane.kernel.ipvs.objects import Change
from netplane.model.address import Family
from netplane.model.service import Protocol
from netplane_proxy.run.ipvs.host import LINK, SYSCTLS
from tests.support import kube_objects, static_api
from tests.support.proxy_process import ECHO_PORT, Nursery, Proxies, Running, Steady, proxies, wait
from tests.support.topology import POD1, POD2, Topology

WEB = "10.96.0.1", 80
LOCALHOST = "127.0.0.1", 30080
V4 = Family.V4
PODS = {"pod1": POD1[V4], "pod2": POD2[V4]}


@pytest.fixture
def rig(lab: Topology, tmp_path: Path, proxy_nursery: Nursery) -> Iterator[Proxies]:
    with proxies(lab, tmp_path, proxy_nursery) as made:
        made.put(kube_objects.node())
        service = kube_objects.service()
        service["spec"]["type"] = "NodePort"
        service["spec"]["ports"][0]["nodePort"] = LOCALHOST[1]
        made.put(service)
        yield made


def endpoints(*names: str) -> static_api.Object:
    """The Service's slice with the echoes of these pods."""
    made = kube_objects.endpoint_slice(*(PODS[name] for name in names), node="node-1")
    made["ports"] = [{"name": "", "port": ECHO_PORT, "protocol": "TCP"}]
    return made


def weights(lab: Topology) -> dict[str, int]:
    """What the kernel holds, by destination."""
    with contextlib.closing(netns.run_in(lab.places["node"], ipvs.Socket)) as kernel:
        return {str(one): load.weight for held in kernel.servers().values() for one, load in held.loads.items()}


def parameters(lab: Topology) -> dict[str, str]:
    """What the mode sets of the kernel's parameters, as they are on the node."""
    return netns.run_in(lab.places["node"], lambda: {name: sysctl.read(name) for name in SYSCTLS})


@pytest.mark.timeout(300)
def test_a_killed_process_goes_on_where_it_was_and_cleanup_leaves_no_trace(rig: Proxies) -> None:
    lab = rig.lab
    weights(lab)  # asking loads the module, whose parameters there are none of before
    before = parameters(lab)
    rig.put(endpoints("pod1", "pod2"))
    first = rig.start("ipvs")
    with Steady(lab, "node", WEB, stays=False) as new, Steady(lab, "node", LOCALHOST, stays=False) as looping:
        live_through_a_death(rig, first, new, looping).stop()
        # Asked to end, it has left all as it is.
        new.more(5)
        looping.more(5)
        assert lab.run("node", "ip", "-br", "link", "show", LINK).startswith(LINK)
    rig.command("cleanup")
    assert weights(lab) == {}
    assert parameters(lab) == before
    assert LINK not in lab.run("node", "ip", "link")
    assert "netplane" not in lab.run("node", "nft", "list", "tables")
    assert not list(rig.folder.glob("forwarding*"))


def live_through_a_death(rig: Proxies, first: Running, *asking: Steady) -> Running:
    """Take away a backend that has a connection, kill the proxy, and return the one that goes on in its place."""
    lab = rig.lab
    with (
        Steady(lab, "client", WEB, stays=True) as old,
        Steady(lab, "node", LOCALHOST, stays=True) as looped,
    ):
        old.more(1)
        looped.more(1)
        (leaving,) = old.answered
        (other,) = set(PODS) - {leaving}
        was, stays = f"{PODS[leaving]}:{ECHO_PORT}", f"{PODS[other]}:{ECHO_PORT}"
        # Its only connection keeps the backend that leaves, with no weight, through a death and a new life.
        rig.put(endpoints(other))
        wait(lambda: weights(lab).get(was) == 0)
        first.kill()
        for one in asking:
            one.more(5)
        second = rig.start("ipvs")
        assert weights(lab) == {was: 0, stays: 1}
        for one in (old, looped, *asking):
            one.more(5)
        assert old.answered == {leaving}
        assert len(looped.answered) == 1
    wait(lambda: was not in weights(lab))
    assert weights(lab) == {stays: 1}
    return second


@pytest.mark.timeout(300)
def test_after_a_boot_without_an_api_the_last_known_servers_forward(rig: Proxies) -> None:
    lab = rig.lab
    rig.put(endpoints("pod1"))
    rig.start("ipvs").stop()
    rig.answers(is_up=False)
    boot(rig)
    assert lab.fate("client", WEB, Protocol.TCP, patience=0.4) != "answered"
    running = rig.start("ipvs")
    running.until("forwarding as last known")
    with Steady(lab, "client", WEB, stays=False) as new:
        new.more(3)
        assert new.answered == {"pod1"}
    rig.put(endpoints("pod2"))
    rig.answers(is_up=True)
    running.until("forwarding service_ports")
    with Steady(lab, "client", WEB, stays=False) as new:
        new.more(3)
        assert new.answered == {"pod2"}
    running.stop()
    rig.command("cleanup")


def boot(rig: Proxies) -> None:
    """Do to the node what a boot does: its kernel forgets, and the file is of another one."""
    lab = rig.lab
    lab.run("node", "nft", "flush", "ruleset")
    lab.run("node", "ip", "link", "delete", LINK)
    with contextlib.closing(netns.run_in(lab.places["node"], ipvs.Socket)) as kernel:
        kernel.commit([Change("remove", one) for one in kernel.servers()])
    state = rig.folder / "forwarding.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"boot": "another"}))
