"""Each file of tests/golden/proxy is a cluster and what becomes of packets in it, by the oracle and by the rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from netplane.kube import decode
from netplane.model import address
from netplane.model.snapshot import Snapshot
from netplane_proxy.plan import ledger, oracle
from tests.support.clusters import NODE
from tests.support.nft_tables import Tables, judge

CASES = sorted((Path(__file__).parent / "proxy").glob("*.yaml"))


def snapshot(objects: list[dict[str, Any]]) -> Snapshot:
    services = [decode.service(obj) for obj in objects if obj["kind"] == "Service"]
    slices = [decode.endpoint_slice(obj) for obj in objects if obj["kind"] == "EndpointSlice"]
    return Snapshot("1", {one.key: one for one in services}, {(one.namespace, one.name): one for one in slices})


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_packets_go_where_the_case_says(path: Path) -> None:
    case = yaml.safe_load(path.read_text())
    forwarding = ledger.of_snapshot(snapshot(case["objects"]), NODE)
    asked = oracle.Oracle(forwarding)
    tables = Tables()
    tables.replace(forwarding)
    for text, expected in case["packets"].items():
        packet = oracle.parse(text, NODE)
        said = asked.verdict(packet)
        assert str(said).partition(" (")[0] == expected, f"{text}: {said}"
        assert judge(tables.simulator(address.family(packet.destination)), packet) == said, text
