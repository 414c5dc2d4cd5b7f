"""Every fault is found and worded like the real API's: the cases are in registry/faults.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.registry_objects import made, type_of

_CASES = yaml.safe_load((Path(__file__).parent / "registry" / "faults.yaml").read_text())


@pytest.mark.parametrize("case", _CASES, ids=lambda case: case["claim"])
def test_faults(case: dict[str, Any]) -> None:
    _, found = made(type_of(case["type"]), case["object"])
    assert [str(each) for each in found] == case["faults"]
