"""Labs of other makes carry the same packets: every proxy mode, fabric and IP family has its turn."""

from __future__ import annotations

import pytest

from tests.support.cluster import Lab

MAKES = [
    ("--proxy-mode=iptables", "--fabric=auto", "--ip-family=ipv4"),
    ("--proxy-mode=nftables", "--fabric=direct", "--ip-family=ipv6"),
]


@pytest.mark.parametrize("options", MAKES, ids=lambda options: "-".join(o.partition("=")[2] for o in options))
def test_the_demo_is_answered_through_both_doors(options: tuple[str, ...]) -> None:
    lab = Lab("ci-make")
    lab.netplane("down", limit=110)
    try:
        lab.netplane("up", "--nodes=2", "--api-port=17666", *options, limit=110)
        said = lab.netplane("demo", limit=110).stdout
    finally:
        lab.netplane("down", limit=110)
    services, node_ports = said.split("NodePort of")
    for door in (services, node_ports):
        # Nine answers of three pods: which ones is chance, that they come is not.
        assert "x frontend-" in door
