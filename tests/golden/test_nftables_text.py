"""What the nftables backend writes, byte by byte, so that a change of it is seen in review.

After a wanted change: `NETPLANE_GOLDEN=write pytest tests/golden/test_nftables_text.py`, and look at the difference.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from netplane.model import address
from netplane.model.address import Family
from netplane_proxy.plan.nftables import adopt, balance, skeleton
from netplane_proxy.plan.nftables.layout import LAYOUTS
from tests.support import golden
from tests.support.clusters import NODE, decide, local, piece, service

FOLDER = Path(__file__).parent / "nftables"


@pytest.mark.parametrize("family", list(Family), ids=str)
def test_the_skeleton_reads_as_agreed(family: Family) -> None:
    sets = LAYOUTS[family]
    speaker = address.parse("172.30.0.11" if family is Family.V4 else "fd00:30::11")
    given = skeleton.Parameters(classes=((1, 10800),), loopback=speaker)
    golden.check(FOLDER / f"skeleton-{family.name.lower()}.nft", skeleton.text(sets, given) + balance.text(sets, 3))


def test_pods_known_by_interface_are_matched_by_it_and_by_nothing_else() -> None:
    sets = LAYOUTS[Family.V4]
    plain = skeleton.text(sets, skeleton.Parameters(classes=((1, 10800),))).splitlines()
    named = skeleton.text(sets, skeleton.Parameters(classes=((1, 10800),), pods="veth*")).splitlines()
    changed = [(one.strip(), other.strip()) for one, other in zip(plain, named, strict=True) if one != other]
    assert changed == [
        ("ip saddr @pod_cidrs goto remember1_10800s_cluster", 'iifname "veth*" goto remember1_10800s_cluster'),
        (
            "ip saddr != @pod_cidrs meta mark set meta mark | 0x4000",
            'iifname != "veth*" meta mark set meta mark | 0x4000',
        ),
        (
            "ip saddr != @pod_cidrs meta mark set meta mark | 0x4000",
            'iifname != "veth*" meta mark set meta mark | 0x4000',
        ),
        ("ip saddr @pod_cidrs goto to_cluster", 'iifname "veth*" goto to_cluster'),
        ("meta l4proto { tcp, sctp } ip saddr @pod_cidrs drop", 'meta l4proto { tcp, sctp } iifname "veth*" drop'),
    ]


def test_a_service_with_everything_compiles_as_agreed() -> None:
    facts = decide(
        service(
            "all",
            ips="10.96.0.1,fd00:96::1",
            ports="http=80/tcp:30080 dns=53/udp:30053",
            external_ips=(bytes((192, 0, 2, 1)),),
            load_balancer_vips=(bytes((192, 0, 2, 2)),),
            external_local=True,
            affinity_seconds=10800,
        ),
        service("empty", ips="10.96.0.2"),
        piece(local("10.244.1.5"), local("10.244.1.6"), ports="http=8080/tcp dns=5353/udp", of="all"),
        piece(local("fd00:244:0:1::5"), ports="http=8080/tcp dns=5353/udp", of="all"),
    )
    seen = adopt.Observed()
    made, standing = adopt.book(NODE, seen)
    adopt.place(made, standing, facts)
    text = "".join(f"{change.batch()}\n# next transaction\n" for change in adopt.compare(made, seen))
    golden.check(FOLDER / "service-with-everything.nft", text)
