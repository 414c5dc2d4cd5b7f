"""CAP_NET_ADMIN and CAP_NET_RAW, nothing writable but what the unit names: that is all the proxy needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import confined
from tests.support.least_privilege import RIGHTS, assert_it_suffices
from tests.support.topology import Topology, topology


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    with topology(tmp_path_factory.mktemp("rights")) as made:
        yield made


def test_unit_and_daemon_set_give_the_same_and_no_more() -> None:
    assert confined.unit_capabilities() == confined.daemon_set_capabilities() == ["net_admin", "net_raw"]
    assert confined.service()["NoNewPrivileges"] == ["yes"]
    assert confined.service()["ProtectSystem"] == ["strict"]


@pytest.mark.parametrize("mode", ["nftables", "iptables"])
def test_what_the_unit_gives_suffices(lab: Topology, tmp_path: Path, mode: str) -> None:
    assert_it_suffices(lab, tmp_path, mode, RIGHTS["unit"]())
