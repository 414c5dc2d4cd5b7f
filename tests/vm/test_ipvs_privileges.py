"""What unit and DaemonSet give the proxy is enough for IPVS too: capabilities, and what it may write."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.least_privilege import RIGHTS, assert_it_suffices
from tests.support.topology import Topology


@pytest.mark.timeout(300)
def test_what_the_unit_gives_suffices_for_ipvs(lab: Topology, tmp_path: Path) -> None:
    assert_it_suffices(lab, tmp_path, "ipvs", RIGHTS["unit"]())
