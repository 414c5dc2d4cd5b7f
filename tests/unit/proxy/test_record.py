"""What is written down reads back the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings

from netplane.model.snapshot import Snapshot
from netplane_proxy.plan import ledger, record
from netplane_proxy.plan.forwarding import NodeFacts
from netplane_proxy.run import memory
from tests.support.clusters import decide, endpoint, piece, service
from tests.support.random_clusters import nodes, snapshots


@settings(max_examples=50, deadline=None)
@given(snapshots(), nodes())
def test_a_forwarding_reads_back_as_it_was_written(snapshot: Snapshot, node: NodeFacts) -> None:
    forwarding = ledger.of_snapshot(snapshot, node)
    assert record.read(json.loads(json.dumps(record.write(forwarding)))) == forwarding


@pytest.mark.parametrize("value", [{}, {"version": 0}, {"version": 1}, {"version": 1, "ports": [{}]}])
def test_what_was_not_written_by_us_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"version|lacks"):
        record.read(value)


async def test_memory_of_this_boot_is_not_recalled(tmp_path: Path) -> None:
    kept = memory.Memory(tmp_path / "state" / "forwarding.json")
    await kept.keep(decide(service(), piece(endpoint("10.244.2.1"))))
    assert kept.recall() is None


async def test_memory_of_a_former_boot_is_recalled(tmp_path: Path) -> None:
    path = tmp_path / "forwarding.json"
    wanted = decide(service(), piece(endpoint("10.244.2.1")))
    await memory.Memory(path).keep(wanted)
    path.write_text(json.dumps({**json.loads(path.read_text()), "boot": "another"}))
    assert memory.Memory(path).recall() == wanted


@pytest.mark.parametrize("content", ["", "{", "[]", '{"boot": "x", "forwarding": {}}'])
def test_a_broken_file_is_no_memory(tmp_path: Path, content: str) -> None:
    path = tmp_path / "forwarding.json"
    path.write_text(content)
    assert memory.Memory(path).recall() is None


def test_without_a_file_there_is_no_memory(tmp_path: Path) -> None:
    kept = memory.Memory(tmp_path / "none.json")
    assert kept.recall() is None
    kept.forget()
