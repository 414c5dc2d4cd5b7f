"""A proxy that has only the rights it ships with, from its first rule to its last: for each backend's kernel."""

from __future__ import annotations

from pathlib import Path

from netplane.model.address import Family
from tests.support import confined, kube_objects
from tests.support.proxy_process import ECHO_PORT, Steady, proxies, traces
from tests.support.topology import POD1, Topology

RIGHTS = {"unit": confined.unit_capabilities, "daemon set": confined.daemon_set_capabilities}
"""Who says which capabilities the proxy gets."""


def assert_it_suffices(lab: Topology, folder: Path, mode: str, capabilities: list[str]) -> None:
    """Forward, follow a change, and clean up, with these capabilities alone."""
    with (
        confined.nursery(lab.places["node"], capabilities, folder) as nursery,
        proxies(lab, folder, nursery) as rig,
    ):
        rig.put(kube_objects.node())
        rig.put(kube_objects.service())
        proxy = rig.start(mode)
        wanted = sum(1 << _NUMBERS[one] for one in capabilities)
        status = dict(line.split(":", 1) for line in Path(f"/proc/{proxy.pid}/status").read_text().splitlines())
        assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {wanted}
        assert status["NoNewPrivs"].strip() == "1"
        piece = kube_objects.endpoint_slice(POD1[Family.V4], node="node-1")
        piece["ports"] = [{"name": "", "port": ECHO_PORT, "protocol": "TCP"}]
        rig.put(piece)
        proxy.until("rules follow")
        with Steady(lab, "client", ("10.96.0.1", 80), stays=False) as asking:
            asking.more(3)
        proxy.stop()
        said = proxy.log.read_text()
        assert traces(lab, mode)
        assert list(folder.glob("forwarding*"))
        rig.command("cleanup")
        assert traces(lab, mode) == []
        assert not list(folder.glob("forwarding*"))
    assert "WARNING" not in said, said
    assert "ERROR" not in said, said


_NUMBERS = {"net_admin": 12, "net_raw": 13}
