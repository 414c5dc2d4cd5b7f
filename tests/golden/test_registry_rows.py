"""Every row of a table is what kubectl prints of the real API: the cases are in registry/rows.yaml."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from netplane.controlplane.registry import tables
from tests.support.registry_objects import NOW, type_of

_CASES = yaml.safe_load((Path(__file__).parent / "registry" / "rows.yaml").read_text())
_TODAY = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize("case", _CASES, ids=lambda case: case["claim"])
def test_rows(case: dict[str, Any]) -> None:
    rt, obj = type_of(case["type"]), case["object"]
    obj["metadata"] = {"name": "it", "creationTimestamp": NOW, **obj.get("metadata", {})}
    table = tables.table(rt, [obj], now=_TODAY)
    assert table["rows"][0]["cells"] == case["cells"]
    assert len(table["columnDefinitions"]) == len(case["cells"])
