"""What the IPVS backend asks of the kernel, word by word, so that a change of it is seen in review.

After a wanted change: `NETPLANE_GOLDEN=write pytest tests/golden/test_ipvs_text.py`, and look at the difference.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from netplane.kernel.ipvs import diff
from netplane.kernel.nft.objects import command
from netplane.model.address import Family
from netplane_proxy.plan.ipvs import rows, tables
from netplane_proxy.plan.ipvs.book import Book
from netplane_proxy.plan.ipvs.tables import LAYOUTS
from tests.support import golden
from tests.support.clusters import NODE, decide, endpoint, local, piece, service

FOLDER = Path(__file__).parent / "ipvs"


@pytest.mark.parametrize("family", list(Family), ids=str)
def test_the_table_beside_ipvs_reads_as_agreed(family: Family) -> None:
    golden.check(FOLDER / f"table-{family.name.lower()}.nft", tables.text(LAYOUTS[family], NODE))


def test_beside_ipvs_pods_known_by_interface_are_matched_by_it() -> None:
    named = dataclasses.replace(NODE, pod_cidrs=(), pod_interfaces="cbr0")
    plain, other = (tables.text(LAYOUTS[Family.V4], node) for node in (NODE, named))
    swapped = plain.replace("ip saddr @pod_cidrs", 'iifname "cbr0"').replace(
        "ip saddr != @pod_cidrs", 'iifname != "cbr0"'
    )
    assert other == swapped != plain


def test_servers_and_elements_of_a_service_with_everything_are_as_agreed() -> None:
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
        piece(local("10.244.1.5"), endpoint("10.244.2.6"), ports="http=8080/tcp dns=5353/udp", of="all"),
        piece(local("fd00:244:0:1::5"), ports="http=8080/tcp dns=5353/udp", of="all"),
    )
    made = Book(NODE, scheduler="wlc")
    demand = made.change(dict(facts.ports))
    changes = diff.servers(demand.servers, {}, lingers=rows.lingers)
    lines = [*map(str, changes.grow), *map(str, changes.shrink)]
    lines += sorted(command("add", *pair) for pair in demand.added)
    golden.check(FOLDER / "service-with-everything.txt", "".join(f"{line}\n" for line in lines))
